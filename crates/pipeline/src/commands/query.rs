//! Which rows to label next.

use std::io::Write;
use std::path::PathBuf;

use nids_eval::kmeans::medoids;
use nids_flows::{Flows, ReadOptions, TokenTable, Tokeniser, all_rows, equal_rows};
use nids_kernels::{Gemm, Key};
use nids_nn::ParamTable;

use crate::data::{Labelled, labelled, labelled_name, warn_of_newly_missing};
use crate::labels::labelled_rows;
use nids_config::{Config, FinetuneFrom, Stage};
use nids_detect::operation::Using;
use nids_detect::read::{name_of, read, read_tokeniser};
use nids_detect::{Detector, LatentEncoder, LatentSession, WeightsFile};
use nids_store::progress::{Event, Progress};
use nids_store::run::{MODEL, PRETRAINED, TOKENISER};
use nids_store::run::{Run, StageRun};
use nids_store::{Error, Result};
use nids_train::stream;

/// Flows that are encoded at once.
const BATCH: usize = 4096;
/// Candidates for each chosen row: the β of Zhdanov 2019.
const CANDIDATES: usize = 10;

/// The most flows that a command generates again for a run, because the run folder may come from an attacker.
pub(super) const MAX_GENERATED: usize = 50_000;

/// How rows are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryStrategy {
    /// Rows that stand for all others: medoids of k-means over the latents of the pretrained encoder.
    Medoids,
    /// Rows of which the fine-tuned classifier is least sure, and that differ from one another: medoids of k-means over its
    /// latents, weighted by p(1 - p), among the rows with the highest weights, ten times as many as are chosen (Zhdanov 2019,
    /// "Diverse mini-batch active learning"). For heads alone, over the components that they see.
    Uncertainty,
}

/// What to choose from.
#[derive(Clone, Debug)]
pub struct QueryOptions<'a> {
    /// Number of rows to choose.
    pub budget: usize,
    /// Files whose rows are to choose from; None: the training rows of the run's `data.train`.
    pub data: Option<&'a [PathBuf]>,
    /// How these files are read.
    pub read: ReadOptions,
    /// None: uncertainty where there is a finetuned classifier, else medoids.
    pub strategy: Option<QueryStrategy>,
}

/// Writes the numbers of the rows to label next, one a line and counted from 0, those that stand for most rows first. Rows
/// with equal features count as one, which stands for all of them.
///
/// Rows equal to one that the run's classifier was trained on are left out.
pub fn query(run: &Run, options: &QueryOptions<'_>, out: &mut dyn Write, progress: &mut dyn Progress) -> Result<()> {
    for row in run.steadily(|| choose(run, options, progress))? {
        writeln!(out, "{row}").map_err(Error::io("the rows", "write"))?;
    }
    Ok(())
}

