//! Small runs on small data of our own, for tests of the stages.

use std::fs;
use std::path::{Path, PathBuf};

use nids_kernels::Key;
use nids_nn::ParamTable;
use nids_nn::engine::{Engine, Loss, Objective, Sample};
use serde_json::Value as Json;
use tempfile::TempDir;

use nids_config::Config;
use nids_store::artefacts::write_atomic;
use nids_store::progress::{Event, Progress};
use nids_store::run::Run;

/// Six features of generated flows: a network over them is quick.
const SCHEMA: &str = "name: small
id: id
columns:
  - { name: id, kind: ignored }
  - { name: dur, kind: numeric }
  - { name: proto, kind: categorical }
  - { name: state, kind: categorical }
  - { name: sbytes, kind: numeric }
  - { name: dbytes, kind: numeric }
  - { name: sttl, kind: numeric }
  - { name: attack_cat, kind: category }
  - { name: label, kind: label }
";

/// A folder with `schema.yaml`, for data and run folders.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("schema.yaml", SCHEMA);
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        write_atomic(&self.path(name), |out| out.write_all(content.as_ref())).unwrap();
    }

    pub(crate) fn run(&self, name: &str) -> Run {
        Run::create(&self.path(name)).unwrap()
    }

    /// A config of these settings alone, in which `DIR` is this folder; the last of a name wins.
    pub(crate) fn config(&self, settings: &[&[&str]]) -> Config {
        let dir = self.0.path().display().to_string();
        let overrides: Vec<String> = settings.concat().iter().map(|setting| setting.replace("DIR", &dir)).collect();
        Config::parse("{}", "c.yaml", &overrides).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// What is told on the way.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Vec<String>);

impl Progress for Told {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Message(text) = event {
            self.0.push(text.to_owned());
        }
    }
}

/// Generated flows as CSV, with all columns that they have.
pub(crate) fn flows(rows: usize, seed: u64) -> String {
    let mut csv = Vec::new();
    nids_flows::write_csv(&nids_flows::synthetic(rows, seed), &mut csv).unwrap();
    String::from_utf8(csv).unwrap()
}

/// The cells of a CSV file, the header among them; none holds a comma.
pub(crate) fn cells(csv: &str) -> Vec<Vec<String>> {
    csv.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

/// [`cells`] as CSV.
pub(crate) fn csv(cells: &[Vec<String>]) -> String {
    cells.iter().map(|cells| cells.join(",") + "\n").collect()
}

/// Where a column stands in [`cells`].
pub(crate) fn column(cells: &[Vec<String>], name: &str) -> usize {
    cells[0].iter().position(|found| found == name).unwrap()
}

/// The lines of a run folder's `metrics.jsonl`.
pub(crate) fn metrics(folder: &Path) -> Vec<Json> {
    lines(folder, "metrics.jsonl")
}

/// The lines of a file of a run folder, each a JSON text.
pub(crate) fn lines(folder: &Path, name: &str) -> Vec<Json> {
    let text = fs::read_to_string(folder.join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// By how much the slope of a loss along its gradient differs from the gradient's length, over the latter: 0 but for rounding, unless
/// one of the two lacks what the other has.
pub(crate) fn slope_error(
    objective: &dyn Objective<f32>,
    table: &ParamTable,
    engine: &mut Engine<f32>,
    samples: &[Sample],
) -> f64 {
    const STEP: u64 = 2;
    const AHEAD: f32 = 1e-3;
    let (key, params) = (Key::new(3), table.init::<f32>(1));
    objective.begin(STEP);
    let mut grads = table.zeros();
    engine.accumulate(objective, &params, key, &mut grads, &mut Loss::default(), STEP, samples);
    let norm = engine.grad_norm(&grads);
    let mut loss_at = |ahead: f32| {
        let mut moved = params.clone();
        moved.iter_mut().zip(&*grads).for_each(|(param, grad)| *param += ahead / norm as f32 * grad);
        let mut loss = Loss::default();
        engine.accumulate(objective, &moved, key, &mut table.zeros(), &mut loss, STEP, samples);
        loss.total
    };
    let slope = (loss_at(AHEAD) - loss_at(-AHEAD)) / (2.0 * f64::from(AHEAD));
    (slope / norm - 1.0).abs()
}
