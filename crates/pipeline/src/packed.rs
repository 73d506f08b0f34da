//! The rows of pretraining in a packed cache on the disk: read batch by batch, tokenised once, and read again by number.
//!
//! All that is learnt of the rows (split, tokeniser, cells) is the same as in memory. The cache is named by a hash of what it
//! follows from: the content of the data files, the schema, and the settings that say how rows are read, split and tokenised.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nids_config::{Config, Files, ObjectiveConfig, RowsConfig, Stage};
use nids_detect::read::{Counts, READ_ROWS, name_of, tell, tell_files, tell_missing};
use nids_flows::{
    FlowReader, Flows, Labels, ReadOptions, Reject, Schema, Split, Splitter, TokenTable, Tokeniser, TokeniserFit, all_rows,
};
use nids_models::{MaeConfig, NumberTarget};
use nids_store::artefacts::sha256;
use nids_store::packed::{Layout, Packed, Packer};
use nids_store::progress::{Event, Progress, grouped};
use nids_store::run::{StageRun, TOKENISER};
use nids_store::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::data::{labelled_name, no_labels, paths_of, read_options, schema_of, tell_benign, tell_labelled};
use crate::rejects;

/// Rows of a partition: some hundred MB of 42 features.
pub(crate) const PARTITION_ROWS: u64 = 1 << 18;
/// Bytes of the data files from which on `auto` means a cache in the run folder.
const AUTO_BYTES: u64 = 1 << 30;
/// The settings that name the files of pretraining.
pub(crate) const DATA: [&str; 2] = ["data.train", "data.unlabelled"];
/// The folder of caches in a run folder.
const FOLDER: &str = "cache";
/// The rows of the cache that are training rows of `data.train`, as little-endian u32.
const TRAINING_ROWS: &str = "training-rows.u32";
/// The rows that were left out.
const REJECTS: &str = "rejects.csv";
/// Changes where the same inputs give other cells.
pub(crate) const FORMAT: u32 = 1;

/// The folder that caches of pretraining lie in, by `data.cache`; None where rows stay in memory. Generated flows do.
pub(crate) fn folder(config: &Config, run: &Path) -> Result<Option<PathBuf>> {
    folder_for(config, &[&config.data.train, &config.data.unlabelled], run)
}

/// The same of the rows of some settings.
pub(crate) fn folder_for(config: &Config, files: &[&Option<Files>], run: &Path) -> Result<Option<PathBuf>> {
    let files: Vec<&Files> = files.iter().copied().flatten().collect();
    Ok(match config.data.cache.as_str() {
        "" => return Err(Error::Usage("`data.cache` is empty: expected `auto`, `memory` or a folder".to_owned())),
        "memory" => None,
        _ if files.is_empty() => None,
        "auto" => {
            let mut bytes = 0;
            for path in files.into_iter().map(Files::paths).collect::<nids_flows::Result<Vec<_>>>()?.concat() {
                bytes += fs::metadata(&path).map_or(0, |found| found.len());
            }
            (bytes >= AUTO_BYTES).then(|| run.join(FOLDER))
        }
        folder => Some(PathBuf::from(folder)),
    })
}

/// The folder of caches in a run folder, if there is one.
pub(crate) fn in_run(run: &Path) -> Option<PathBuf> {
    Some(run.join(FOLDER)).filter(|folder| folder.is_dir())
}

/// The rows of a stage, in a cache: labelled rows in the order of their files, then the unlabelled ones of pretraining.
#[derive(Debug)]
pub(crate) struct PackedRows {
    packed: Packed,
    tokeniser: Tokeniser,
    training_rows: Vec<u32>,
    note: Note,
    numbers: Numbers,
}

/// What rows are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    /// Those that pretraining learns from.
    Learned,
    /// The labelled ones, as their files have them.
    Labelled,
}

