//! Follows the log of a sensor and appends an alert for every flow that looks like an attack.
//!
//! Alerts are on the disk before the state says that their lines were read, so that a crash between the two repeats lines and loses none
//! (at least once). An alert that is in the file already is known by its id and not written again.

mod alert;
mod community;
mod follow;
mod health;
mod model;
mod record;
mod rows;
mod state;
mod tail;

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nids_detect::read::tell_drift;
use nids_flows::FlowReader;
use nids_store::progress::{Event, Progress};
use nids_store::{Appended, Error, Result};

use super::predict::PredictOptions;
use super::verdict_writer::{Cells, Columns, VerdictFormat, VerdictWriter, Verdicts};
use alert::{Alert, id_of};
use follow::Follower;
use health::Health;
use model::{Loaded, Watched, said_of_row};
use record::Names;
use rows::{BadLine, Rows};
use state::State;
use tail::{Batch, Line};

pub use alert::AlertFormat;
pub use state::WatchCounts;

/// How often files are looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long a disk that takes nothing is waited for before it is tried again.
const PATIENCE: Duration = Duration::from_secs(1);
/// How old a state may be while there is nothing to write; a crash repeats so much work.
const SAVE: Duration = Duration::from_secs(1);
/// Alerts beyond the state that are looked at for ids after a crash, in bytes.
const MAX_BEYOND: u64 = 256 << 20;
/// Bad lines that are told one by one.
const TOLD: u64 = 5;
const REJECTS: [&str; 5] = ["file", "place", "column", "value", "reason"];

/// What `watch` reads and writes.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// A file, a folder or a pattern.
    pub data: String,
    /// The file that alerts are appended to; None: stdout.
    pub output: Option<PathBuf>,
    /// Where it keeps how far it has read.
    pub state: Option<PathBuf>,
    /// How alerts are written.
    pub format: AlertFormat,
    /// The file that lines are appended to that cannot be read.
    pub rejects: Option<PathBuf>,
    /// The file that Prometheus reads.
    pub metrics: Option<PathBuf>,
    /// How flows are read and judged, as by `predict`.
    pub predict: PredictOptions,
    /// Whether it ends at the end of what is there.
    pub once: bool,
    /// How often it says how it is.
    pub heartbeat: Duration,
    /// Lines of a batch, at most; None: as many as the model takes at once.
    pub batch_rows: Option<usize>,
    /// The seconds since 1970.
    pub now: fn() -> f64,
}

/// Why a model is served no longer.
enum Served {
    Reload(Box<Loaded>),
    Done,
}

/// Follows `data` until a signal ends it, or with `once` to its end. `stdout` gets the alerts where no file does.
///
/// # Errors
/// What `predict` says of the run, a file that holds no text of flows or lacks columns when it is opened first, a state of other data, or
/// with `once` a disk that takes nothing.
pub fn watch(folder: &Path, options: &WatchOptions, stdout: &mut dyn Write, progress: &mut dyn Progress) -> Result<WatchCounts> {
    let mut loaded = Loaded::open(folder, &options.predict, progress)?;
    let mut work = Work::open(folder, options, stdout, &loaded, progress)?;
    loop {
        match work.serve(&loaded, progress)? {
            Served::Reload(new) => loaded = *new,
            Served::Done => return Ok(work.state.counts),
        }
    }
}

/// Where alerts go.
enum Alerts<'o> {
    File(Appended),
    Stdout(&'o mut dyn Write, bool),
}

/// What stays while models come and go.
struct Work<'o> {
    folder: &'o Path,
    options: &'o WatchOptions,
    follower: Follower,
    alerts: Alerts<'o>,
    rejects: Option<Appended>,
    state: State,
    saved: Instant,
    is_saved: bool,
    /// Ids of alerts that are in the file although the state does not know of their lines.
    beyond: HashSet<String>,
    /// The header that was looked at last, and what is wrong with it.
    header: Option<(Vec<u8>, Option<String>)>,
    health: Health,
    told: Vec<String>,
}

