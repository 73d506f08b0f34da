//! What a stage would do: its inputs, its network, and what it would take. Nothing is written, and no lock is taken.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nids_config::{Config, FinetuneFrom, Refit, Stage, SweepStrategy};
use nids_detect::engine::engine;
use nids_detect::read::{READ_ROWS, read_tokeniser};
use nids_detect::{LatentEncoder, Network, wants_classes};
use nids_flows::{Classes, FlowReader, Flows, Labels, Schema, Tokeniser, all_rows, synthetic};
use nids_nn::ParamTable;
use nids_store::progress::grouped;
use nids_store::run::{PRETRAINED, Run, TOKENISER};
use nids_store::{Error, Result};

use super::sweep::{Axis, planned_trials};
use crate::data::read_options;
use crate::packed;
use crate::pretext::Pretext;
use crate::stages::finetune::encoded;

/// Rows that are read of a setting's files, at most.
const READ: usize = 16_384;
/// Rows that a tokeniser is fitted on.
const SAMPLE: usize = 4096;
/// The share of the highest rate of multiply-adds that matrix products reach, of narrow networks and of others. By
/// docs/benchmarks.md a step of pretraining makes .3 at width 16 and .4 to .7 from 48 on. Others that work on the machine take theirs.
const SHARES: [f64; 2] = [0.3, 0.5];
/// The width from which on a network is not narrow.
const WIDE: usize = 32;
/// Bytes of a row and feature in memory, at the peak of the stage, with its page: what SECURITY.md measured, over 42 features.
const BYTES_PRETRAIN: f64 = 490.0 / 42.0;
const BYTES_FINETUNE: f64 = 920.0 / 42.0;

/// Of a packed pretraining, where batches of rows are in memory and the rows that the tokeniser is fitted on: bytes of a feature of a
/// row of the former, rows of the latter, and bytes of each labelled row, in lists. By docs/benchmarks.md.
const BYTES_READ: f64 = 40.0;
const SAMPLE_ROWS: f64 = 250_000.0;
const BYTES_LABELLED: f64 = 6.0;
/// Bytes of each labelled row where features are not held: keys, labels, targets and lists.
const BYTES_LABELLED_FINETUNE: f64 = 45.0;

/// What is planned.
#[derive(Clone, Copy, Debug)]
pub enum Planned<'p> {
    /// A stage.
    Stage(Stage),
    /// A sweep over this grid.
    Sweep(&'p [Axis]),
}

/// Files of a setting, and about how many rows they have.
struct Data {
    key: &'static str,
    shown: String,
    rows: f64,
    is_exact: bool,
    /// The first rows.
    sample: Option<Flows>,
}

/// What a network takes.
struct Cost {
    params: usize,
    /// Numbers of its buffers, padded.
    buffer: usize,
    activations: usize,
    /// Of the matrix products of one row forward.
    flops: f64,
}