/// What the cache notes of its rows.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    labelled: u64,
    unlabelled: u64,
    /// In how many of the rows that are learned from each feature is missing.
    missing: Vec<(String, usize)>,
    /// What was told of the files.
    told: Vec<String>,
}

impl PackedRows {
    /// Opens the cache of a config in `folder`, or makes it. Of several processes the first one makes it.
    pub(crate) fn open_or_pack(
        config: &Config,
        folder: &Path,
        stage: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        if !stage.follows() {
            let rows = Self::with_partitions(PARTITION_ROWS, config, folder, stage, progress)?;
            stage.meet();
            return Ok(rows);
        }
        let (_, key) = Self::sources(config, stage)?;
        stage.meet();
        Packed::open(folder, &key)?.ok_or_else(|| not_found(&folder.join(&key))).and_then(Self::of)
    }

    fn with_partitions(
        partition_rows: u64,
        config: &Config,
        folder: &Path,
        stage: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let (sources, key) = Self::sources(config, stage)?;
        if let Some(packed) = Packed::open(folder, &key)? {
            let rows = Self::of(packed)?;
            rows.note.told.iter().for_each(|told| progress.event(Event::Message(told)));
            if let Some(path) = &config.data.rejects {
                rejects::write_bytes(Path::new(path), &rows.packed.file(REJECTS)?)?;
            }
            let (n, place) = (grouped(rows.packed.n_rows() as f64), rows.packed.folder().display());
            progress
                .event(Event::Message(&format!("`data.cache`: {n} rows are read from {place}, which an earlier run has left")));
            return Ok(rows);
        }
        let mut telling = Telling { progress, told: Vec::new() };
        let learnt = Learnt::of(config, &sources, &mut telling)?;
        rejects::write_for(config, stage, &learnt.rejects)?;
        let Telling { progress, told } = telling;
        let has_unlabelled = config.pretrain.rows == RowsConfig::All;
        sources.pack(has_unlabelled, folder, &key, partition_rows, learnt, told, progress).and_then(Self::of)
    }

    /// The files of a config, and the key of their cache.
    fn sources(config: &Config, stage: &mut StageRun<'_>) -> Result<(Sources, String)> {
        let sources = Sources::of(config, &DATA, stage)?;
        let data = DATA.map(|role| stage.data_of(role).map(|digest| digest.sha256.clone()));
        let key = key(config, &sources.schema, &data);
        Ok((sources, key))
    }

    pub(crate) fn of(packed: Packed) -> Result<Self> {
        let refuse = |what: &str| Error::artefact(packed.folder(), what, "remove the folder, and run the stage again");
        let note: Note = serde_json::from_value(packed.note().clone()).map_err(|error| refuse(&error.to_string()))?;
        let text = String::from_utf8(packed.file(TOKENISER)?).map_err(|error| refuse(&error.to_string()))?;
        let tokeniser = Tokeniser::from_json(&text).map_err(|error| refuse(&error.to_string()))?;
        let bytes = packed.file(TRAINING_ROWS)?;
        let training_rows: Vec<u32> = bytes.as_chunks().0.iter().map(|row| u32::from_le_bytes(*row)).collect();
        let is_listed = |row: &u32| u64::from(*row) < note.labelled;
        let has_stride = packed.layout().stride == tokeniser.empty_table(0).stride();
        if !training_rows.iter().all(is_listed) || note.labelled + note.unlabelled != packed.n_rows() || !has_stride {
            return Err(refuse("its files do not belong together"));
        }
        Ok(Self { packed, tokeniser, training_rows, note, numbers: Numbers::Learned })
    }

    /// The labelled rows among them, by their places in their files.
    pub(crate) fn labelled(self) -> Self {
        Self { numbers: Numbers::Labelled, ..self }
    }

    /// Number of labelled rows.
    pub(crate) fn n_labelled(&self) -> u64 {
        self.note.labelled
    }

    pub(crate) fn tokeniser(&self) -> &Tokeniser {
        &self.tokeniser
    }