/// What a batch adds to the files.
#[derive(Default)]
struct Lines {
    alerts: Vec<u8>,
    rejects: Vec<u8>,
}

impl<'o> Work<'o> {
    fn open(
        folder: &'o Path,
        options: &'o WatchOptions,
        stdout: &'o mut dyn Write,
        loaded: &Loaded,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let state = match &options.state {
            Some(path) => State::read(path, &options.data)?,
            None => None,
        };
        let mut told = Vec::new();
        let mut say_cut = |path: &Path, cut: u64| {
            if cut > 0 {
                told.push(format!("{}: {cut} bytes of a last line that a crash had cut short are taken away", path.display()));
            }
        };
        let alerts = match &options.output {
            Some(path) => {
                let header = header_of(options.format, loaded)?;
                let beginning = if options.format == AlertFormat::Csv { &header } else { options.format.beginning() };
                let opened = Appended::open(path, beginning)?;
                say_cut(path, opened.cut);
                Alerts::File(opened.file)
            }
            None => Alerts::Stdout(stdout, true),
        };
        let rejects = match &options.rejects {
            Some(path) => {
                let opened = Appended::open(path, &(REJECTS.join(",") + "\n"))?;
                say_cut(path, opened.cut);
                Some(opened.file)
            }
            None => None,
        };
        if options.state.is_none() {
            told.push("no state is kept without `--output` or `--state`: the next start reads from the beginning".to_owned());
        }
        let positions = state.as_ref().map_or(&[][..], |state| &state.positions);
        let n_told = told.len();
        let follower = Follower::open(&options.data, positions, options.once, &mut told)?;
        let n_events = (told.len() - n_told) as u64;
        let beyond = match (&alerts, &state) {
            (Alerts::File(file), Some(state)) => known_beyond(file, state, options.format)?,
            _ => HashSet::new(),
        };
        if !beyond.is_empty() {
            told.push(format!("{} alerts were written after the state was: they are not written again", beyond.len()));
        }
        told.drain(..).for_each(|text| progress.event(Event::Message(&text)));
        let now = Instant::now();
        let mut state = state.unwrap_or_else(|| State::new(&options.data));
        state.counts.events += n_events;
        Ok(Self {
            folder,
            options,
            follower,
            alerts,
            rejects,
            state,
            saved: now,
            is_saved: true,
            beyond,
            header: None,
            health: Health::new(),
            told,
        })
    }

    /// Follows with one model.
    fn serve(&mut self, loaded: &Loaded, progress: &mut dyn Progress) -> Result<Served> {
        let (mut watched, header) = (Watched::new(loaded), header_of(self.options.format, loaded)?);
        let max_lines = self.options.batch_rows.unwrap_or_else(|| loaded.batch_rows());
        self.health.set_model(&loaded.model);
        loop {
            if progress.stop().is_some() {
                self.end(&watched, progress)?;
                return Ok(Served::Done);
            }
            if progress.reload()
                && let Some(new) = self.reload(progress)
            {
                return Ok(Served::Reload(Box::new(new)));
            }
            if self.health.is_due(self.options.heartbeat) {
                self.beat(&mut watched, progress);
            }
            let batch = self.follower.next(loaded.schema(), max_lines, &mut self.told);
            self.state.counts.events += self.told.len() as u64;
            self.told.drain(..).for_each(|text| progress.event(Event::Message(&text)));
            let Some(batch) = batch? else {
                if !self.is_saved || self.state.positions != self.follower.positions() {
                    self.save(true, progress)?;
                }
                if self.options.once {
                    if self.follower.has_partial() {
                        progress.event(Event::Message("a last line has no line end yet: it is read when it has"));
                    }
                    self.end(&watched, progress)?;
                    return Ok(Served::Done);
                }
                sleep(POLL, progress);
                continue;
            };
            if !self.take(&batch, loaded, &header, &mut watched, progress)? {
                // what was read of this batch is read again by whoever goes on
                progress.event(Event::Message("stopped in the middle of a batch, which is read again at the next start"));
                return Ok(Served::Done);
            }
        }
    }

