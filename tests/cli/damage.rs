//! Run folders that a disk, a neighbour or an attacker has been at.

use std::fs;
use std::process::Stdio;

use ndarray::{Array1, Array2};
use nids_store::npy;

use crate::bench::{Bench, on_flows, shipped, text};

const EVALUATE: &str = "evaluate --run run --data flows.csv --json";
/// An artefact, the stage that makes it, and settings of a finetune that reads it; none: evaluate does.
const ARTEFACTS: [(&str, &str, Option<&str>); 7] = [
    ("model.safetensors", "finetune", None),
    ("tokeniser.json", "finetune", None),
    ("profile.json", "finetune", None),
    ("pretrained.safetensors", "pretrain", Some("")),
    ("tokeniser.json", "pretrain", Some("")),
    ("latents/train.npy", "encode", Some("--set finetune.from=latents")),
    ("latents/rows_train.npy", "encode", Some("--set finetune.from=latents")),
];

fn reader(settings: Option<&str>) -> String {
    settings.map_or_else(|| EVALUATE.to_owned(), |settings| on_flows("finetune", settings))
}

/// The `i`-th of a fixed sequence of numbers below `n` that goes everywhere.
fn somewhere(i: usize, n: usize) -> usize {
    (i * 7919 + i * i * 104_729) % n
}

#[test]
fn what_has_changed_since_it_was_written_is_not_used() {
    let mut all = String::new();
    for (name, _, settings) in ARTEFACTS {
        let bench = Bench::trained();
        let (file, whole) = (format!("run/{name}"), bench.bytes(&format!("run/{name}")));
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [&whole[..whole.len() - 1], b"id,dur\n", &flipped] {
            bench.file(&file, damaged);
            all.push_str(&bench.fails(&reader(settings)));
        }
        fs::remove_file(bench.path(&file)).unwrap();
        all.push_str(&bench.fails(&reader(settings)));
    }
    insta::with_settings!({filters => vec![(r"[0-9]+ bytes of [0-9]+", "N bytes of M")]}, { insta::assert_snapshot!(all) });
}

#[test]
fn a_damaged_file_is_refused_by_its_own_reader_too() {
    let mut all = String::new();
    for (name, stage, settings) in ARTEFACTS {
        let bench = Bench::trained();
        let whole = bench.bytes(&format!("run/{name}"));
        for damaged in [b"".as_slice(), b"id,dur\n1,2\n", &whole[..whole.len() - 1], &whole[..whole.len() / 2]] {
            bench.forge(stage, name, damaged);
            all.push_str(&bench.fails(&reader(settings)));
        }
    }
    insta::with_settings!({filters => vec![(r"line [0-9]+ column [0-9]+", "line L column C"), (r"missing [0-9]+ bytes", "missing N bytes")]}, { insta::assert_snapshot!(all) });
}

#[test]
fn no_flipped_bit_or_cut_is_a_panic() {
    for (name, stage, settings) in ARTEFACTS {
        let bench = Bench::trained();
        let whole = bench.bytes(&format!("run/{name}"));
        for i in 0..24 {
            let mut damaged = whole.clone();
            match i % 3 {
                0 => damaged.truncate(somewhere(i, whole.len())),
                // headers are at the start
                1 => damaged[somewhere(i, whole.len().min(300))] ^= 1 << (i % 8),
                _ => damaged[somewhere(i, whole.len())] ^= 1 << (i % 8),
            }
            bench.forge(stage, name, &damaged);
            let code = bench.run(&reader(settings)).status.code().unwrap();
            assert!([0, 3, 4, 5].contains(&code), "{name}, damage {i}: exit code {code}");
        }
    }
}

#[test]
fn weights_of_another_network_are_listed() {
    let (bench, other) = (Bench::trained(), Bench::trained());
    other.prints(&on_flows("finetune", "--set finetune.from=scratch --set model.dim=4"));
    bench.forge("finetune", "model.safetensors", &other.bytes("run/model.safetensors"));
    let found = bench.fails(EVALUATE);
    assert!(
        found.starts_with("exit code 4")
            && found.contains("`encoder.embed.dur.weight` has shape [4, ")
            && found.contains(" more: run"),
        "{found}"
    );
    other.prints("synth --rows 40 --seed 7 --output few.csv");
    other
        .prints(&on_flows("finetune", "--set finetune.from=scratch --set data.train=few.csv --set data.validation_fraction=0.5"));
    bench.forge("finetune", "tokeniser.json", &other.bytes("run/tokeniser.json"));
    assert!(bench.fails(EVALUATE).starts_with("exit code 4"));
}