    /// The training rows of `data.train`.
    pub(crate) fn training_rows(&self) -> &[u32] {
        &self.training_rows
    }

    /// In how many of the rows that are learned from each feature is missing.
    pub(crate) fn missing(&self) -> &[(String, usize)] {
        &self.note.missing
    }

    /// Rows that have a number: the training rows of `data.train`, then the unlabelled ones; or all labelled rows.
    pub(crate) fn n_rows(&self) -> usize {
        match self.numbers {
            Numbers::Learned => self.training_rows.len() + self.note.unlabelled as usize,
            Numbers::Labelled => self.note.labelled as usize,
        }
    }

    /// Numbers of a row.
    pub(crate) fn stride(&self) -> usize {
        self.packed.layout().stride
    }

    /// Reads cells of a row, from its cell `first` on.
    pub(crate) fn read(&self, row: u32, first: usize, cells: &mut [f32]) -> Result<()> {
        let row = match (self.numbers, self.training_rows.get(row as usize)) {
            (Numbers::Labelled, _) => u64::from(row),
            (Numbers::Learned, Some(&row)) => u64::from(row),
            (Numbers::Learned, None) => self.note.labelled + u64::from(row) - self.training_rows.len() as u64,
        };
        self.packed.read(row, first, cells)
    }

    /// Some rows in memory.
    pub(crate) fn table(&self, rows: &[u32]) -> Result<TokenTable> {
        let mut table = self.tokeniser.empty_table(rows.len());
        let mut cells = table.cells().to_vec();
        for (&row, cells) in rows.iter().zip(cells.chunks_exact_mut(self.stride())) {
            self.read(row, 0, cells)?;
        }
        table.swap_cells(&mut cells);
        Ok(table)
    }
}

/// What to say where another process has made a cache and this one does not see it.
pub(crate) fn not_found(folder: &Path) -> Error {
    let what = "the first process has made a cache that this one does not find";
    Error::artefact(folder, what, "name a folder on a shared disk in `data.cache`")
}

/// A hash of what the cells follow from.
/// `contents`: of [`DATA`].
pub(crate) fn key(config: &Config, schema: &Schema, contents: &[Option<String>; 2]) -> String {
    let data = &config.data;
    let follows_from = json!({
        "format": FORMAT,
        "data": contents,
        "schema": schema,
        "read": reading(config),
        "split": [json!(config.seed), json!(data.validation_fraction), json!(data.inner_validation)],
        "rows": config.pretrain.rows,
        "tokeniser": config.tokeniser,
        "target_bins": has_target_bins(config),
    });
    sha256(follows_from.to_string().as_bytes())
}

/// How files are read, as far as it changes rows.
pub(crate) fn reading(config: &Config) -> Json {
    let data = &config.data;
    json!([json!(data.on_bad_row), json!(data.max_bad_rows), json!(data.id)])
}

fn has_target_bins(config: &Config) -> bool {
    matches!(config.pretrain.objective, ObjectiveConfig::Mae(MaeConfig { target: NumberTarget::Bins, .. }))
}

/// Hands on what is told, and keeps it.
struct Telling<'p> {
    progress: &'p mut dyn Progress,
    told: Vec<String>,
}

impl Progress for Telling<'_> {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Message(text) = event {
            self.told.push(text.to_owned());
        }
        self.progress.event(event);
    }

    fn stop(&mut self) -> Option<u8> {
        self.progress.stop()
    }
}

/// The files that rows come from.
pub(crate) struct Sources {
    stage: Stage,
    pub(crate) schema: Schema,
    labelled: Option<(Vec<PathBuf>, ReadOptions)>,
    unlabelled: Option<(Vec<PathBuf>, ReadOptions)>,
}

/// What was learnt of the rows before they are tokenised.
pub(crate) struct Learnt {
    tokeniser: Tokeniser,
    training_rows: Vec<u32>,
    note: Note,
    /// Rows of `data.train` that the schema's labels ignore; they follow the unlabelled ones.
    n_aside: u64,
    rejects: Vec<Reject>,
}

