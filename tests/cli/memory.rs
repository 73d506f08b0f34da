//! Where memory runs short.

use crate::bench::{Bench, on_flows, shell};

const HANGS: i32 = 124; // `timeout` had to end it

#[test]
fn without_address_space_for_openblas_a_command_ends_and_says_so() {
    let bench = Bench::new();
    bench.flows();
    for (run, gemm) in [("with-tiles", "tiles"), ("with-openblas", "openblas")] {
        for stage in ["pretrain", "finetune"] {
            bench.prints(&on_flows(stage, &format!("--set engine.gemm={gemm}")).replace("--run run", &format!("--run {run}")));
        }
    }
    let run = |kib: u32, line: &str| {
        let (code, _, stderr) = shell(&bench, &format!("ulimit -c 0; ulimit -v {kib}; timeout 60 NIDS {line}"));
        assert_ne!(code, Some(HANGS), "{kib} KiB: {line}: {stderr}");
        (code, stderr)
    };
    let mut ends = Vec::new();
    for kib in [170_000, 200_000, 250_000, 300_000, 350_000, 450_000, 600_000, 900_000] {
        assert_eq!(run(kib, "--version").0, Some(0));
        let (code, stderr) = run(kib, "predict --run with-tiles --data flows.csv --output verdicts.csv");
        assert_eq!(code, Some(0), "{kib} KiB, tiles: {stderr}");
        // verdicts never come from OpenBLAS
        let (code, stderr) = run(kib, "predict --run with-openblas --data flows.csv --output verdicts.csv");
        assert_eq!(code, Some(0), "{kib} KiB, OpenBLAS: {stderr}");
        let training = on_flows("pretrain", "--fresh --set engine.gemm=openblas").replace("--run run", "--run again");
        let (code, stderr) = run(kib, &training);
        let says = stderr.contains("no address space for OpenBLAS, which takes 128 MiB a thread");
        assert!(code == Some(0) || code == Some(6) && says, "{kib} KiB, OpenBLAS: {code:?} {stderr}");
        ends.push(code);
        let probe = on_flows("encode", "--set engine.gemm=tiles").replace("--run run", "--run with-tiles");
        let (code, stderr) = run(kib, &probe);
        assert!(code == Some(0) || code == Some(6), "{kib} KiB, encode: {code:?} {stderr}");
    }
    assert_eq!([ends[0], ends[7]], [Some(6), Some(0)]);
}