#[test]
fn latents_that_fit_nothing_are_refused() {
    let bench = Bench::trained();
    let finetune = on_flows("finetune", "--set finetune.from=latents");
    let forge = |name: &str, fill: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        fill(&mut bytes);
        bench.forge("encode", name, &bytes);
        bench.fails(&finetune)
    };
    let train = "latents/train.npy";
    let mut all = forge(train, &|out| npy::write(&Array2::<f32>::zeros((3, 5)), out).unwrap());
    all += &forge(train, &|out| npy::write(&Array2::<f64>::zeros((480, 8)), out).unwrap());
    all += &forge(train, &|out| npy::write(&Array2::<f32>::from_elem((480, 8), f32::NAN), out).unwrap());
    bench.forge("encode", train, &{
        let mut bytes = Vec::new();
        npy::write(&Array2::<f32>::zeros((0, 8)), &mut bytes).unwrap();
        bytes
    });
    all += &forge("latents/rows_train.npy", &|out| npy::write(&Array1::<u32>::zeros(0), out).unwrap());
    bench.forge("encode", train, &{
        let mut bytes = Vec::new();
        npy::write(&Array2::<f32>::zeros((1, 8)), &mut bytes).unwrap();
        bytes
    });
    all += &forge("latents/rows_train.npy", &|out| npy::write(&ndarray::arr1(&[9_999_u32]), out).unwrap());
    insta::assert_snapshot!(all);
}

#[test]
fn a_manifest_that_is_none_is_refused() {
    let bench = Bench::trained();
    let name = "run/manifest-finetune.json";
    let whole = bench.read(name);
    let mut all = String::new();
    for damaged in [
        String::new(),
        whole[..20].to_owned(),
        "{}".to_owned(),
        "[".repeat(100_000),
        whole.replace("\"version\": 1", "\"version\": 2"),
        whole.replace("\"stage\": \"finetune\"", "\"stage\": \"encode\""),
        whole.replace("\"dim\": 8", "\"dim\": -8"),
        whole.replace("model.safetensors", "../model.safetensors"),
        bench.read("run/manifest-encode.json"),
    ] {
        assert_ne!(damaged, whole);
        bench.file(name, &damaged);
        all.push_str(&bench.fails(EVALUATE));
    }
    insta::with_settings!({filters => vec![(r"line [0-9]+ column [0-9]+", "line L column C")]}, { insta::assert_snapshot!(all) });
}

#[test]
fn a_config_or_metrics_file_that_was_edited_does_no_harm() {
    let bench = Bench::trained();
    bench.file("run/config.yaml", "name: [").file("run/metrics.jsonl", b"no json \xff\n{\"stage\":\"encode\"}\n[]\n");
    bench.prints(EVALUATE);
    bench.prints(&on_flows("finetune", ""));
    assert!(bench.read("run/metrics.jsonl").starts_with("{\"stage\":\"encode\"}\n{\"stage\":\"finetune\""));
    bench.file("run/config.yaml", "name: [");
    insta::assert_snapshot!(bench.fails("finetune --run run"));
}

#[cfg(unix)]
#[test]
fn a_folder_or_disk_that_takes_nothing_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    /// The user that owns nothing.
    const NOBODY: u32 = 65534;

    let bench = Bench::trained();
    insta::assert_snapshot!(bench.fails("predict --run run --data flows.csv --output /dev/full"));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = bench.command(EVALUATE).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).contains("error: stdout: cannot write")), (Some(6), true));

    let modes = |run| {
        for (name, mode) in [("", 0o755), ("run", run)] {
            fs::set_permissions(bench.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    modes(0o555);
    // root may write there all the same, so that the command gives root up, and is where it can still be read
    let probe = bench.path("run/probe");
    let is_root = nids_store::artefacts::write_atomic(&probe, |_| Ok(())).is_ok();
    let as_a_user = |args: &str| {
        let mut command = bench.command(args);
        if is_root {
            command = bench.command_of(&bench.path("nids-mixer"), &args.replace(&shipped("tiny.yaml"), "tiny.yaml"));
            command.uid(NOBODY);
        }
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    if is_root {
        fs::remove_file(probe).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_nids-mixer"), bench.path("nids-mixer")).unwrap();
        fs::copy(shipped("tiny.yaml"), bench.path("tiny.yaml")).unwrap();
    }
    let (code, error) = as_a_user(&on_flows("finetune", ""));
    assert!(code == Some(6) && error.contains("Permission denied"), "{code:?} {error}");
    let (code, error) = as_a_user(EVALUATE);
    assert_eq!(code, Some(0), "{error}");
    modes(0o755);
}