impl Learnt {
    /// So many labelled rows, and a tokeniser that was fitted elsewhere.
    pub(crate) fn by(tokeniser: Tokeniser, labelled: u64) -> Self {
        let note = Note { labelled, ..Note::default() };
        Self { tokeniser, training_rows: Vec::new(), note, n_aside: 0, rejects: Vec::new() }
    }
}

/// Rows of a source, read for the first time.
#[derive(Default)]
pub(crate) struct Found {
    rows: u64,
    missing: Vec<(String, usize)>,
}

impl Found {
    pub(crate) fn add(&mut self, flows: &Flows) {
        self.rows += flows.len() as u64;
        add_missing(&mut self.missing, flows, &all_rows(flows.len()));
    }

    fn tell(&self, files: &[PathBuf], progress: &mut dyn Progress) {
        tell_missing(&self.counts(&name_of(files)), progress);
    }

    pub(crate) fn counts<'f>(&'f self, name: &'f str) -> Counts<'f> {
        Counts::new(name, self.rows, self.missing.iter().map(|(feature, n)| (feature.as_str(), *n as u64)))
    }
}

/// Those of ascending `rows` that are in a batch, by their places there.
pub(crate) fn among(rows: &[u32], batch: Range<u32>) -> Vec<u32> {
    let [from, to] = [batch.start, batch.end].map(|end| rows.partition_point(|&row| row < end));
    rows[from..to].iter().map(|row| row - batch.start).collect()
}

pub(crate) fn add_missing(sums: &mut Vec<(String, usize)>, flows: &Flows, rows: &[u32]) {
    let counts = flows.missing_counts(rows.iter().copied());
    if sums.is_empty() {
        *sums = counts;
    } else {
        sums.iter_mut().zip(counts).for_each(|((_, sum), (_, n))| *sum += n);
    }
}

impl Sources {
    /// Those of these settings, which are inputs of the stage.
    pub(crate) fn of(config: &Config, keys: &[&str], stage: &mut StageRun<'_>) -> Result<Self> {
        let mut source = |key: &str, files: &Option<Files>, labels: Labels| -> Result<Option<(Vec<PathBuf>, ReadOptions)>> {
            let Some(files) = files.as_ref().filter(|_| keys.contains(&key)) else { return Ok(None) };
            let paths = paths_of(key, files)?;
            stage.inputs(key, &paths)?;
            Ok(Some((paths, read_options(config, labels))))
        };
        let labelled = source("data.train", &config.data.train, Labels::Required)?;
        let unlabelled = source("data.unlabelled", &config.data.unlabelled, Labels::Unused)?;
        Ok(Self { stage: stage.stage(), schema: schema_of(config)?, labelled, unlabelled })
    }

    /// Reads the labelled rows for the first time, calls `each` with them and splits them; how many have no label is returned, too, and
    /// those left out.
    pub(crate) fn split(
        &self,
        config: &Config,
        progress: &mut dyn Progress,
        mut each: impl FnMut(&Flows),
    ) -> Result<(Split, Found, u64, Vec<Reject>)> {
        let Some((paths, options)) = &self.labelled else { return Err(no_labels()) };
        let mut splitter = Splitter::new(config.data.validation_fraction, config.seed, config.data.inner_validation)?;
        let (mut found, mut attacks, mut n_aside) = (Found::default(), 0, 0);
        let rejects = each_batch(paths, &self.schema, options, true, "read", progress, |flows, aside| {
            n_aside += aside.map_or(0, |aside| aside.len() as u64);
            if let Some(flows) = flows {
                found.add(flows);
                splitter.add(flows);
                attacks += labels_of(flows).iter().map(|&label| usize::from(label)).sum::<usize>();
                each(flows);
            }
            Ok(())
        })?;
        found.tell(paths, progress);
        let name = labelled_name(config);
        let split = splitter.finish().map_err(|error| Error::Data(format!("{name}: {error}")))?;
        tell_labelled(&name, found.rows as usize, attacks, &split, progress);
        Ok((split, found, n_aside, rejects))
    }

