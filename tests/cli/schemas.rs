//! From a table that nobody knows to verdicts.

use std::fmt::Write as _;

use crate::bench::Bench;

/// Flows of a tool of our own: semicolons, names of its own, a label in words. Attacks are short and answered with little.
fn table(rows: u32) -> String {
    let mut csv = String::from("when;client ip;client port;server port;seconds;sent;got;end;answer: code;judged\n");
    let mut state = 1_u64;
    let mut below = |n: u64| {
        state = (state * 1_103_515_245 + 12_345) & 0x7fff_ffff;
        (state >> 8) % n
    };
    for row in 0..rows {
        let attack = below(10) < 4;
        let got = if attack { below(300) } else { 100 + below(5000) };
        let end = if attack { ["reset", "silent"] } else { ["closed", "silent"] }[below(2) as usize];
        let port = [80, 443, 22, 53][below(4) as usize];
        writeln!(
            csv,
            "2026-01-0{} 10:{:02}:00;10.0.0.{};{};{port};{}.{};{};{got};{end};ok;{}",
            1 + row / 1000,
            row % 60,
            below(200),
            1024 + below(60_000),
            if attack { 0 } else { below(5) },
            below(1000),
            60 + below(900),
            ["benign", "scan"][usize::from(attack)]
        )
        .unwrap();
    }
    csv
}

#[test]
fn a_table_of_ones_own_gets_a_schema_with_reasons() {
    let bench = Bench::new();
    bench.file("own.csv", table(400));
    let (yaml, told) = bench.prints_and_tells("schema own.csv");
    insta::assert_snapshot!(format!("{yaml}---\n{told}"));
}

#[test]
fn three_commands_lead_from_a_table_to_a_trained_run() {
    let bench = Bench::new();
    bench.file("own.csv", table(1200));
    assert_eq!(bench.prints("schema own.csv --output own.yaml --config my.yaml"), "");
    insta::assert_snapshot!(bench.read("my.yaml"));
    let small =
        "--set model.dim=16 --set model.depth=1 --set pretrain.steps=20 --set finetune.steps=100 --set finetune.batch_size=64";
    bench.prints(&format!("pretrain --config my.yaml {small}"));
    bench.prints(&format!("finetune --config my.yaml {small}"));
    let verdicts = bench.prints("predict --run runs/own --data own.csv");
    let table = table(1200);
    let rows = verdicts.lines().skip(1).zip(table.lines().skip(1));
    let right = rows.map(|(verdict, row)| usize::from(verdict.ends_with("attack") == row.ends_with("scan"))).sum::<usize>();
    assert!(right > 1000, "{right} of 1200 verdicts are right");
}

#[test]
fn a_known_format_is_named() {
    let bench = Bench::new();
    bench.flows();
    let (yaml, told) = bench.prints_and_tells("schema flows.csv --config my.yaml");
    assert!(yaml.contains("\nname: unsw-nb15\n"), "{yaml}");
    assert!(told.contains("`data.schema: unsw-nb15` does"), "{told}");
    let config = bench.read("my.yaml");
    assert!(config.contains("schema: unsw-nb15\n") && config.contains("train: [flows.csv]\n"), "{config}");
}

#[test]
fn a_schema_is_not_written_over_what_is_read() {
    let bench = Bench::new();
    bench.file("own.csv", table(50)).file("my.yaml", "name: mine\n");
    let all = [
        "schema own.csv --output own.csv",
        "schema own.csv --output a.yaml --config own.csv",
        "schema own.csv --output a.yaml --config a.yaml",
        "schema own.csv --config my.yaml",
        "schema own.csv --output a.yaml --config none/my.yaml",
        "schema - --output a.yaml --config my.yaml",
        "schema own.csv --label juged",
        "schema none.csv",
    ]
    .map(|args| bench.fails(args));
    insta::assert_snapshot!(all.join("\n"));
    assert_eq!((bench.read("own.csv"), bench.read("my.yaml")), (table(50), "name: mine\n".to_owned()));
    assert!(!bench.path("a.yaml").exists(), "both files appear or none");
}
