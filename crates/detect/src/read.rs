//! Flows and tokenisers from files, and what is said of them.

use std::fs;
use std::path::Path;

use nids_config::Stage;
use nids_flows::{FlowReader, Flows, Labels, Schema, Tokeniser, some_of};
use nids_store::progress::{Event, Progress};
use nids_store::{Error, Result};

use crate::again;

/// A whole file, with a word on the columns that are not used.
pub fn read(path: &Path, schema: &Schema, labels: Labels, progress: &mut dyn Progress) -> Result<Flows> {
    let mut reader = FlowReader::open(path, schema, labels)?;
    tell_ignored(&reader, path, progress);
    let flows = reader.next_batch(usize::MAX)?;
    tell_lines(&reader, path, progress);
    flows.ok_or_else(|| Error::Data(format!("{}: no rows", path.display())))
}

/// Says which columns of a file the schema does not list.
pub fn tell_ignored(reader: &FlowReader, path: &Path, progress: &mut dyn Progress) {
    let ignored = reader.ignored_columns();
    if !ignored.is_empty() {
        let message = format!("{}: columns that the schema does not list are not used: {}", path.display(), some_of(ignored));
        progress.event(Event::Message(&message));
    }
}

/// Says where the lines of a file went, once it has been read.
pub fn tell_lines(reader: &FlowReader, path: &Path, progress: &mut dyn Progress) {
    if let Some(lines) = reader.lines() {
        progress.event(Event::Message(&format!("{}: {lines}", path.display())));
    }
}

/// Reads the tokeniser that `stage` left.
pub fn read_tokeniser(path: &Path, stage: Stage) -> Result<Tokeniser> {
    let refuse = |what: String| Error::artefact(path, what, again(stage));
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    let text = String::from_utf8(bytes).map_err(|error| refuse(format!("not a tokeniser file: {}", error.utf8_error())))?;
    Tokeniser::from_json(&text).map_err(|error| refuse(error.to_string()))
}
