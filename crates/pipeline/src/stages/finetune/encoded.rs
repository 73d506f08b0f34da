//! Tokenised rows of finetuning, in memory or in a packed cache on the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nids_config::{Config, FinetuneFrom, Stage};
use nids_detect::read::warn_of_missing;
use nids_flows::{Flows, RowSample, TokenTable, Tokeniser, all_rows};
use nids_store::artefacts::sha256;
use nids_store::packed::Packed;
use nids_store::progress::{Event, Progress, grouped};
use nids_store::run::StageRun;
use nids_store::{Error, Result};
use serde_json::json;

use crate::data::{Labelled, labelled, labelled_name, schema_of, warn_of_newly_missing};
use crate::packed::{self, DATA, FORMAT, Learnt, PARTITION_ROWS, PackedRows, Sources, add_missing, among, not_found};
use crate::rejects;
use crate::step_rows::PackedSteps;

/// Rows that are in memory at once while those of a cache are looked at.
const AT_ONCE: usize = if cfg!(test) { 16 } else { 1 << 14 };

/// Tokenised rows.
pub(crate) enum Encoded {
    Memory(TokenTable),
    Packed(Arc<PackedRows>),
}

impl Encoded {
    /// All rows.
    ///
    /// # Panics
    /// If they are in a cache, which is for trainings alone that do without ([`folder`]).
    pub(crate) fn table(&self) -> &TokenTable {
        match self {
            Self::Memory(table) => table,
            Self::Packed(_) => unreachable!("the config was looked at: it needs all rows at once"),
        }
    }

    /// What brings the rows of steps into memory, where they are not.
    pub(crate) fn steps(&self, batch_size: usize) -> Result<Option<PackedSteps>> {
        match self {
            Self::Memory(_) => Ok(None),
            Self::Packed(rows) => PackedSteps::new(Arc::clone(rows), batch_size).map(Some),
        }
    }

    /// The labelled rows without their features, and their tokens, as `encode` reads them.
    pub(crate) fn of_labelled(
        config: &Config,
        tokeniser: &Tokeniser,
        stage: &mut StageRun<'_>,
        progress: &mut dyn Progress,
    ) -> Result<(Labelled, Self)> {
        let name = labelled_name(config);
        let Some(folder) = packed::folder_for(config, &[&config.data.train], stage.folder())? else {
            let mut labelled = labelled(config, stage, progress)?;
            warn_of_newly_missing(tokeniser, &labelled.flows, &name, progress);
            let all = all_rows(labelled.flows.len());
            let table = tokeniser.tokenise_and_free(vec![(&mut labelled.flows, &all)])?;
            return Ok((labelled, Self::Memory(table)));
        };
        let sources = Sources::of(config, &["data.train"], stage)?;
        let Read { labelled, missing } = Read::from(&sources, config, false, stage, progress, |_| {})?;
        warn_of_missing(tokeniser, &missing.counts(&name), progress);
        let of_rows = (tokeniser, labelled.flows.len());
        let rows = open_or_pack(config, &folder, &sources, of_rows, stage, progress)?;
        Ok((labelled, Self::Packed(Arc::new(rows))))
    }

    /// What `of` says of `rows`, all of which are in memory meanwhile.
    pub(crate) fn with<T>(&self, rows: &[u32], of: impl FnOnce(&TokenTable, &[u32]) -> T) -> Result<T> {
        match self {
            Self::Memory(table) => Ok(of(table, rows)),
            Self::Packed(packed) => Ok(of(&packed.table(rows)?, &all_rows(rows.len()))),
        }
    }

    /// What `of` says of `rows`, some at a time.
    pub(crate) fn each<T>(&self, rows: &[u32], mut of: impl FnMut(&TokenTable, &[u32]) -> Vec<T>) -> Result<Vec<T>> {
        if let Self::Memory(table) = self {
            return Ok(of(table, rows));
        }
        let mut all = Vec::new();
        for rows in rows.chunks(AT_ONCE) {
            all.extend(self.with(rows, &mut of)?);
        }
        Ok(all)
    }
}

/// The folder of caches, by `data.cache`, where a training can do without all rows in memory; else None, and what keeps them there.
pub(crate) fn folder(config: &Config, run: &Path) -> Result<std::result::Result<Option<PathBuf>, &'static str>> {
    let Some(folder) = packed::folder_for(config, &[&config.data.train], run)? else { return Ok(Ok(None)) };
    let settings = &config.finetune;
    Ok(match settings.from {
        FinetuneFrom::Latents => Err("`finetune.from: latents` reads those that `encode` has left"),
        FinetuneFrom::Scratch => Err("`finetune.from: scratch` learns the tokeniser from all of them"),
        FinetuneFrom::Frozen | FinetuneFrom::Features => Err("`finetune.heads` are fitted on all of them"),
        FinetuneFrom::Pretrained if !settings.heads().is_empty() => Err("`finetune.heads` are fitted on all of them"),
        FinetuneFrom::Pretrained if settings.mean_teacher.is_some() => Err("`finetune.mean_teacher` reads them"),
        FinetuneFrom::Pretrained if settings.teachers.is_some() => Err("`finetune.teachers` read them"),
        FinetuneFrom::Pretrained => Ok(Some(folder)),
    })
}

/// Labelled rows that were read once, without their features.
pub(crate) struct Read {
    pub(crate) labelled: Labelled,
    pub(crate) missing: packed::Found,
}

