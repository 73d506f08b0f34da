//! A CSV file of one's own becomes tokens: schema, rows, tokeniser, token table.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use std::error::Error;
use std::io::Write as _;

use nids_flows::{ReadOptions, Schema, TokenKind, Tokeniser, TokeniserConfig, read};

const SCHEMA: &str = "
name: demo
columns:
  - { name: duration, kind: numeric }
  - { name: proto, kind: categorical }
  - { name: bytes, kind: numeric }
  - { name: attack, kind: label }
";

const TRAINING: &str = "\
duration,proto,bytes,attack
0.1,tcp,120,0
2.5,udp,80,0
0.3,tcp,9000,1
7.0,tcp,60,1
";

/// A protocol that training has not seen.
const LATER: &str = "\
proto,bytes,duration
icmp,500,0.2
";

fn main() -> Result<(), Box<dyn Error>> {
    let schema = Schema::parse("demo.yaml", SCHEMA)?;
    let file = |text: &str| -> std::io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(text.as_bytes())?;
        Ok(file)
    };
    let (training, later) = (file(TRAINING)?, file(LATER)?);
    let flows = read(training.path(), &schema, &ReadOptions::labelled())?;
    println!("{} rows, labels {:?}", flows.len(), flows.labels().unwrap_or_default());

    let config = TokeniserConfig { bins: 2, min_count: 1, ..TokeniserConfig::default() };
    let tokeniser = Tokeniser::fit(&flows, &[0, 1, 2, 3], &config)?;
    // columns are found by name, so that their order in the file does not matter
    let later = read(later.path(), &schema, &ReadOptions::default())?;
    for (what, flows) in [("training", &flows), ("later", &later)] {
        let table = tokeniser.tokenise(flows)?;
        for row in 0..table.n_rows() {
            print!("{what} row {row}:");
            for (t, token) in tokeniser.tokens().iter().enumerate() {
                let mut values = vec![0.0; token.width];
                table.expand(row, t, &mut values);
                print!("  {} {values:.2?}", token.feature);
                if let TokenKind::Categorical { n_classes } = token.kind {
                    assert!(values.len() == n_classes && (values.iter().sum::<f32>() - 1.0).abs() < 1e-6, "a one-hot code");
                }
            }
            println!();
        }
        println!("values that training has not seen: {:?}", table.unknown_counts());
        let unknown: usize = table.unknown_counts().iter().map(|(_, n)| n).sum();
        assert_eq!(unknown, usize::from(what == "later"), "icmp is unknown, the rest is not");
    }

    // an error says where, what was found and what was wanted
    let broken = file("duration,proto,bytes,attack\n0.1,tcp,\"1,5\",0\n")?;
    let error = read(broken.path(), &schema, &ReadOptions::labelled()).expect_err("`1,5` is no number");
    println!("{}", error.to_string().replace(&broken.path().display().to_string(), "broken.csv"));
    Ok(())
}
