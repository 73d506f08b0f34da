//! A page about scores of our own: `cargo run -p nids-report --example page > page.html`.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use nids_eval::metrics::{Evaluation, Metrics};
use nids_report::{Check, Report, Series, Status, Training};

fn main() -> Result<(), nids_eval::Error> {
    let probabilities: Vec<f32> = (0..100).map(|i| i as f32 / 100.0).collect();
    let labels: Vec<u8> = (0..100).map(|i| u8::from(i > 60 || i % 9 == 0)).collect();
    let held_out = Evaluation::new(Metrics::new(&probabilities, &labels, 0.5)?, &probabilities, &labels, 0.5, None);
    let points = (1..50).map(|step| (f64::from(step), 1.0 / f64::from(step))).collect();
    let loss = vec![Series { name: "training".to_owned(), points }];
    let report = Report {
        name: "a demonstration".to_owned(),
        checks: vec![Check {
            status: Status::Warn,
            what: "Rows",
            found: "100 rows are few".to_owned(),
            advice: "label more".to_owned(),
        }],
        trainings: vec![Training { stage: "finetune".to_owned(), loss, ..Training::default() }],
        ..Report::of(held_out)
    };
    println!("{}", report.html());
    Ok(())
}