    /// Judges a batch and writes its alerts, then the state; false where a signal came before that.
    fn take(
        &mut self,
        batch: &Batch,
        loaded: &Loaded,
        header: &str,
        watched: &mut Watched<'_>,
        progress: &mut dyn Progress,
    ) -> Result<bool> {
        let rows = match self.look_at_header(batch, loaded, progress)? {
            None => rows::read(batch, loaded.schema(), &self.options.predict.read),
            Some(reason) => Rows { bad: all_bad(batch, &reason), ..Rows::default() },
        };
        let mut lines = Lines::default();
        let names = Names::of(batch.written, &batch.header, loaded.schema());
        let read_at = (self.options.now)();
        for (flows, of) in &rows.pieces {
            let Some(judged) = watched.judge(flows, progress)? else { return Ok(false) };
            for (&row, said) in judged.alarms.iter().zip(&judged.reasons) {
                let line = &of[row as usize];
                let bytes = batch.line(line);
                let alert = Alert {
                    id: id_of(bytes, line.offset),
                    record: names.record(bytes),
                    said: said_of_row(&judged.columns, row, said),
                    model: &loaded.model,
                    file: batch.path.display().to_string(),
                    offset: line.offset,
                    read_at,
                };
                self.state.counts.alerts += 1;
                self.render(&alert, &judged.columns, row, &mut lines.alerts)?;
            }
        }
        self.count(&rows, batch, &mut lines.rejects, progress);
        if let Some(line) = batch.lines.last() {
            self.health.saw(&names.record(batch.line(line)), read_at);
        }
        self.write(lines, header, progress)
    }

    /// What is wrong with the header of a batch; an error where it is the first that was seen.
    fn look_at_header(&mut self, batch: &Batch, loaded: &Loaded, progress: &mut dyn Progress) -> Result<Option<String>> {
        if let Some((known, wrong)) = &self.header
            && *known == batch.header
        {
            return Ok(wrong.clone());
        }
        let mut wrong = None;
        if !batch.header.is_empty() {
            let read =
                nids_flows::ReadOptions { may_be_empty: true, ids: nids_flows::Ids::Row, ..self.options.predict.read.clone() };
            match FlowReader::of_bytes(&batch.path, batch.header.clone(), loaded.schema(), &read) {
                Ok(mut reader) => reader.take_notes().iter().for_each(|note| progress.event(Event::Message(note))),
                Err(error) if self.header.is_none() && self.state.counts.flows == 0 => return Err(error.into()),
                Err(error) => {
                    progress.event(Event::Message(&format!("warning: {error}: none of its lines can be read")));
                    wrong = Some(error.to_string());
                }
            }
        }
        self.header = Some((batch.header.clone(), wrong.clone()));
        Ok(wrong)
    }

    /// Adds an alert to the lines that are written, unless it is in the file.
    fn render(&mut self, alert: &Alert<'_>, columns: &[(&'static str, Cells<'_>)], row: u32, out: &mut Vec<u8>) -> Result<()> {
        let mut line = match self.options.format {
            AlertFormat::Ecs => alert.ecs().to_string().into_bytes(),
            AlertFormat::Ocsf => alert.ocsf().to_string().into_bytes(),
            AlertFormat::Csv => {
                let id = alert.record.uid.clone().unwrap_or_else(|| alert.id.clone());
                let own = columns.iter().map(|(name, cells)| (*name, cells.select(&[row]))).collect();
                let text = csv(own, &[id])?;
                let start = text.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
                text[start..].trim_ascii_end().to_vec()
            }
        };
        let is_known = !self.beyond.is_empty()
            && match self.options.format {
                AlertFormat::Csv => self.beyond.remove(&*String::from_utf8_lossy(&line)),
                _ => self.beyond.remove(&alert.id),
            };
        if !is_known {
            line.push(b'\n');
            out.append(&mut line);
        }
        Ok(())
    }