    /// Calls `each` with the labelled rows, batch by batch, and the number of the first.
    pub(crate) fn each_labelled(
        &self,
        first_time: bool,
        what: &'static str,
        progress: &mut dyn Progress,
        mut each: impl FnMut(&Flows, u32) -> Result<()>,
    ) -> Result<Vec<Reject>> {
        let Some((paths, options)) = &self.labelled else { return Ok(Vec::new()) };
        let mut first = 0;
        each_batch(paths, &self.schema, options, first_time, what, progress, |flows, _| {
            flows.map_or(Ok(()), |flows| {
                each(flows, first)?;
                first += flows.len() as u32;
                Ok(())
            })
        })
    }

    /// The same of the rows without a label: those of `data.unlabelled`, then those that were set aside.
    fn each_unlabelled(
        &self,
        (first_time, n_aside): (bool, u64),
        what: &'static str,
        progress: &mut dyn Progress,
        mut each: impl FnMut(&Flows) -> Result<()>,
    ) -> Result<Vec<Reject>> {
        let mut rejects = Vec::new();
        if let Some((paths, options)) = &self.unlabelled {
            let mut found = Found::default();
            rejects = each_batch(paths, &self.schema, options, first_time, what, progress, |flows, _| {
                flows.map_or(Ok(()), |flows| {
                    if first_time {
                        found.add(flows);
                    }
                    each(flows)
                })
            })?;
            found.tell(paths, progress);
        }
        if let Some((paths, options)) = self.labelled.as_ref().filter(|_| n_aside > 0) {
            each_batch(paths, &self.schema, options, false, what, progress, |_, aside| aside.map_or(Ok(()), &mut each))?;
        }
        Ok(rejects)
    }

    /// Tokenises all rows into a cache, or those with a label.
    pub(crate) fn pack(
        &self,
        has_unlabelled: bool,
        folder: &Path,
        key: &str,
        partition_rows: u64,
        learnt: Learnt,
        told: Vec<String>,
        progress: &mut dyn Progress,
    ) -> Result<Packed> {
        let Learnt { tokeniser, training_rows, note, n_aside, rejects } = learnt;
        let text = tokeniser.to_json();
        let stride = tokeniser.empty_table(0).stride();
        let layout = Layout { stride, partition_rows, made_by: sha256(text.as_bytes()) };
        let n_rows = note.labelled + note.unlabelled;
        progress.event(Event::Message(&format!(
            "`data.cache`: {} rows are tokenised into {}, {} on the disk",
            grouped(n_rows as f64),
            folder.join(key).display(),
            size(n_rows * (stride * size_of::<f32>()) as u64)
        )));
        let mut packer = Packer::begin(folder, key, layout, self.stage.name())?;
        if packer.n_kept() > 0 {
            let n_kept = grouped(packer.n_kept() as f64);
            progress.event(Event::Message(&format!("`data.cache`: {n_kept} of them are there already")));
        }
        let mut push = |flows: &Flows| -> Result<()> {
            if packer.has(flows.len()) {
                return Ok(());
            }
            packer.push(tokeniser.tokenise_with_targets(flows)?.cells())
        };
        self.each_labelled(false, "tokenised", progress, |flows, _| push(flows))?;
        if has_unlabelled {
            self.each_unlabelled((false, n_aside), "tokenised", progress, &mut push)?;
        }
        packer.write(TOKENISER, text.as_bytes())?;
        packer.write(TRAINING_ROWS, &training_rows.iter().flat_map(|row| row.to_le_bytes()).collect::<Vec<u8>>())?;
        packer.write(REJECTS, &rejects::to_bytes(&rejects))?;
        packer.finish(json!(Note { told, ..note }))
    }
}