/// Says what a stage, or a sweep, would do, line by line. Data files are looked at, not read: their rows are an estimate where they
/// are many.
///
/// # Errors
/// What would stop it at once: a file that cannot be read, columns that are not there.
pub fn plan(planned: Planned<'_>, config: &Config, run: &Run) -> Result<String> {
    config.engine.check().map_err(Error::Usage)?;
    let stage = if let Planned::Stage(stage) = planned { stage } else { Stage::Finetune };
    let mut text = String::new();
    let mut row = |what: &str, value: &str| {
        let _ = writeln!(text, "{what:<16} {value}");
    };
    let folder = run.folder();
    row("run folder", &format!("{}{}", folder.display(), if folder.is_dir() { "" } else { " (to be made)" }));
    let mut tokeniser = None;
    if let Planned::Stage(stage) = planned {
        for (producer, artefacts) in needed(stage, config) {
            let mut look = run.look(stage, config);
            let found = artefacts.iter().map(|name| look.require(producer, name)).collect::<Result<Vec<PathBuf>>>();
            row(producer.name(), &found.as_ref().map_or_else(ToString::to_string, |_| "current".to_owned()));
            if let (Ok(paths), Stage::Pretrain) = (&found, producer) {
                tokeniser = Some(read_tokeniser(&paths[1], producer)?);
            }
        }
        row(stage.name(), &state(stage, run));
    }
    let data = looked_at(planned, config, tokeniser.is_none())?;
    for Data { key, shown, rows, is_exact, .. } in &data {
        let about = if *is_exact { "" } else { "about " };
        let note = if *is_exact { "" } else { ", estimated from the size and the first rows" };
        row(key, &format!("{shown}: {about}{} rows{note}", grouped(*rows)));
    }
    let sample = data.iter().find_map(|data| data.sample.as_ref()).ok_or_else(|| Error::Usage("no rows to plan with".into()))?;
    let tokeniser = match tokeniser {
        Some(tokeniser) => tokeniser,
        None => Tokeniser::fit(sample, &all_rows(sample.len()), &config.tokeniser)?,
    };
    let n_features = tokeniser.tokens().len();
    let cost = cost(stage, config, &tokeniser, sample)?;
    row(
        "network",
        &format!("{n_features} features, about {} parameters, {:.3} MFLOP a row", grouped(cost.params as f64), cost.flops / 1e6),
    );
    let rows: f64 = data.iter().map(|data| data.rows).sum();
    let (row_passes, told) = work(planned, config, rows)?;
    row("work", &told);

    let engine = engine(config, &ParamTable::default(), 1, 1, 1)?;
    let (threads, peak) = (engine.threads(), engine.peak_flops());
    let share = SHARES[usize::from(config.model.dim >= WIDE)];
    let seconds = row_passes * cost.flops / (share * peak);
    row(
        "time",
        &format!(
            "about {}: {threads} threads at {:.0} % of the {:.0} GFLOP/s measured now; reading and validation come on top",
            long(seconds),
            100.0 * share,
            peak / 1e9
        ),
    );
    let by_row = if stage == Stage::Pretrain { BYTES_PRETRAIN } else { BYTES_FINETUNE };
    let shard = config.engine.shard(cost.activations);
    // weights, gradients, moments, averages and prepared matrices; activations twice, with their gradients
    let network = 4.0 * (8.0 * cost.buffer as f64 + 2.0 * (threads * shard * cost.activations) as f64);
    let in_folder = bytes(disk(planned, config, &tokeniser, &cost, rows));
    if let Some(cache) = cache(planned, config, folder)? {
        let stride = (tokeniser.empty_table(0).stride() * size_of::<f32>()) as f64;
        let batch = rows.min(READ_ROWS as f64) * BYTES_READ + rows.min(SAMPLE_ROWS) * 8.0;
        let (batch_size, by_labelled) = match stage {
            Stage::Pretrain => (config.pretrain.training.batch_size, BYTES_LABELLED),
            _ => (config.finetune.training.batch_size, BYTES_LABELLED_FINETUNE),
        };
        let steps = 3.0 * batch_size as f64 * stride;
        let labelled: f64 = data.iter().filter(|data| data.key == "data.train").map(|data| data.rows).sum();
        row("memory", &format!("about {}", bytes(n_features as f64 * batch + steps + labelled * by_labelled + network)));
        let unless = if stage == Stage::Pretrain { "" } else { ", unless `pretrain` has left these rows there" };
        row("disk", &format!("about {in_folder}, and {} in {} (`data.cache`){unless}", bytes(rows * stride), cache.display()));
    } else {
        row("memory", &format!("about {}", bytes(rows * n_features as f64 * by_row + network)));
        row("disk", &format!("about {in_folder}"));
    }
    Ok(text)
}