    /// Counts what became of the lines of a batch, and adds the bad ones to those that are written.
    fn count(&mut self, rows: &Rows, batch: &Batch, out: &mut Vec<u8>, progress: &mut dyn Progress) {
        let file = batch.path.display().to_string();
        let too_long = batch.too_long.iter().map(|&offset| BadLine {
            offset,
            column: String::new(),
            value: String::new(),
            reason: format!("a line of more than {} bytes", tail::MAX_LINE),
        });
        let bad: Vec<BadLine> = rows.bad.iter().cloned().chain(too_long).collect();
        let counts = &mut self.state.counts;
        counts.lines += (batch.lines.len() + batch.too_long.len()) as u64;
        counts.flows += rows.n_flows() as u64;
        counts.passed += rows.n_passed;
        self.health.add(rows.n_flows() as u64);
        let mut lines = csv::Writer::from_writer(out);
        let mut last = None;
        for BadLine { offset, column, value, reason } in bad {
            if last.replace(offset) != Some(offset) {
                counts.rejected += 1;
                if counts.rejected <= TOLD {
                    let more = if counts.rejected == TOLD { "; others are counted" } else { "" };
                    let of = if column.is_empty() { String::new() } else { format!("column \"{column}\": ") };
                    progress.event(Event::Message(&format!("{file}: the line at byte {offset} is left out: {of}{reason}{more}")));
                }
            }
            // bytes in memory can always be written
            let _ = lines.write_record([&file, &format!("byte {offset}"), &column, &value, &reason]);
        }
    }

    /// Writes alerts, then bad lines, then the state. Waits for a disk that takes nothing; false where a signal ends that.
    fn write(&mut self, lines: Lines, header: &str, progress: &mut dyn Progress) -> Result<bool> {
        let Lines { alerts, rejects } = lines;
        let has_written = !alerts.is_empty() || !rejects.is_empty();
        if !alerts.is_empty() {
            let Self { alerts: out, options, health, .. } = self;
            let is_written = match out {
                Alerts::File(file) => append(file, header, &alerts, options.once, health, progress)?,
                Alerts::Stdout(out, is_new) => {
                    if std::mem::take(is_new) {
                        out.write_all(header.as_bytes()).map_err(Error::io("stdout", "write"))?;
                    }
                    out.write_all(&alerts).and_then(|()| out.flush()).map_err(Error::io("stdout", "write"))?;
                    true
                }
            };
            if !is_written {
                return Ok(false);
            }
        }
        if let Some(file) = self.rejects.as_mut().filter(|_| !rejects.is_empty()) {
            let header = REJECTS.join(",") + "\n";
            if !append(file, &header, &rejects, self.options.once, &mut self.health, progress)? {
                return Ok(false);
            }
        }
        self.is_saved = false;
        self.save(has_written, progress)
    }

    /// Writes the state if it is time to, or `now`; false where a signal came while the disk took nothing.
    fn save(&mut self, now: bool, progress: &mut dyn Progress) -> Result<bool> {
        self.state.positions = self.follower.positions();
        if !now && self.saved.elapsed() < SAVE {
            return Ok(true);
        }
        let Some(path) = &self.options.state else {
            self.is_saved = true;
            return Ok(true);
        };
        self.state.output = if let Alerts::File(file) = &self.alerts { Some(file.place()) } else { None };
        let Self { state, options, health, .. } = self;
        let is_written = patiently(options.once, path, health, progress, || state.write(path))?;
        (self.saved, self.is_saved) = (Instant::now(), is_written);
        Ok(is_written)
    }

