//! Where a command may write its results: never over a file that it reads, nor over an artefact of a run.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::artefacts;
use crate::disk::{FileId, folder_of};
use crate::error::{Error, Result};
use crate::run::Run;
use nids_config::Config;

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub enum Output<'o> {
    /// The file of `--output`.
    File(&'o Path),
    /// The file of `--config`, of a command that writes one.
    Config(&'o Path),
    /// The file of `--rejects`.
    Rejects(&'o Path),
    /// The file of `--report`.
    Report(&'o Path),
    /// The file of `--drift`.
    Drift(&'o Path),
    /// The file of `--state`.
    State(&'o Path),
    /// The file of `--metrics`.
    Metrics(&'o Path),
    /// Stdout, which may be a file as well.
    Stdout(&'o File),
}

/// What a command reads.
#[derive(Clone, Copy, Debug)]
pub enum Source<'s> {
    /// The argument that names a file, and the file.
    File(&'s str, &'s Path),
    /// A config, which names files.
    Config(&'s Config),
    /// A run folder, together with the data that its stages have read.
    Run(&'s Run),
}

/// Stdout as a file. Writing to it reports failures that the standard library hides.
#[cfg(unix)]
pub fn stdout() -> Result<File> {
    use std::os::fd::AsFd as _;
    let is_open = !nids_kernels::stdout_was_closed();
    let file = if is_open { io::stdout().as_fd().try_clone_to_owned() } else { Err(io::Error::other("it is closed")) };
    file.map(File::from).map_err(Error::io("stdout", "write"))
}

/// Refuses an output that would replace one of the sources or a file of a run folder, under this name or another one (a link,
/// another path). Must be called before any work begins.
pub fn check(output: Output<'_>, sources: &[Source<'_>]) -> Result<()> {
    let target = Target::new(output);
    let refuse = |what: String, role: &str| {
        let shown = match output {
            Output::File(path) => format!("`--output {}`", path.display()),
            Output::Config(path) => format!("`--config {}`", path.display()),
            Output::Rejects(path) => format!("`--rejects {}`", path.display()),
            Output::Report(path) => format!("`--report {}`", path.display()),
            Output::Drift(path) => format!("`--drift {}`", path.display()),
            Output::State(path) => format!("`--state {}`", path.display()),
            Output::Metrics(path) => format!("`--metrics {}`", path.display()),
            Output::Stdout(_) => "stdout".to_owned(),
        };
        Err(Error::Usage(format!("{shown} is {what}, which is {role}: write to another file")))
    };
    for source in sources {
        match source {
            Source::File(argument, path) if target.is(path) => {
                return refuse(format!("the file of `{argument} {}`", path.display()), "only read");
            }
            Source::File(..) => {}
            Source::Config(config) => {
                for (key, path) in config.files() {
                    if target.is(path) && !target.may_get_rows(key) {
                        return refuse(format!("the file of `{key}: {}`", path.display()), "only read");
                    }
                }
            }
            Source::Run(run) => {
                // the content is compared as well, since names in a manifest are relative to the folder the stage was started in
                for (key, path, digest) in run.data() {
                    let is_unchanged = || digest.is_none_or(|digest| artefacts::digest(&path).is_ok_and(|found| found == digest));
                    if target.is(&path) && !target.may_get_rows(&key) && is_unchanged() {
                        return refuse(format!("the `{key}` of the run folder {}", run.folder().display()), "only read");
                    }
                }
            }
        }
    }
    let given = sources.iter().filter_map(|source| if let Source::Run(run) = source { Some((*run).clone()) } else { None });
    // the folder of the target, and those around it where that is `latents` or `checkpoints`, or `latents` of a stage at work
    let around =
        target.place.iter().flat_map(|place| place.ancestors().skip(1).take(3)).filter_map(|folder| Run::open(folder).ok());
    for run in given.chain(around.filter(Run::has_finished_any)) {
        if let Some(name) = run.owned(target.place.as_deref(), |path| target.is(path)) {
            return refuse(format!("`{name}` of the run folder {}", run.folder().display()), "written by its stages alone");
        }
    }
    Ok(())
}

struct Target {
    /// Whether it is stdout.
    is_stdout: bool,
    /// Metadata of the file, if it exists and is a plain file.
    metadata: Option<Metadata>,
    /// The path of the file, which may not exist yet, with all links resolved; unknown for stdout.
    place: Option<PathBuf>,
}

impl Target {
    fn new(output: Output<'_>) -> Self {
        let (metadata, place) = match output {
            Output::File(path)
            | Output::Config(path)
            | Output::Rejects(path)
            | Output::Report(path)
            | Output::Drift(path)
            | Output::State(path)
            | Output::Metrics(path) => {
                let to_be = || Some(fs::canonicalize(folder_of(path)).ok()?.join(path.file_name()?));
                (fs::metadata(path), fs::canonicalize(path).ok().or_else(to_be))
            }
            Output::Stdout(file) => (file.metadata(), None),
        };
        let is_stdout = matches!(output, Output::Stdout(_));
        Self { is_stdout, metadata: metadata.ok().filter(Metadata::is_file), place }
    }

    /// Whether `path` is the same file.
    fn is(&self, path: &Path) -> bool {
        let Some(metadata) = &self.metadata else { return false };
        if cfg!(unix) {
            return fs::metadata(path).is_ok_and(|found| FileId::of(&found) == FileId::of(metadata));
        }
        self.place.is_some() && fs::canonicalize(path).ok() == self.place
    }

    /// Whether rows may be added to the file of `key`, as with `query >> rows.txt`. The list of labelled rows has been read by then.
    fn may_get_rows(&self, key: &str) -> bool {
        self.is_stdout && key == "finetune.label_rows"
    }
}
