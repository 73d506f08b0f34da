//! However many threads OpenBLAS is told to use, each fit has the same bits.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a test tells the process that it starts what to print")]

use std::process::Command;

use ndarray::Array2;
use nids_heads::{KernelConfig, KernelMachine, LogisticRegression, Pca};

/// What a process that has this variable does: prints the bits of one fit, which is the first thing that it asks of OpenBLAS.
const CHILD: &str = "NIDS_HEADS_FIT";

/// sin(1²), sin(2²), ... by rows, and labels by the first column.
fn rows(n: usize, columns: usize) -> (Array2<f64>, Vec<f64>) {
    let x = Array2::from_shape_fn((n, columns), |(row, column)| ((row * columns + column + 1) as f64).powi(2).sin());
    let labels = x.column(0).iter().map(|&value| f64::from(u8::from(value > 0.1))).collect();
    (x, labels)
}

fn bits<'a>(numbers: impl IntoIterator<Item = &'a f64>) -> u64 {
    numbers.into_iter().fold(0, |hash: u64, number| (hash.rotate_left(5) ^ number.to_bits()).wrapping_mul(0x517c_c1b7_2722_0a95))
}

fn fit(head: &str) -> u64 {
    match head {
        "pca" => {
            let (x, _) = rows(700, 400);
            bits(Pca::fit(&x.mapv(|value| value as f32), 30).unwrap().parts().weight.iter())
        }
        "logistic" => {
            let (x, labels) = rows(900, 250);
            bits(LogisticRegression::fit(&x, &labels, None, 1.0).unwrap().parts().weight.iter())
        }
        _ => {
            let (x, labels) = rows(500, 60);
            bits(KernelMachine::fit(&x, &labels, None, KernelConfig::default()).unwrap().parts().dual.iter())
        }
    }
}

#[test]
fn threads_of_openblas_change_no_bit() {
    if let Ok(head) = std::env::var(CHILD) {
        println!("bits {:016x}", fit(&head));
        return;
    }
    for head in ["pca", "logistic", "kernel"] {
        let found = ["1", "2", "4"].map(|threads| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "threads_of_openblas_change_no_bit", "--nocapture"]);
            let output = child.env(CHILD, head).env("OPENBLAS_NUM_THREADS", threads).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.split("bits ").nth(1).unwrap_or_else(|| panic!("{head}: {text}"))[..16].to_owned()
        });
        assert!(found.iter().all(|bits| *bits == found[0]), "{head}: {found:?}");
    }
}