/// The folder of packed rows, where the stage has them on the disk.
fn cache(planned: Planned<'_>, config: &Config, run: &Path) -> Result<Option<PathBuf>> {
    match planned {
        Planned::Stage(Stage::Pretrain) => packed::folder(config, run),
        Planned::Stage(Stage::Encode) => packed::folder_for(config, &[&config.data.train], run),
        Planned::Stage(Stage::Finetune) => Ok(encoded::folder(config, run)?.unwrap_or(None)),
        _ => Ok(None),
    }
}

/// The stages that `stage` reads from, and what of them.
fn needed(stage: Stage, config: &Config) -> Vec<(Stage, Vec<&'static str>)> {
    let pretrained = (Stage::Pretrain, vec![PRETRAINED, TOKENISER]);
    match (stage, config.finetune.from) {
        (Stage::Pretrain, _) | (Stage::Finetune, FinetuneFrom::Scratch | FinetuneFrom::Features) => Vec::new(),
        (Stage::Finetune, FinetuneFrom::Latents) => vec![pretrained, (Stage::Encode, vec!["latents/train.npy"])],
        _ => vec![pretrained],
    }
}

/// What is there of the stage itself.
fn state(stage: Stage, run: &Run) -> String {
    let stopped = run.has_checkpoint(stage);
    match (stopped, run.has_finished(stage)) {
        (true, _) => "was stopped here: goes on from its last checkpoint, if nothing has changed since".to_owned(),
        (false, true) => "has finished here before: what it left stays valid until it has finished again".to_owned(),
        (false, false) => "not run here yet".to_owned(),
    }
}

/// The data that are read, with their first rows.
fn looked_at(planned: Planned<'_>, config: &Config, fits_tokeniser: bool) -> Result<Vec<Data>> {
    let uses_unlabelled = match planned {
        Planned::Stage(Stage::Encode) => false,
        Planned::Stage(Stage::Finetune) => {
            fits_tokeniser || config.finetune.mean_teacher.is_some() || config.finetune.teachers.is_some()
        }
        _ => true,
    };
    let mut all = Vec::new();
    if let Some(files) = &config.data.train {
        all.push(look("data.train", files, config, Labels::Required)?);
    }
    if let Some(files) = config.data.unlabelled.as_ref().filter(|_| uses_unlabelled) {
        all.push(look("data.unlabelled", files, config, Labels::Unused)?);
    }
    if all.is_empty() {
        let rows = config.data.synthetic.rows + if uses_unlabelled { config.data.synthetic.unlabelled_rows } else { 0 };
        let sample = Some(synthetic(rows.min(SAMPLE), 1));
        all.push(Data { key: "data", shown: "generated flows".to_owned(), rows: rows as f64, is_exact: true, sample });
    }
    Ok(all)
}

fn look(key: &'static str, files: &nids_config::Files, config: &Config, labels: Labels) -> Result<Data> {
    let paths = files.paths()?;
    let options = read_options(config, labels);
    let mut reader = FlowReader::open(&paths, &Schema::resolve(&config.data.schema)?, &options)?;
    let sample = reader.next_batch(SAMPLE)?;
    let mut n = sample.as_ref().map_or(0, Flows::len);
    let mut is_exact = sample.is_none();
    while n < READ && !is_exact {
        match reader.next_batch(READ - n)? {
            Some(more) => n += more.len(),
            None => is_exact = true,
        }
    }
    let share = reader.share_read().filter(|share| *share > 0.0 && !is_exact);
    let rows = share.map_or(n as f64, |share| n as f64 / share);
    Ok(Data { key, shown: files.to_string(), rows, is_exact, sample })
}