    /// Opens the run again; None, and the old model stays, where that fails.
    fn reload(&mut self, progress: &mut dyn Progress) -> Option<Loaded> {
        match Loaded::open(self.folder, &self.options.predict, progress) {
            Ok(new) => {
                let version = &new.model.version;
                progress.event(Event::Message(&format!("watch: {} is read again, version {version}", self.folder.display())));
                self.header = None;
                Some(new)
            }
            Err(error) => {
                let text = format!("error: {}: the model of before stays: {error}", self.folder.display());
                progress.event(Event::Message(&text));
                None
            }
        }
    }

    /// Says how it is.
    fn beat(&mut self, watched: &mut Watched<'_>, progress: &mut dyn Progress) {
        let behind = self.follower.behind();
        let drift = watched.drift();
        let line = self.health.line(&self.state.counts, behind, drift.as_ref());
        progress.event(Event::Message(&line));
        if let Some(path) = &self.options.metrics {
            let text = self.health.prometheus(&self.state.counts, behind, drift.as_ref(), (self.options.now)());
            if let Err(error) = nids_store::artefacts::write_atomic(path, |out| out.write_all(text.as_bytes())) {
                progress.event(Event::Message(&format!("warning: {error}")));
            }
        }
        self.health.begin();
    }

    /// Says how it was, with the state written.
    fn end(&mut self, watched: &Watched<'_>, progress: &mut dyn Progress) -> Result<()> {
        if !self.is_saved {
            self.save(true, progress)?;
        }
        let (behind, drift) = (self.follower.behind(), watched.drift_now());
        if let Some(path) = &self.options.metrics {
            let text = self.health.prometheus(&self.state.counts, behind, drift.as_ref(), (self.options.now)());
            nids_store::artefacts::write_atomic(path, |out| out.write_all(text.as_bytes()))?;
        }
        if drift.as_ref().is_some_and(|drift| drift.rows > 0) {
            let unknown = "the run has no profile";
            tell_drift(&self.options.data, drift.as_ref().ok_or(unknown), progress);
        }
        Ok(())
    }
}

/// All lines of a batch, which cannot be read.
fn all_bad(batch: &Batch, reason: &str) -> Vec<BadLine> {
    let bad =
        |line: &Line| BadLine { offset: line.offset, column: String::new(), value: String::new(), reason: reason.to_owned() };
    batch.lines.iter().map(bad).collect()
}

/// Ids of the alerts that a file holds beyond what the state knows of.
fn known_beyond(file: &Appended, state: &State, format: AlertFormat) -> Result<HashSet<String>> {
    let (id, len) = file.place();
    let Some((_, from)) = state.output.filter(|(known, known_len)| *known == id && *known_len < len) else {
        return Ok(HashSet::new());
    };
    if len - from > MAX_BEYOND {
        return Ok(HashSet::new());
    }
    let bytes = file.lines_from(from).map_err(Error::io("the alerts", "read"))?;
    Ok(bytes.split(|&byte| byte == b'\n').filter_map(|line| format.id_of(line)).filter(|id| !id.is_empty()).collect())
}

/// Rows of CSV as `predict` writes them, with a header line.
fn csv(own: Vec<(&'static str, Cells<'_>)>, ids: &[String]) -> Result<Vec<u8>> {
    let mut text: Vec<u8> = Vec::new();
    let columns = Columns::new(&own, &[])?;
    let mut writer = VerdictWriter::new(VerdictFormat::Csv, columns, &mut text)?;
    writer.write(&Verdicts { ids, own, carried: &[] })?;
    writer.finish()?;
    Ok(text)
}

