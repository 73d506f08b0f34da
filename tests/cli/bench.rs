//! A folder to run commands in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use ndarray::Ix1;
use nids_store::artefacts::{digest, write_atomic};
use nids_store::npy;
use serde_json::Value as Json;
use tempfile::TempDir;

/// configs/tiny.yaml, made smaller still: a stage takes a tenth of a second.
const SMALL: &str = "--set model.dim=8 --set model.depth=1 --set tokeniser.bins=4 --set tokeniser.min_count=2 \
    --set data.synthetic.rows=300 --set data.synthetic.unlabelled_rows=100 \
    --set pretrain.steps=6 --set pretrain.batch_size=32 --set pretrain.log_every=2 \
    --set finetune.steps=10 --set finetune.batch_size=32 --set finetune.log_every=2 --set finetune.eval_every=5";

pub(crate) struct Bench {
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// With `flows.csv` and, trained on it, the folder `run`.
    pub(crate) fn trained() -> Self {
        static TRAINED: LazyLock<Bench> = LazyLock::new(|| {
            let bench = Bench::new();
            bench.flows();
            for stage in ["pretrain", "encode", "finetune"] {
                bench.prints(&small(stage, "run", "--set data.train=flows.csv"));
            }
            bench
        });
        let bench = Self::new();
        copy_folder(TRAINED.folder.path(), bench.folder.path());
        bench
    }

    /// Generated flows as `flows.csv`; their text.
    pub(crate) fn flows(&self) -> String {
        self.prints("synth --rows 300 --seed 4 --output flows.csv");
        self.read("flows.csv")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        write_atomic(&self.path(name), |out| out.write_all(content.as_ref())).unwrap();
        self
    }

    pub(crate) fn read(&self, name: &str) -> String {
        text(&self.bytes(name))
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The lines of `run`'s metrics.jsonl that a stage wrote.
    pub(crate) fn metrics(&self, run: &str, stage: &str) -> Vec<Json> {
        self.lines(&format!("{run}/metrics.jsonl"), stage)
    }

    /// The lines of a file that a stage wrote.
    pub(crate) fn lines(&self, name: &str, stage: &str) -> Vec<Json> {
        let lines = self.read(name);
        let lines = lines.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
        lines.filter(|line| line["stage"] == stage).collect()
    }

    /// The rows of `flows.csv` that are not held out, as `encode` has left them in `run`.
    pub(crate) fn training_rows(&self) -> Vec<u32> {
        let mut rows = npy::read::<u32, Ix1>(&self.path("run/latents/rows_train.npy")).unwrap().to_vec();
        rows.sort_unstable();
        rows.dedup(); // noisy copies repeat them
        rows
    }

    /// Writes an artefact of `run` and makes its manifest agree, as one would who means harm.
    pub(crate) fn forge(&self, stage: &str, artefact: &str, content: &[u8]) {
        self.file(&format!("run/{artefact}"), content);
        let name = format!("run/manifest-{stage}.json");
        let mut manifest: Json = serde_json::from_slice(&self.bytes(&name)).unwrap();
        let found = digest(&self.path(&format!("run/{artefact}"))).unwrap();
        manifest["outputs"][artefact] = serde_json::to_value(found).unwrap();
        self.file(&name, manifest.to_string());
    }

    pub(crate) fn command(&self, args: &str) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_nids-mixer")), args)
    }

    /// The command line of a copy of the program.
    pub(crate) fn command_of(&self, program: &Path, args: &str) -> Command {
        let mut command = Command::new(program);
        command.args(args.split_whitespace()).current_dir(self.folder.path()).env("COLUMNS", "110");
        command
    }

    /// Whatever the input, the program never panics.
    pub(crate) fn run(&self, args: &str) -> Output {
        let output = self.command(args).output().unwrap();
        let stderr = text(&output.stderr);
        assert!(output.status.code().is_some() && !stderr.contains("panicked at"), "{args}: {}: {stderr}", output.status);
        output
    }

    /// Exit code and errors of a command that must print nothing on stdout.
    pub(crate) fn fails(&self, args: &str) -> String {
        let output = self.run(args);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args}: {}", text(&output.stdout));
        let stderr = text(&output.stderr);
        let errors = &stderr[stderr.find("error: ").unwrap_or_else(|| panic!("{args}: no error in {stderr}"))..];
        format!("exit code {}\n{errors}", output.status.code().unwrap())
    }

    /// stdout of a command that must succeed.
    pub(crate) fn prints(&self, args: &str) -> String {
        self.prints_and_tells(args).0
    }

    /// stdout and stderr of a command that must succeed.
    pub(crate) fn prints_and_tells(&self, args: &str) -> (String, String) {
        let output = self.run(args);
        assert!(output.status.success(), "{args}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    }
}

/// The command line of a stage at the smallest size.
pub(crate) fn small(stage: &str, run: &str, more: &str) -> String {
    format!("{stage} --config {} --run {run} {SMALL} {more}", shipped("tiny.yaml"))
}

/// A stage at the smallest size on `flows.csv`.
pub(crate) fn on_flows(stage: &str, more: &str) -> String {
    small(stage, "run", &format!("--set data.train=flows.csv {more}"))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn shipped(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name).display().to_string()
}

/// A CSV file whose lines pass through `change`, line 0 being the header; cells hold no commas.
pub(crate) fn edit(csv: &str, mut change: impl FnMut(usize, &mut Vec<String>)) -> String {
    let mut out = String::new();
    for (line, text) in csv.lines().enumerate() {
        let mut cells: Vec<String> = text.split(',').map(str::to_owned).collect();
        change(line, &mut cells);
        out.push_str(&cells.join(","));
        out.push('\n');
    }
    out
}

/// A CSV file in which all rows have `cell` in a column.
pub(crate) fn filled(csv: &str, name: &str, cell: &str) -> String {
    let at = column(csv, name);
    edit(csv, |line, cells| {
        if line > 0 {
            cell.clone_into(&mut cells[at]);
        }
    })
}

/// Where a column stands in a CSV file.
pub(crate) fn column(csv: &str, name: &str) -> usize {
    csv.lines().next().unwrap().split(',').position(|found| found == name).unwrap()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A shell command line, with `NIDS` for the program.
pub(crate) fn shell(bench: &Bench, line: &str) -> (Option<i32>, String, String) {
    let line = line.replace("NIDS", env!("CARGO_BIN_EXE_nids-mixer"));
    let output = Command::new("bash").args(["-c", &line]).current_dir(bench.path("")).output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}