impl Read {
    /// Calls `each` with the rows as long as they have their features. `ids`: whether they are needed.
    pub(crate) fn from(
        sources: &Sources,
        config: &Config,
        ids: bool,
        stage: &StageRun<'_>,
        progress: &mut dyn Progress,
        mut each: impl FnMut(&Flows),
    ) -> Result<Self> {
        let mut flows = None::<Flows>;
        let (split, missing, _, left_out) = sources.split(config, progress, |some| {
            each(some);
            let some = some.labels_alone(ids);
            match &mut flows {
                Some(flows) => flows.extend(some),
                None => flows = Some(some),
            }
        })?;
        rejects::write_for(config, stage, &left_out)?;
        let flows = flows.unwrap_or_else(|| Flows::none(&sources.schema));
        Ok(Self { labelled: Labelled { flows, split }, missing })
    }
}

/// What is learnt of rows that are read again.
pub(crate) struct Sampled {
    /// Of the training rows, and of those whose labels are used.
    pub(crate) samples: [RowSample; 2],
    /// In how many of the latter each feature is missing.
    pub(crate) missing: Vec<(String, usize)>,
}

/// Reads the labelled rows again, of which only `train` and, among them, `with_labels` are looked at.
pub(crate) fn sampled(sources: &Sources, train: &[u32], with_labels: &[u32], progress: &mut dyn Progress) -> Result<Sampled> {
    let mut samples = [(); 2].map(|()| RowSample::keeping(RowSample::ROWS, &sources.schema, true));
    let mut missing = Vec::new();
    sources.each_labelled(false, "learnt from", progress, |flows, first| {
        let [among_train, among_labels] = [train, with_labels].map(|rows| among(rows, first..first + flows.len() as u32));
        samples[0].add(flows, &among_train);
        samples[1].add(flows, &among_labels);
        add_missing(&mut missing, flows, &among_labels);
        Ok(())
    })?;
    Ok(Sampled { samples, missing })
}

/// Opens the cache of the labelled rows, that of pretraining or one of their own, or makes the latter. Of several processes the first
/// one makes it.
pub(crate) fn open_or_pack(
    config: &Config,
    folder: &Path,
    sources: &Sources,
    of_rows: (&Tokeniser, usize),
    stage: &StageRun<'_>,
    progress: &mut dyn Progress,
) -> Result<PackedRows> {
    if stage.follows() {
        stage.meet();
        return opened_or_packed(config, folder, sources, of_rows, stage, progress);
    }
    let rows = opened_or_packed(config, folder, sources, of_rows, stage, progress)?;
    stage.meet();
    Ok(rows)
}

fn opened_or_packed(
    config: &Config,
    folder: &Path,
    sources: &Sources,
    (tokeniser, n_labelled): (&Tokeniser, usize),
    stage: &StageRun<'_>,
    progress: &mut dyn Progress,
) -> Result<PackedRows> {
    let text = tokeniser.to_json();
    let is_of_these = |rows: &PackedRows| rows.n_labelled() == n_labelled as u64 && rows.tokeniser().to_json() == text;
    let data = stage.data_of("data.train").map(|digest| digest.sha256.clone());
    let own = sha256(
        json!({
            "format": FORMAT,
            "labelled": data,
            "schema": sources.schema,
            "read": packed::reading(config),
            "tokeniser": sha256(text.as_bytes()),
        })
        .to_string()
        .as_bytes(),
    );
    for key in of_pretraining(config, sources, data.as_deref(), stage)?.into_iter().chain([own.clone()]) {
        let Some(packed) = Packed::open(folder, &key)? else { continue };
        let rows = PackedRows::of(packed)?;
        if is_of_these(&rows) {
            let (n, place) = (grouped(n_labelled as f64), folder.join(&key).display().to_string());
            progress.event(Event::Message(&format!(
                "`data.cache`: {n} labelled rows are read from {place}, which an earlier stage has left"
            )));
            return Ok(rows.labelled());
        }
        if key == own {
            return Err(Error::artefact(
                folder.join(&key),
                "of other rows than its name says",
                "remove it with `nids-mixer cache FOLDER --clean`, and run the stage again",
            ));
        }
    }
    if stage.follows() {
        return Err(not_found(&folder.join(&own)));
    }
    let learnt = Learnt::by(tokeniser.clone(), n_labelled as u64);
    let packed = sources.pack(false, folder, &own, PARTITION_ROWS, learnt, Vec::new(), progress)?;
    PackedRows::of(packed).map(PackedRows::labelled)
}

/// The key of the cache that pretraining has made of the same labelled rows; None if its rows are others.
fn of_pretraining(config: &Config, sources: &Sources, data: Option<&str>, stage: &StageRun<'_>) -> Result<Option<String>> {
    let run = stage.run();
    let theirs = run.config_of(Stage::Pretrain)?;
    let [train, unlabelled] = DATA.map(|role| run.data_of(Stage::Pretrain, role));
    let contents = [train?, unlabelled?].map(|digest| digest.map(|digest| digest.sha256));
    let schema = schema_of(&theirs)?;
    let is_same =
        contents[0].as_deref() == data && schema == sources.schema && packed::reading(&theirs) == packed::reading(config);
    Ok(is_same.then(|| packed::key(&theirs, &schema, &contents)))
}
