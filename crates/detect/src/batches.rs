//! Files of any size, scored a batch at a time.

use std::collections::BTreeMap;
use std::path::Path;

use nids_flows::{FlowReader, Flows, ReadOptions, Reject, TokenTable, Tokeniser};
use nids_nn::engine::Engine;
use nids_store::Result;
use nids_store::progress::{Event, Progress};

use crate::detector::{Detector, Scored};
use crate::read::{Counts, name_of, tell, tell_drift, tell_files, tell_missing, tell_unknown, warn_of_missing};
use crate::watch::{Drift, Watch};

/// Rows read and scored at once, at most: what bounds the memory, whatever the file's size.
const BATCH: usize = 2048;
/// Features of these rows.
const BATCH_FEATURES: usize = 128 * BATCH;

/// What scores flows. What it says of a row is a function of the row alone.
pub trait Judge: Sync {
    /// Rows as it sees them.
    type Encoded: Send + Sync;
    /// What it says of rows; that of no rows is the default.
    type Said: Default + Send;

    /// Whose schema the flows are read by.
    fn tokeniser(&self) -> &Tokeniser;
    /// On whose workers it runs.
    fn engine(&self) -> &Engine<f32>;
    /// Rows as it sees them.
    ///
    /// # Errors
    /// Flows of another schema.
    fn tokenise(&self, flows: &Flows) -> Result<Self::Encoded>;
    /// The tokens of [`Judge::tokeniser`] among them.
    fn counts(encoded: &Self::Encoded) -> &TokenTable;
    /// What it says of rows.
    fn judge(&self, encoded: &Self::Encoded) -> Self::Said;
    /// The classifier with whose training rows the flows are compared, if there is one.
    fn classifier(&self) -> Option<&Detector>;
    /// What it says of the rows, if there is one.
    fn scored(said: &Self::Said) -> Option<&Scored>;
    /// Refuses scores that are no numbers.
    ///
    /// # Errors
    /// Such scores, of the file `origin`.
    fn check(&self, flows: &Flows, said: &Self::Said, origin: &str) -> Result<()>;
}

/// What was seen of a file beside the verdicts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadSummary {
    /// Rows read.
    pub rows: u64,
    /// Rows that were left out.
    pub rejected: u64,
    /// Values never seen in training, by column.
    pub unknown_categories: BTreeMap<String, u64>,
    /// Values that training saw and cut, by column.
    pub other_categories: BTreeMap<String, u64>,
    /// Missing cells, by column.
    pub missing: BTreeMap<String, u64>,
    /// How the rows differ from those of training; None where the run has no profile.
    pub drift: Option<Drift>,
}

impl ReadSummary {
    /// Counts rows, and what is missing or never seen in them.
    pub fn add(&mut self, rows: usize, table: &TokenTable) {
        self.rows += rows as u64;
        add(&mut self.unknown_categories, table.unknown_counts());
        add(&mut self.other_categories, table.other_counts());
        add(&mut self.missing, table.missing_counts());
    }
}

/// Rows as they were read, and those that were left out on the way.
struct Rows {
    flows: Flows,
    rejects: Vec<Reject>,
    /// About which share of the files has been read with them.
    share: Option<f64>,
}

/// Rows that are read at once, at most.
pub fn batch_rows(tokeniser: &Tokeniser) -> usize {
    (BATCH_FEATURES / tokeniser.tokens().len().max(1)).clamp(1, BATCH)
}

/// Rows that are in memory, so many at a time.
pub(crate) fn batches<'f>(flows: &'f Flows, tokeniser: &Tokeniser) -> impl Iterator<Item = Flows> + use<'f> {
    let (n, most) = (flows.len() as u32, batch_rows(tokeniser));
    (0..n).step_by(most).map(move |first| flows.select(&(first..n.min(first + most as u32)).collect::<Vec<_>>()))
}

