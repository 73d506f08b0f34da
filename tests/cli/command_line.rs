//! Help, errors of the command line and of the config, exit codes.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use crate::bench::{Bench, shipped, text};

#[test]
fn help_is_the_manual() {
    insta::assert_snapshot!(Bench::new().prints("--help"), @r"
    Self-supervised intrusion detection on plain CPUs

    A flow record comes in as text and leaves as a verdict. `pretrain` learns from flows without labels,
    `finetune` from a few with labels, `predict` tells attacks from the rest. Each stage leaves its artefacts in a
    run folder, where the next one finds them.

    Usage: nids-mixer [OPTIONS] <COMMAND>

    Commands:
      pretrain     Train an autoencoder, masked or variational, on flows without labels
      encode       Write the latents of every row and print the accuracy of a linear probe
      finetune     Train the classifier
      distil       Train the classifier on what other classifiers say
      sweep        Find how large the network should be, or which settings are best, by short trainings
      calibrate    Choose when a row is an alarm, and make scores probabilities
      adapt        Adapt a trained run to the flows of another network, in seconds
      evaluate     Compare verdicts with the labels of a file
      predict      Write a verdict for every row of a file, with or without labels
      watch        Follow the log of a sensor and append an alert for every flow that looks like an attack
      parts        Say whether the parts that `predict --part` has left are all there, whole and of one input
      report       Write one page about a trained run: what to trust, metrics, curves, settings
      query        Write which rows to label next
      schema       Propose a schema for files of flows: what each column is, and which say what is an attack
      audit        Look at flows before anything is trained on them: leaks, duplicates, contradictory labels,
                   drift
      synth        Write generated flows as CSV, shaped like UNSW-NB15
      cache        List the caches of tokenised rows in folders, or remove them
      bench        Measure how fast this machine trains and gives verdicts
      export       Write a trained network as an ONNX graph, from the values of a flow to a probability
      import       Turn a checkpoint of the numpy MLP-Mixer into safetensors
      completions  Print a script that completes command lines in a shell
      man          Write manual pages, one for each command
      config       Check a config and print it with every default written out
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

      -q, --quiet...
              Tell less on stderr: no progress, only warnings and errors; -qq: errors alone

      -v, --verbose...
              Tell more on stderr: files, threads, and when each line was told

    Examples:
      nids-mixer pretrain --config configs/unsw-nb15.yaml
      nids-mixer finetune --config configs/unsw-nb15.yaml
      nids-mixer evaluate --run runs/unsw-nb15 --data test.csv
      nids-mixer predict --run runs/unsw-nb15 --data today.csv --output verdicts.csv

      From a table that nids-mixer does not know:
      nids-mixer schema flows.csv --output flows.yaml --config my.yaml

      Before training:
      nids-mixer audit train.csv test.csv

      Without data, on generated flows and in seconds:
      nids-mixer pretrain --config configs/tiny.yaml
      nids-mixer finetune --config configs/tiny.yaml
      nids-mixer synth --rows 1000 --seed 1 --output flows.csv
      nids-mixer evaluate --run runs/tiny --data flows.csv

    Results go to stdout, progress and errors to stderr, in colour where that is a
    terminal and NO_COLOR is not set.

    Exit codes:
        0        done
        2        the command line or the config is wrong
        3        a data file is missing or wrong, or its schema or its labels
        4        something in the run folder is missing, stale, truncated or foreign
        5        non-finite values (NaN, Inf), or layers that no longer learn
        6        disk full, permission denied, out of address space and the like
      130, 143   stopped by Ctrl-C, by SIGTERM
    ");
}

#[test]
fn help_of_a_stage_is_its_manual() {
    insta::assert_snapshot!(Bench::new().prints("finetune --help"), @r"
    Train the classifier

    Usage: nids-mixer finetune [OPTIONS]

    Options:
          --config <FILE>      The config; if left out, the one kept in --run
          --set <KEY=VALUE>    Override one setting, as if it had been written in the file; may be repeated
          --run <DIR>          The run folder [default: runs/NAME, with the name from the config]
          --without <NAMES>    Features to train without, as sttl,dttl; as --set data.without=[NAME,...]
          --id <WHAT>          What names a row; as --set data.id=WHAT
          --on-bad-row <WHAT>  What to do with a row that cannot be read: stop or skip; as --set
                               data.on_bad_row=WHAT
          --rejects <FILE>     The file for the rows that are skipped; as --set data.rejects=FILE
          --resume             Go on with a stage that was stopped in the run folder, or start it if none was.
                               This is the default
          --allow-changes      Go on although settings, data or kernels have changed since
          --fresh              Start anew
          --dry-run            Print what would be done and what it would take, in a moment, and write nothing
      -h, --help               Print help
      -q, --quiet...           Tell less on stderr: no progress, only warnings and errors; -qq: errors alone
      -v, --verbose...         Tell more on stderr: files, threads, and when each line was told

    Examples:
      --set seed=1
      --set data.train=flows.csv --set data.unlabelled=null
      --set finetune.labels=100
      --set pretrain.objective.mae.mask_ratio=0.3
      --set pretrain.schedule=constant

    `nids-mixer config --config FILE` prints every key with its value. A key that
    does not exist or a value that makes no sense is an error, and all of them are
    reported at once (exit code 2).

    A stage reads the artefacts of earlier stages from the folder of --run. Without
    --config it uses the config that is kept there. An artefact that was made with
    other settings, or has changed since, is refused (exit code 4); the message
    names the command that makes it.

    A stage that was stopped, by Ctrl-C or in any other way, goes on from its last
    checkpoint when the command is given again, and leaves the same bytes as if it
    had not been stopped. If settings, data or kernels have changed since, the
    stage refuses (exit code 4): see --allow-changes and --fresh. One process at a
    time works in a run folder.
    ");
}

#[test]
fn every_command_has_help() {
    let commands =
        "pretrain encode finetune distil calibrate adapt report evaluate predict query schema audit synth cache import config";
    for command in commands.split(' ') {
        assert!(Bench::new().prints(&format!("{command} --help")).contains("Usage: nids-mixer"));
    }
}

#[test]
fn flows_in_partitions_are_the_rows_of_one_file() {
    let bench = Bench::new();
    let rows = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let whole = rows(&bench.prints("synth --rows 50 --seed 3"));
    assert_eq!(bench.prints("synth --rows 50 --seed 3 --output parts --partitions 4"), "");
    let parts = ["part-00000.csv", "part-00001.csv", "part-00002.csv", "part-00003.csv"];
    let parts = parts.map(|name| rows(&fs::read_to_string(bench.path("parts").join(name)).unwrap()));
    assert_eq!(parts.each_ref().map(Vec::len), [12, 13, 12, 13]);
    assert_eq!(parts.concat(), whole);
    assert!(bench.fails("synth --rows 50 --partitions 4").contains("--output"));
}

#[test]
fn caches_are_listed_and_removed() {
    let bench = Bench::new();
    bench.prints("synth --rows 300 --seed 4 --output flows.csv");
    bench.file(
        "c.yaml",
        "name: c\ndata: { train: flows.csv, cache: rows }\nmodel: { dim: 8, depth: 1 }\npretrain: { steps: 2, batch_size: 16 }\n",
    );
    bench.prints("pretrain --config c.yaml --run run");
    let keys: Vec<String> =
        fs::read_dir(bench.path("rows")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    let listed = bench.prints("cache rows");
    assert!(listed.starts_with(&format!("rows/{key}: 300 rows, ")), "{listed}");
    assert_eq!(bench.prints("cache --clean rows"), "rows: 1 cache removed, 0 MiB freed\n");
    assert_eq!(bench.prints("cache rows"), "rows: no caches\n");
    insta::assert_snapshot!(bench.fails("cache none"), @"
    exit code 2
    error: none: no such folder: name the folder of `data.cache`, or a run folder
    ");
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let bench = Bench::new();
    let all =
        ["frobnicate", "pretrain --conifg x", "evaluate --run x", "synth --rows many", "pretrain"].map(|args| bench.fails(args));
    insta::assert_snapshot!(all.join("\n"), @r"
    exit code 2
    error: unrecognized subcommand 'frobnicate'

      tip: a similar subcommand exists: 'calibrate'

    Usage: nids-mixer [OPTIONS] <COMMAND>

    For more information, try '--help'.

    exit code 2
    error: unexpected argument '--conifg' found

      tip: a similar argument exists: '--config'

    Usage: nids-mixer pretrain --config <FILE>

    For more information, try '--help'.

    exit code 2
    error: the following required arguments were not provided:
      --data <FILE>...

    Usage: nids-mixer evaluate --run <DIR> --data <FILE>...

    For more information, try '--help'.

    exit code 2
    error: invalid value 'many' for '--rows <N>': invalid digit found in string

    For more information, try '--help'.

    exit code 2
    error: expected `--config FILE`, or `--run DIR` of a run that keeps a config: neither is given
    ");
}

#[test]
fn every_problem_of_a_config_is_a_line_of_its_own() {
    let bench = Bench::new();
    bench.file("bad.yaml", "name: bad\nsede: 1\nmodel:\n  dim: abc\n  dropout: 1.5\nmodel: {}\n");
    insta::assert_snapshot!(bench.fails("config --config bad.yaml"), @r"
    exit code 2
    error: bad.yaml:6:1: `model` is written twice (first at bad.yaml:3:1)
    ");
    bench.file("bad.yaml", "name: bad\nsede: 1\nmodel:\n  dim: abc\n  dropout: 1.5\n");
    insta::assert_snapshot!(bench.fails("pretrain --config bad.yaml --set finetune.lables=3 --set seed=x"), @r"
    exit code 2
    error: bad.yaml:2:1: unknown key `sede`: did you mean `seed`?
    error: bad.yaml:4:8: `model.dim`: expected a whole number between 1 and 4096, found `abc`
    error: bad.yaml:5:12: `model.dropout`: expected a number from 0 to below 1, found `1.5`
    error: --set finetune.lables=3: unknown key `finetune.lables`: did you mean `finetune.labels`?
    error: --set seed=x: `seed`: expected a whole number from 0 up, found `x`
    ");
    assert!(!bench.path("runs").exists(), "nothing is made before the config is good");
}

#[test]
fn a_missing_config_or_run_folder_is_named() {
    let bench = Bench::new();
    fs::create_dir(bench.path("empty")).unwrap();
    bench.file("a-file", "");
    let all = [
        "pretrain --config none.yaml",
        "finetune --run none",
        "finetune --run empty",
        "evaluate --run none --data x.csv",
        "predict --run empty/none --data x.csv",
        "evaluate --run a-file --data x.csv",
    ]
    .map(|args| bench.fails(args));
    insta::assert_snapshot!(all.join("\n"), @r"
    exit code 2
    error: none.yaml: cannot read the config: No such file or directory (os error 2)

    exit code 4
    error: none: no such run folder: run `nids-mixer pretrain --config FILE --run none` first

    exit code 4
    error: empty/config.yaml: missing: give a config with `--config FILE`

    exit code 4
    error: none: no such run folder: run `nids-mixer pretrain --config FILE --run none` first

    exit code 4
    error: empty/none: no such run folder: run `nids-mixer pretrain --config FILE --run empty/none` first

    exit code 4
    error: a-file: no such run folder: run `nids-mixer pretrain --config FILE --run a-file` first
    ");
    let file = format!("pretrain --config {} --run a-file", shipped("tiny.yaml"));
    insta::assert_snapshot!(bench.fails(&file), @r"
    exit code 6
    error: a-file: cannot make the run folder: File exists (os error 17)
    ");
}

#[test]
fn a_resolved_config_resolves_to_itself() {
    let bench = Bench::new();
    let first = bench.prints(&format!("config --config {} --set seed=7", shipped("tiny.yaml")));
    assert!(first.contains("seed: 7\n"), "{first}");
    bench.file("resolved.yaml", &first);
    assert_eq!(bench.prints("config --config resolved.yaml"), first);
}

#[test]
fn synthetic_flows_are_the_same_on_stdout_and_in_a_file() {
    let bench = Bench::new();
    let printed = bench.prints("synth --rows 50 --seed 3");
    assert_eq!(printed.lines().count(), 51);
    assert_eq!(bench.prints("synth --rows 50 --seed 3 --output flows.csv"), "");
    assert_eq!(fs::read_to_string(bench.path("flows.csv")).unwrap(), printed);
    assert_ne!(bench.prints("synth --rows 50 --seed 4"), printed);
    insta::assert_snapshot!(bench.fails("synth --rows 5 --output none/flows.csv"), @r#"
    exit code 6
    error: none/flows.csv: cannot write: entity not found
    "#);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let bench = Bench::new();
    let mut child = bench.command("synth --rows 20000").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn bench_measures_what_it_is_asked_for() {
    let bench = Bench::new();
    let text =
        bench.prints("bench --only M32,latency --steps 1 --threads 2 --gemm tiles --set model.dim=8 --set model.depth=1 --json");
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let names: Vec<_> = report["results"].as_array().unwrap().iter().map(|result| result["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["M32", "latency"]);
    assert_eq!(report["threads"], 2);
    assert!(report["kernels"].as_str().unwrap().starts_with("tiles, "));
    assert!(report["results"][0]["step_s"].as_f64().unwrap() > 0.0 && report["peak_gflops"].as_f64().unwrap() > 0.0);
    // `--gemm` goes before what the config says of precision
    for (gemm, other, kernels) in [("tiles", "engine.precision=bf16", "tiles, "), ("bf16", "engine.gemm=openblas", "bf16 tiles")]
    {
        let text = bench.prints(&format!("bench --only latency --steps 1 --gemm {gemm} --set {other} --set model.dim=8 --json"));
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(report["kernels"].as_str().unwrap().starts_with(kernels), "{gemm}: {report}");
    }
    bench.prints("synth --rows 50 --output flows.csv");
    let text = bench.prints("bench --only read --data flows.csv --steps 1 --set model.dim=8 --set model.depth=1 --json");
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let read = &report["results"][0];
    assert_eq!(
        (read["file"].as_str(), read["rows"].as_u64(), read["kind"].as_str()),
        (Some("flows.csv"), Some(50), Some("read"))
    );
    assert!(read["tokens_per_s"].as_f64() > Some(0.0) && read["verdicts_per_s"].as_f64() > Some(0.0), "{report}");
    assert!(bench.fails("bench --only predict --data flows.csv").contains("--data: only `read` reads files"));
    insta::assert_snapshot!(bench.fails("bench --only M33"), @r"
    exit code 2
    error: --only: expected any of `S`, `M`, `L`, `M32`, `mae`, `predict`, `read`, `latency`, found `M33`
    ");
}

#[test]
fn import_reads_a_checkpoint_or_says_what_is_in_it() {
    let bench = Bench::new();
    let header = format!("{:117}\n", "{'descr': '|O', 'fortran_order': False, 'shape': (), }");
    let npy = |pickle: &[u8]| [b"\x93NUMPY\x01\x00v\x00", header.as_bytes(), pickle].concat();
    bench.file("harm.npy", npy(b"\x80\x03cos\nsystem\nX\x0a\x00\x00\x00touch harm\x85R."));
    bench.file("flows.npy", "id,dur\n1,2\n");
    let all = ["harm.npy", "flows.npy", "none.npy"].map(|name| bench.fails(&format!("import {name} --output out.safetensors")));
    assert!(!bench.path("harm").exists() && !bench.path("out.safetensors").exists());
    insta::assert_snapshot!(all.join("\n"), @r"
    exit code 3
    error: harm.npy: refused at byte 130, opcode 0x63 (`c`): names `os.system`; only numpy's `_reconstruct`, `ndarray` and `dtype` are known, and nothing is executed

    exit code 3
    error: flows.npy: not an `.npy` file; expected what `numpy.save` makes of one object: is it a checkpoint of the numpy MLP-Mixer?

    exit code 3
    error: none.npy: cannot read: No such file or directory (os error 2)
    ");
    let checkpoint = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data/checkpoint.npy");
    let (_, told) = bench.prints_and_tells(&format!("import {} --output out.safetensors", checkpoint.display()));
    assert!(told.contains("parameters in 2 blocks") && bench.path("out.safetensors").is_file(), "{told}");
}