impl Learnt {
    /// Reads the labelled rows to split them, then all rows to fit the tokeniser.
    fn of(config: &Config, sources: &Sources, progress: &mut dyn Progress) -> Result<Self> {
        let (mut labels, mut n_aside, mut training_rows, mut rejects) = (Vec::<u8>::new(), 0, Vec::new(), Vec::new());
        if sources.labelled.is_some() {
            let split;
            (split, _, n_aside, rejects) = sources.split(config, progress, |flows| labels.extend(labels_of(flows)))?;
            training_rows = split.train;
        }
        let is_benign = config.pretrain.rows == RowsConfig::Benign;
        let before = training_rows.len();
        if is_benign {
            training_rows.retain(|&row| labels[row as usize] == 0);
        }
        drop(labels);
        let mut fit = TokeniserFit::new(&sources.schema, &config.tokeniser)?;
        let mut note = Note::default();
        sources.each_labelled(false, "learnt from", progress, |flows, first| {
            let end = first + flows.len() as u32;
            note.labelled = u64::from(end);
            let rows = among(&training_rows, first..end);
            fit.add(flows, &rows);
            add_missing(&mut note.missing, flows, &rows);
            Ok(())
        })?;
        let mut n_unlabelled = 0;
        let more = sources.each_unlabelled((true, n_aside), "learnt from", progress, |flows| {
            n_unlabelled += flows.len() as u64;
            if !is_benign {
                let rows = all_rows(flows.len());
                fit.add(flows, &rows);
                add_missing(&mut note.missing, flows, &rows);
            }
            Ok(())
        })?;
        rejects.extend(more);
        if n_unlabelled > 0 {
            progress.event(Event::Message(&format!("{n_unlabelled} unlabelled rows")));
        }
        if is_benign {
            tell_benign(before, training_rows.len(), n_unlabelled as usize, progress)?;
        } else {
            note.unlabelled = n_unlabelled;
        }
        let (tokeniser, cuts) = if has_target_bins(config) { fit.finish_with_target_bins() } else { fit.finish() }?;
        for cut in cuts {
            progress.event(Event::Message(&cut.to_string()));
        }
        Ok(Self { tokeniser, training_rows, note, n_aside, rejects })
    }
}

fn labels_of(flows: &Flows) -> &[u8] {
    flows.labels().expect("labels were required of the reader")
}

/// Reads files batch by batch; `each` gets the rows, and those without a label that are among them. What there is to say is said
/// the first time.
fn each_batch(
    files: &[PathBuf],
    schema: &Schema,
    options: &ReadOptions,
    first_time: bool,
    what: &'static str,
    progress: &mut dyn Progress,
    mut each: impl FnMut(Option<&Flows>, Option<&Flows>) -> Result<()>,
) -> Result<Vec<Reject>> {
    if first_time {
        tell_files(files, progress);
    }
    let mut reader = FlowReader::open(files, schema, options)?;
    let (mut rows, mut rejects, mut n_labelled) = (0, Vec::new(), 0);
    let result = loop {
        if let Err(error) = progress.go_on() {
            break Err(error);
        }
        let flows = match reader.next_batch(READ_ROWS) {
            Ok(flows) => flows,
            Err(error) => break Err(error.into()),
        };
        let aside = reader.take_unlabelled();
        rejects.extend(reader.take_rejects());
        if let Err(error) = each(flows.as_ref(), aside.as_ref()) {
            break Err(error);
        }
        let Some(flows) = flows else { break Ok(()) };
        n_labelled += flows.len();
        rows += flows.len() as u64;
        progress.event(Event::Rows { what, rows, share: reader.share_read() });
    };
    progress.event(Event::Rows { what, rows, share: Some(1.0) });
    if first_time {
        tell(&mut reader, progress);
    }
    result?;
    if n_labelled == 0 {
        return Err(Error::Data("the files: no row has a label".to_owned()));
    }
    Ok(rejects)
}

/// Bytes in words.
pub(crate) fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
