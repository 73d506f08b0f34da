//! How far lines have been read, as a file.

use std::fs;
use std::io;
use std::path::Path;

use nids_store::artefacts::write_atomic;
use nids_store::disk::FileId;
use nids_store::{Error, Result};
use serde::{Deserialize, Serialize};

use super::tail::Position;

const KIND: &str = "state of nids-mixer watch";
const VERSION: u32 = 1;
/// The largest file, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// What became of lines since the state was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchCounts {
    /// Lines that were read: `flows`, `rejected` and `passed` together.
    pub lines: u64,
    /// Flows that were judged.
    pub flows: u64,
    /// Flows with an alert.
    pub alerts: u64,
    /// Lines that cannot be read.
    pub rejected: u64,
    /// Lines that the schema passes over, as other events are.
    pub passed: u64,
    /// What happened to the files: rotations, cuts, rests that are lost.
    pub events: u64,
}

/// How far lines have been read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    kind: String,
    version: u32,
    /// `--data`, for which it holds.
    data: String,
    pub(super) positions: Vec<Position>,
    /// The file of the alerts, and how long it was.
    pub(super) output: Option<(FileId, u64)>,
    pub(super) counts: WatchCounts,
}

impl State {
    /// Nothing was read.
    pub(super) fn new(data: &str) -> Self {
        Self {
            kind: KIND.to_owned(),
            version: VERSION,
            data: data.to_owned(),
            positions: Vec::new(),
            output: None,
            counts: WatchCounts::default(),
        }
    }

    /// The state that a file holds; None if there is none.
    pub(super) fn read(path: &Path, data: &str) -> Result<Option<Self>> {
        let refuse = |what: String| {
            let remedy = "remove it to read from the beginning, or name another file by `--state`";
            Err(Error::artefact(path, what, remedy))
        };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, "read")(error)),
            Ok(found) if found.len() > MAX_BYTES => return refuse(format!("{} bytes are no state", found.len())),
            Ok(_) => {}
        }
        let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
        match Self::from_bytes(&bytes) {
            Err(what) => refuse(what),
            Ok(found) if found.data != data => refuse(format!("a state of `--data {}`", found.data)),
            Ok(found) => Ok(Some(found)),
        }
    }

    fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let found: Self = serde_json::from_slice(bytes).map_err(|error| format!("not a state: {error}"))?;
        if found.kind != KIND || found.version != VERSION {
            return Err(format!("a {} of version {}; wanted a {KIND} of version {VERSION}", found.kind, found.version));
        }
        Ok(found)
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        let written = write_atomic(path, |out| out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")));
        written.map(drop).map_err(|error| match error {
            Error::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })
    }
}