/// Reads files batch by batch and calls `each` with rows, what is said of them, and the rows that were left out on the way. While a
/// batch is scored, the next one is tokenised and the one after that is read.
///
/// # Errors
/// Files that cannot be read, scores that are no numbers, or what `each` says.
pub fn each_batch<J: Judge>(
    judge: &J,
    files: &[impl AsRef<Path>],
    options: &ReadOptions,
    summary: &mut ReadSummary,
    progress: &mut dyn Progress,
    mut each: impl FnMut(&Flows, &J::Said, &[Reject]) -> Result<()>,
) -> Result<()> {
    let (threads, kernels) = (judge.engine().threads(), nids_kernels::describe(judge.engine().gemm()));
    progress.event(Event::Detail(&format!("{threads} threads, {kernels}")));
    tell_files(files, progress);
    let tokeniser = judge.tokeniser();
    let mut reader = FlowReader::open(files, tokeniser.schema(), options)?;
    tell(&mut reader, progress);
    let max_rows = batch_rows(tokeniser);
    let no_classifier = "there is no classifier, of whose training rows counts are kept";
    let mut watch = judge
        .classifier()
        .ok_or(no_classifier)
        .and_then(|classifier| Watch::new(classifier).ok_or("the run has no profile.json: `finetune` leaves one now"));
    let mut read = || -> Result<Option<Rows>> {
        let flows = reader.next_batch(max_rows)?;
        Ok(flows.map(|flows| Rows { flows, rejects: reader.take_rejects(), share: reader.share_read() }))
    };
    let tokenise = |rows: Result<Option<Rows>>| -> Result<Option<(Rows, J::Encoded)>> {
        let Some(rows) = rows? else { return Ok(None) };
        let encoded = judge.tokenise(&rows.flows)?;
        Ok(Some((rows, encoded)))
    };
    let mut next = tokenise(read());
    let mut after = if matches!(next, Ok(Some(_))) { read() } else { Ok(None) };
    while let Some((Rows { flows, rejects, share }, encoded)) = next? {
        progress.go_on()?;
        let has_more = matches!(after, Ok(Some(_)));
        let ahead = || {
            if let Ok(watch) = &mut watch {
                watch.add_flows(&flows);
            }
            judge.engine().join(|| tokenise(after), || if has_more { read() } else { Ok(None) })
        };
        let said;
        (said, (next, after)) = judge.engine().join(|| judge.judge(&encoded), ahead);
        judge.check(&flows, &said, &name_of(files))?;
        if let Some((watch, scored)) = watch.as_mut().ok().zip(J::scored(&said)) {
            watch.add_scored(scored);
        }
        summary.add(flows.len(), J::counts(&encoded));
        each(&flows, &said, &rejects)?;
        progress.event(Event::Rows { what: "scored", rows: summary.rows, share });
    }
    progress.event(Event::Rows { what: "scored", rows: summary.rows, share: Some(1.0) });
    summary.rejected = reader.n_rejected();
    let rejects = reader.take_rejects();
    if !rejects.is_empty() {
        each(&Flows::none(tokeniser.schema()), &J::Said::default(), &rejects)?;
    }
    tell(&mut reader, progress);
    let name = name_of(files);
    let [missing, never_seen, cut] = [&summary.missing, &summary.unknown_categories, &summary.other_categories]
        .map(|by_column| Counts::new(&name, summary.rows, by_column.iter().map(|(column, n)| (column.as_str(), *n))));
    tell_missing(&missing, progress);
    warn_of_missing(tokeniser, &missing, progress);
    tell_unknown(tokeniser, &never_seen, &cut, progress);
    let drift = watch.map(|watch| watch.drift(summary));
    tell_drift(&name, drift.as_ref().map_err(|why| *why), progress);
    summary.drift = drift.ok();
    Ok(())
}

/// Adds counts by column.
fn add(sum: &mut BTreeMap<String, u64>, counts: &[(String, usize)]) {
    for (column, n) in counts.iter().filter(|(_, n)| *n > 0) {
        *sum.entry(column.clone()).or_default() += *n as u64;
    }
}