fn choose(run: &Run, options: &QueryOptions<'_>, progress: &mut dyn Progress) -> Result<Vec<u32>> {
    let is_finetuned = run.has_finished(Stage::Finetune);
    let strategy = options.strategy.unwrap_or(if is_finetuned { QueryStrategy::Uncertainty } else { QueryStrategy::Medoids });
    let (producer, weights) = match strategy {
        QueryStrategy::Medoids => (Stage::Pretrain, PRETRAINED),
        QueryStrategy::Uncertainty => (Stage::Finetune, MODEL),
    };
    let config = run.config_of(producer)?;
    // this stage never finishes: it only checks that its inputs are unchanged
    let mut stage = run.look(Stage::Finetune, &config);
    let weights = stage.require(producer, weights)?;
    let weights = WeightsFile::read(&weights, producer)?;
    let tokeniser = read_tokeniser(&stage.require(producer, TOKENISER)?, producer)?;
    if config.finetune.from != FinetuneFrom::Features || strategy == QueryStrategy::Medoids {
        weights.check_features(tokeniser.tokens().len())?;
    }
    let (flows, pool) = match options.data {
        Some(files) if is_finetuned => {
            let (labelled, known) = training_rows(run, &config, is_finetuned, &mut stage, progress)?;
            let mut flows = read(files, labelled.flows.schema(), &options.read, progress)?.flows;
            warn_of_newly_missing(&tokeniser, &flows, &name_of(files), progress);
            let n = flows.len();
            flows.extend(labelled.flows.select(&known));
            let rows = all_rows(flows.len());
            let pool = Pool::new(&flows, &rows, &rows[n..]);
            (flows, pool)
        }
        Some(files) => {
            let flows = read(files, tokeniser.schema(), &options.read, progress)?.flows;
            warn_of_newly_missing(&tokeniser, &flows, &name_of(files), progress);
            let pool = Pool::new(&flows, &all_rows(flows.len()), &[]);
            (flows, pool)
        }
        None => {
            let (labelled, known) = training_rows(run, &config, is_finetuned, &mut stage, progress)?;
            warn_of_newly_missing(&tokeniser, &labelled.flows, &labelled_name(&config), progress);
            let pool = Pool::new(&labelled.flows, &labelled.split.train, &known);
            (labelled.flows, pool)
        }
    };
    if pool.rows.is_empty() && is_finetuned {
        let message = "the run's classifier knows the labels of all these rows: run `nids-mixer finetune` with `finetune.labels` or \
                       `finetune.label_rows`, or name another file in `--data`";
        return Err(Error::Usage(message.to_owned()));
    }
    let n = pool.rows.len();
    if options.budget > n {
        let budget = options.budget;
        let message = format!("`--budget {budget}`: there are {n} different rows to choose from");
        return Err(Error::Usage(message));
    }
    let how = match strategy {
        QueryStrategy::Medoids => "that stand for the others",
        QueryStrategy::Uncertainty => "of which the classifier is not sure",
    };
    progress.event(Event::Message(&format!("{} of {n} different rows, {how}", options.budget)));

    let detector = if strategy == QueryStrategy::Uncertainty { Some(Detector::open_using(run, Using::Model)?) } else { None };
    let space = Space::new(&config, strategy, detector.as_ref(), &tokeniser, &weights)?;
    drop(weights);
    let (mut latents, mut width) = (Vec::new(), 0);
    let mut weight = pool.counts;
    for (rows, weight) in pool.rows.chunks(BATCH).zip(weight.chunks_mut(BATCH)) {
        let encoded = tokeniser.tokenise(&flows.select(rows))?;
        let (of_rows, attacks) = space.of(&encoded, detector.as_ref());
        width = of_rows.len() / rows.len();
        latents.extend(of_rows);
        // heads learn of a row as much as of a hundred equal ones
        let counts_equal_rows = !matches!(space, Space::Components(_));
        for (weight, p) in weight.iter_mut().zip(attacks.into_iter().map(f64::from)) {
            let unsure = p * (1.0 - p);
            *weight = if counts_equal_rows { *weight * unsure } else { unsure };
        }
        let done = latents.len() / width.max(1);
        progress.event(Event::Rows { what: "looked at", rows: done as u64, share: Some(done as f64 / n as f64) });
    }
    if latents.iter().any(|z| !z.is_finite()) || weight.iter().any(|weight| !weight.is_finite()) {
        return Err(Error::Numerics(
            "the run's network gives non-finite values (NaN, Inf): lower its `lr` and train again".to_owned(),
        ));
    }
    standardise(&mut latents, width);

    let mut candidates: Vec<usize> = (0..n).collect();
    if strategy == QueryStrategy::Uncertainty {
        candidates.sort_by(|&a, &b| weight[b].total_cmp(&weight[a]));
        candidates.truncate(CANDIDATES * options.budget);
        candidates.sort_unstable();
    }
    let x: Vec<f32> = candidates.iter().flat_map(|&i| &latents[i * width..][..width]).copied().collect();
    let candidate_weights: Vec<f64> = candidates.iter().map(|&i| weight[i]).collect();
    let key = Key::new(config.seed).child(stream::QUERY);
    let chosen = medoids(Gemm::Tiles, &x, width, &candidate_weights, options.budget, key);
    Ok(chosen.into_iter().map(|i| pool.rows[candidates[i]]).collect())
}

/// Where rows are near one another.
pub(super) enum Space<'d> {
    /// The mean tokens of an encoder.
    Latents(Box<LatentSession>),
    /// What heads see.
    Components(&'d Detector),
}