/// The header line of CSV; other formats have none.
fn header_of(format: AlertFormat, loaded: &Loaded) -> Result<String> {
    if format != AlertFormat::Csv {
        return Ok(String::new());
    }
    let text = csv(loaded.no_columns()?, &[])?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Appends lines, after `header` where the file is empty.
fn append(
    file: &mut Appended,
    header: &str,
    lines: &[u8],
    once: bool,
    health: &mut Health,
    progress: &mut dyn Progress,
) -> Result<bool> {
    let path = file.path().to_owned();
    let mut has_moved = false;
    let is_written = patiently(once, &path, health, progress, || {
        has_moved |= file.reopen_if_moved()?;
        if file.is_empty() && !header.is_empty() {
            return file.append(&[header.as_bytes(), lines].concat());
        }
        file.append(lines)
    })?;
    if has_moved {
        progress.event(Event::Message(&format!("{}: was moved away: a new file is begun", path.display())));
    }
    Ok(is_written)
}

/// Tries to write until the disk takes it; false where a signal came first. With `once` the first failure is an error.
fn patiently(
    once: bool,
    path: &Path,
    health: &mut Health,
    progress: &mut dyn Progress,
    mut write: impl FnMut() -> io::Result<()>,
) -> Result<bool> {
    let mut since: Option<Instant> = None;
    loop {
        match write() {
            Ok(()) => {
                if let Some(since) = since {
                    let seconds = since.elapsed().as_secs();
                    progress.event(Event::Message(&format!("{}: can be written again after {seconds} s", path.display())));
                }
                return Ok(true);
            }
            Err(error) if once => return Err(Error::io(path, "write")(error)),
            Err(error) => {
                if since.is_none() {
                    health.waits += 1;
                    let text = format!("warning: {}: cannot write: {error}: waiting, nothing is lost", path.display());
                    progress.event(Event::Message(&text));
                }
                since.get_or_insert_with(Instant::now);
                if sleep(PATIENCE, progress) {
                    return Ok(false);
                }
            }
        }
    }
}

/// Waits, at most until a signal comes; whether one came.
fn sleep(time: Duration, progress: &mut dyn Progress) -> bool {
    let until = Instant::now() + time;
    while progress.stop().is_none() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
    true
}

/// What `watch` makes of a file that holds anything: its lines, its flows, lines that cannot be read and lines passed over.
///
/// # Errors
/// A file that holds no text of flows.
#[doc(hidden)]
pub fn watched_lines(path: &Path, schema: &nids_flows::Schema) -> Result<[u64; 4]> {
    let (mut told, mut found) = (Vec::new(), [0; 4]);
    let mut follower = Follower::open(&path.display().to_string(), &[], true, &mut told)?;
    let model = alert::Model { version: String::new(), name: String::new(), threshold: 0.5 };
    while let Some(batch) = follower.next(schema, 64, &mut told)? {
        let rows = rows::read(&batch, schema, &nids_flows::ReadOptions::default());
        let names = Names::of(batch.written, &batch.header, schema);
        for line in &batch.lines {
            let (id, record) = (id_of(batch.line(line), line.offset), names.record(batch.line(line)));
            let said = alert::Said::default();
            let alert = Alert { id, record, said, model: &model, file: String::new(), offset: line.offset, read_at: 0.0 };
            for (format, line) in [(AlertFormat::Ecs, alert.ecs()), (AlertFormat::Ocsf, alert.ocsf())] {
                let line = line.to_string();
                assert!(line.starts_with(format.beginning()) && !line.contains('\n'), "{line}");
            }
        }
        let mut bad: Vec<u64> = rows.bad.iter().map(|bad| bad.offset).collect();
        bad.dedup();
        let counted = [batch.lines.len(), rows.n_flows(), bad.len(), rows.n_passed as usize];
        found.iter_mut().zip(counted).for_each(|(sum, n)| *sum += n as u64);
    }
    Ok(found)
}

#[cfg(test)]
#[path = "watch/alert_tests.rs"]
mod alert_tests;
#[cfg(test)]
#[path = "watch/follow_tests.rs"]
mod follow_tests;
#[cfg(test)]
#[path = "watch/rows_tests.rs"]
mod rows_tests;