/// The network of a stage. Of a sample of the rows, categories and bins may be fewer.
fn cost(stage: Stage, config: &Config, tokeniser: &Tokeniser, sample: &Flows) -> Result<Cost> {
    let mut table = ParamTable::default();
    let (activations, flops) = match stage {
        Stage::Pretrain => {
            let pretext = Pretext::new(config, tokeniser, &mut table)?;
            (pretext.activations(), pretext.forward_flops())
        }
        Stage::Encode => {
            let encoder = LatentEncoder::new(config, tokeniser, &mut table);
            (encoder.encoder().activations(), encoder.encoder().forward_flops())
        }
        Stage::Finetune if config.finetune.has_network() => {
            let is_labelled = sample.labels().is_some() && wants_classes(config);
            let classes = is_labelled.then(|| Classes::fit(sample, &all_rows(sample.len()))).transpose()?;
            let network = Network::new(config, tokeniser, classes.as_ref(), &mut table)?;
            (network.activations(), network.forward_flops())
        }
        Stage::Finetune => (0, 0.0),
    };
    Ok(Cost { params: table.n_params(), buffer: table.buffer_len(), activations, flops })
}

/// How many rows go forward through the network, a step of training counting three times, and that in words.
fn work(planned: Planned<'_>, config: &Config, rows: f64) -> Result<(f64, String)> {
    let training = |steps: u64, batch: usize| 3.0 * steps as f64 * batch as f64;
    Ok(match planned {
        Planned::Stage(Stage::Pretrain) => {
            let (steps, batch) = (config.pretrain.training.steps, config.pretrain.training.batch_size);
            (training(steps, batch), format!("{} steps of {batch} rows", grouped(steps as f64)))
        }
        Planned::Stage(Stage::Encode) => {
            (2.0 * rows, "every labelled row, twice: for latents and for the probe on tokens".to_owned())
        }
        Planned::Stage(Stage::Finetune) if !config.finetune.has_network() => {
            (0.0, format!("{} heads are fitted, in seconds; no network is trained", config.finetune.heads().len()))
        }
        Planned::Stage(Stage::Finetune) => {
            let (steps, batch) = (config.finetune.training.steps, config.finetune.training.batch_size);
            let passes = if config.finetune.refit == Refit::All { 2 } else { 1 };
            // forward_flops counts all members
            let beside = config.finetune.mean_teacher.as_ref().map_or(0, |teacher| teacher.batch_size * 4 / 3);
            let mut told = format!("{} steps of {batch} rows", grouped(steps as f64));
            for (n, what) in [(config.finetune.independent(), "members"), (passes, "passes (`finetune.refit`)")] {
                if n > 1 {
                    let _ = write!(told, ", {n} {what}");
                }
            }
            (passes as f64 * training(steps, batch + beside), told)
        }
        Planned::Sweep(grid) => {
            let trials = planned_trials(config, grid)?;
            let steps: u64 = trials.iter().sum();
            let name = if matches!(config.sweep.strategy, SweepStrategy::Halving(_)) { "halving" } else { "width_depth" };
            let told = format!(
                "`{name}`: at most {} trials, {} steps in all, of {} rows; the time is for networks of the config's size",
                trials.len(),
                grouped(steps as f64),
                config.finetune.training.batch_size
            );
            (training(steps, config.finetune.training.batch_size), told)
        }
    })
}

/// What is left in the run folder, checkpoints among it.
fn disk(planned: Planned<'_>, config: &Config, tokeniser: &Tokeniser, cost: &Cost, rows: f64) -> f64 {
    let weights = 4.0 * cost.params as f64;
    match planned {
        Planned::Stage(Stage::Encode) => {
            let width = LatentEncoder::new(config, tokeniser, &mut ParamTable::default()).width();
            rows * (1 + config.encode.noise.copies) as f64 * (4.0 * width as f64 + 5.0)
        }
        // a checkpoint has weights and two moments, and there are the best one and the latest ones
        Planned::Stage(_) => weights * (1.0 + 3.0 * (config.checkpoint.keep + 1) as f64) + tokeniser.to_json().len() as f64,
        Planned::Sweep(_) => 0.0,
    }
}

fn long(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "a second".to_owned(),
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn bytes(n: f64) -> String {
    let mib = n / f64::from(1 << 20);
    if mib < 1.0 {
        "a MiB".to_owned()
    } else if mib < 1024.0 {
        format!("{mib:.0} MiB")
    } else {
        format!("{:.1} GiB", mib / 1024.0)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