impl<'d> Space<'d> {
    /// That of a strategy.
    pub(super) fn new(
        config: &Config,
        strategy: QueryStrategy,
        detector: Option<&'d Detector>,
        tokeniser: &Tokeniser,
        weights: &WeightsFile,
    ) -> Result<Self> {
        Ok(match detector {
            Some(detector) if !config.finetune.has_network() => Self::Components(detector),
            _ => Self::Latents(Box::new(latent_session(config, strategy, tokeniser, weights)?)),
        })
    }

    /// Where rows are, and their probabilities of an attack, if there is a classifier.   -> [rows, width], [rows]
    pub(super) fn of(&self, encoded: &TokenTable, detector: Option<&Detector>) -> (Vec<f32>, Vec<f32>) {
        match self {
            Self::Latents(session) => {
                let mut latents = vec![0.0; encoded.n_rows() * session.encoder().width()];
                session.latents(encoded, &mut latents);
                (latents, detector.map_or_else(Vec::new, |detector| detector.attacks(encoded)))
            }
            Self::Components(detector) => {
                let (model, rows) = (detector.model(), all_rows(encoded.n_rows()));
                let components = model.components(encoded, &rows).expect("there are heads alone");
                let attacks = model.probabilities_on(Some(&components), encoded, &rows);
                (components.iter().map(|&component| component as f32).collect(), attacks)
            }
        }
    }
}

/// The encoder of the strategy, whose mean token is kept.
fn latent_session(
    config: &Config,
    strategy: QueryStrategy,
    tokeniser: &Tokeniser,
    weights: &WeightsFile,
) -> Result<LatentSession> {
    let mut table = ParamTable::default();
    // of several classifiers, the first one's
    let is_split = strategy == QueryStrategy::Uncertainty && config.finetune.independent() > 1;
    let prefix = if is_split && config.finetune.from != FinetuneFrom::Latents { "members.0" } else { "" };
    let mut root = table.root();
    let encoder = LatentEncoder::mean(config, tokeniser, &mut if prefix.is_empty() { root } else { root.at(prefix) });
    let names = if prefix.is_empty() { "encoder.".to_owned() } else { format!("{prefix}.encoder.") };
    let params = weights.params(&table, &[&names], encoder.tokens())?;
    LatentSession::new(config, &table, encoder, params)
}

/// Different rows to choose from.
struct Pool {
    /// One row of each group of equal rows.
    rows: Vec<u32>,
    /// Size of each group.
    counts: Vec<f64>,
}

impl Pool {
    /// The `rows` of `flows` that equal none of `known`. Both lists ascend.
    fn new(flows: &Flows, rows: &[u32], known: &[u32]) -> Self {
        let is_known = |i: &u32| known.binary_search(&rows[*i as usize]).is_ok();
        let groups = equal_rows(&flows.select(rows)).into_iter().filter(|group| !group.iter().any(is_known));
        let (rows, counts) = groups.map(|group| (rows[group[0] as usize], group.len() as f64)).unzip();
        Self { rows, counts }
    }
}

/// The rows that the run trains and validates on, and those whose labels its classifier has seen, if it has one.
fn training_rows(
    run: &Run,
    config: &Config,
    is_finetuned: bool,
    stage: &mut StageRun<'_>,
    progress: &mut dyn Progress,
) -> Result<(Labelled, Vec<u32>)> {
    let generated = config.data.synthetic.rows;
    // the number comes from the run folder alone: no data file stands behind it
    if config.data.train.is_none() && generated > MAX_GENERATED {
        let message = format!("the run was trained on {generated} generated flows: `query` takes at most {MAX_GENERATED}");
        return Err(Error::Usage(message));
    }
    let labelled = labelled(config, stage, progress)?;
    let known =
        if is_finetuned { labelled_rows(&run.config_of(Stage::Finetune)?, &labelled, stage, progress)? } else { Vec::new() };
    Ok((labelled, known))
}

/// Every column to mean 0 and variance 1; one that never changes to 0.   x: [rows, width]
fn standardise(x: &mut [f32], width: usize) {
    let n = (x.len() / width) as f64;
    for column in 0..width {
        let values = || x.iter().skip(column).step_by(width).map(|&value| f64::from(value));
        let mean = values().sum::<f64>() / n;
        let std = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
        let rstd = if std > 0.0 { 1.0 / std } else { 0.0 };
        x.iter_mut().skip(column).step_by(width).for_each(|value| *value = ((f64::from(*value) - mean) * rstd) as f32);
    }
}
