//! Parts of verdicts: what `predict --part` leaves in a folder that its processes share.
//!
//! A part is a file of verdicts and a manifest beside it, which is written last and lists the file by content. A part without a
//! manifest does not exist, and one whose file differs from it is made again. No times are kept, and nobody waits for anybody: two
//! processes that make the same part write the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nids_flows::Part;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::artefacts::{self, Digest};
use crate::error::{Error, Result};

const KIND: &str = "nids-mixer part";
const VERSION: u32 = 1;
const TOOL: &str = concat!("nids-mixer ", env!("CARGO_PKG_VERSION"));
/// A manifest larger than this is some other file.
const MAX_BYTES: u64 = 16 << 20;
/// What to do with parts that do not belong together.
const REMEDY: &str = "write to another folder, or remove the parts that are in this one";

/// `part-00003-of-00008.json`: what a part was made of, and what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartManifest {
    kind: String,
    version: u32,
    tool: String,
    /// Its number, from 0.
    pub part: u32,
    /// How many there are.
    pub of: u32,
    /// What the verdicts follow from beside the rows: the model by its content, and options.
    pub made_by: BTreeMap<String, String>,
    /// What all parts together are made of.
    pub input: Input,
    /// What this one has read of it.
    pub read: Vec<InputFile>,
    /// Rows with a verdict.
    pub rows: u64,
    /// Rows that were left out because they cannot be read.
    pub rejected: u64,
    /// Its files, by name.
    pub files: BTreeMap<String, Digest>,
}

/// All files of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A hash of their names and sizes, in order.
    pub sha256: String,
}

impl Input {
    /// That of files with these names and sizes.
    pub fn of<'f>(files: impl Iterator<Item = (&'f Path, u64)>) -> Self {
        let (mut hash, mut found) = (Sha256::new(), Input { files: 0, bytes: 0, sha256: String::new() });
        for (path, size) in files {
            let path = path.as_os_str().as_encoded_bytes();
            hash.update((path.len() as u64).to_le_bytes());
            hash.update(path);
            hash.update(size.to_le_bytes());
            (found.files, found.bytes) = (found.files + 1, found.bytes.saturating_add(size));
        }
        Input { sha256: hex::encode(hash.finalize()), ..found }
    }
}

/// A file of the input that a part has read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// As it was named.
    pub path: String,
    /// The bytes in which its rows begin, from the first up to the second; None for the whole file.
    pub begin_in: Option<(u64, u64)>,
    /// The content of the whole file.
    pub content: Digest,
}

impl PartManifest {
    /// A part that is still to be made.
    pub fn new(part: u32, of: u32, made_by: BTreeMap<String, String>, input: Input, read: Vec<InputFile>) -> Self {
        let [kind, tool] = [KIND, TOOL].map(str::to_owned);
        let (rows, rejected, files) = (0, 0, BTreeMap::new());
        Self { kind, version: VERSION, tool, part, of, made_by, input, read, rows, rejected, files }
    }

    /// The name of its files without their endings.
    pub fn stem(&self) -> String {
        stem(self.part, self.of)
    }

    /// Writes it, which makes the part one that is there.
    ///
    /// # Errors
    /// A full disk.
    pub fn write(&self, folder: &Path) -> Result<()> {
        artefacts::write(&manifest(folder, self.part, self.of), |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            out.write_all(b"\n")
        })
        .map(drop)
    }

    /// Why a part that is there does not belong to this one; None if it does.
    fn difference(&self, there: &Self) -> Option<String> {
        let changed = |key: &str, before: &str, now: &str| Some(format!("`{key}` was \"{before}\" and is \"{now}\""));
        if self.of != there.of {
            return Some(format!("one of {} parts, and this is one of {}", there.of, self.of));
        }
        if self.tool != there.tool {
            return changed("program", &there.tool, &self.tool);
        }
        let keys = self.made_by.keys().chain(there.made_by.keys());
        let get = |made_by: &BTreeMap<String, String>, key| made_by.get(key).map_or("unset", String::as_str).to_owned();
        if let Some(key) = keys.into_iter().find(|key| self.made_by.get(*key) != there.made_by.get(*key)) {
            return changed(key, &get(&there.made_by, key), &get(&self.made_by, key));
        }
        let all = |input: &Input| format!("{} files of {} bytes", input.files, input.bytes);
        if (self.input.files, self.input.bytes) != (there.input.files, there.input.bytes) {
            return changed("data", &all(&there.input), &all(&self.input));
        }
        if self.input != there.input {
            return Some("the files of `data` have other names or sizes".to_owned());
        }
        let content = |path: &str| self.read.iter().find(|file| file.path == path).map(|file| &file.content);
        let other = there.read.iter().find(|file| content(&file.path).is_some_and(|found| *found != file.content))?;
        Some(format!("`{}` has another content now", other.path))
    }

    /// Compares the part's files with what it lists; which one differs, and how.
    fn damage(&self, folder: &Path) -> Option<String> {
        self.files.iter().find_map(|(name, listed)| {
            let path = folder.join(name);
            if artefacts::leads_out(folder, &path) {
                return Some(format!("{}: a link that leads out of the folder, or no file", path.display()));
            }
            match artefacts::digest(&path) {
                Ok(found) if found == *listed => None,
                Ok(_) => Some(format!("{}: its content is not that of the manifest", path.display())),
                Err(error) => Some(error.to_string()),
            }
        })
    }
}

/// What is there of a part.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// All of it.
    Whole(Box<PartManifest>),
    /// Not all; why.
    Damaged(String),
    /// Nothing that counts.
    Missing,
}

/// Looks for the part that is to be made.
///
/// # Errors
/// A part in the folder, this one or another, that was made of another input, by another model or with other options.
pub fn look(folder: &Path, wanted: &PartManifest) -> Result<Found> {
    for (part, of) in list(folder)? {
        let path = manifest(folder, part, of);
        // one that nobody can read is made again by whoever makes that part
        let Ok(there) = read(folder, part, of) else { continue };
        if let Some(difference) = there.as_ref().and_then(|there| wanted.difference(there)) {
            return Err(Error::artefact(path, format!("does not belong to this part: {difference}"), REMEDY));
        }
    }
    Ok(found(folder, wanted.part, wanted.of))
}

fn found(folder: &Path, part: u32, of: u32) -> Found {
    match read(folder, part, of) {
        Ok(None) => Found::Missing,
        Ok(Some(there)) => match there.damage(folder) {
            None => Found::Whole(Box::new(there)),
            Some(what) => Found::Damaged(what),
        },
        Err(error) => Found::Damaged(error.to_string()),
    }
}

/// All parts of a folder, in order, if they are whole and belong together.
///
/// # Errors
/// Parts that are missing, damaged or made of something else, each by its number.
pub fn all(folder: &Path) -> Result<Vec<PartManifest>> {
    let there = list(folder)?;
    let Some(&(_, of)) = there.first() else {
        return Err(Error::artefact(folder, "no parts", "make them with `nids-mixer predict --part I/K --output FOLDER`"));
    };
    if let Some((part, other)) = there.iter().find(|(_, other)| *other != of) {
        let what = format!("one of {other} parts, beside one of {of}");
        return Err(Error::artefact(manifest(folder, *part, *other), what, REMEDY));
    }
    let (mut whole, mut wrong) = (Vec::<PartManifest>::new(), Vec::new());
    for part in 0..of {
        match found(folder, part, of) {
            Found::Whole(there) => {
                if let Some(difference) = whole.first().and_then(|first| first.difference(&there)) {
                    let what = format!("does not belong to part {}: {difference}", whole[0].part);
                    return Err(Error::artefact(manifest(folder, part, of), what, REMEDY));
                }
                whole.push(*there);
            }
            Found::Damaged(what) => wrong.push(format!("part {part} is damaged ({what})")),
            Found::Missing => wrong.push(format!("part {part} is missing")),
        }
    }
    check_shared(folder, &whole)?;
    if wrong.is_empty() {
        return Ok(whole);
    }
    let (shown, more) = (wrong.iter().take(10).cloned().collect::<Vec<_>>().join(", "), wrong.len().saturating_sub(10));
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = format!("{} of {of} parts are whole: {shown}{more}", whole.len());
    Err(Error::artefact(folder, what, "give the commands of these parts again; those that are whole stay"))
}

/// Refuses parts that have read different contents from the same file.
fn check_shared(folder: &Path, parts: &[PartManifest]) -> Result<()> {
    let mut contents: BTreeMap<&str, &Digest> = BTreeMap::new();
    for part in parts {
        for file in &part.read {
            if *contents.entry(&file.path).or_insert(&file.content) != &file.content {
                let what = format!("`{}` had another content when an earlier part read it", file.path);
                return Err(Error::artefact(manifest(folder, part.part, part.of), what, REMEDY));
            }
        }
    }
    Ok(())
}

/// The manifest of a part; None where there is none.
///
/// # Errors
/// A file that is not one.
pub fn read(folder: &Path, part: u32, of: u32) -> Result<Option<PartManifest>> {
    let path = manifest(folder, part, of);
    let refuse = |what: String| Error::artefact(&path, what, "give the command of this part again");
    let bytes = match artefacts::read_at_most(&path, MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(Error::io(&path, "read"))?,
    };
    let bytes = bytes.ok_or_else(|| refuse(format!("larger than {} MiB", MAX_BYTES >> 20)))?;
    let found: PartManifest =
        serde_json::from_slice(&bytes).map_err(|error| refuse(format!("not the manifest of a part: {error}")))?;
    if found.kind != KIND || found.version != VERSION {
        return Err(refuse(format!("`{}` of version {}, expected `{KIND}` of version {VERSION}", found.kind, found.version)));
    }
    if (found.part, found.of) != (part, of) {
        return Err(refuse(format!("the manifest of part {} of {}", found.part, found.of)));
    }
    let own = format!("{}.", stem(part, of));
    match found
        .files
        .keys()
        .find(|name| !name.starts_with(&own) || artefacts::inside(folder, name).is_none() || name.contains('/'))
    {
        Some(name) => Err(refuse(format!("lists `{name}`, which is no file of this part"))),
        None if found.files.is_empty() => Err(refuse("lists no file".to_owned())),
        None => Ok(Some(found)),
    }
}

/// Parts that have a manifest, in order.
fn list(folder: &Path) -> Result<Vec<(u32, u32)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder, "list"))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io(folder, "list"))?.file_name();
        let numbers = name.to_str().and_then(|name| name.strip_prefix("part-")?.strip_suffix(".json")?.split_once("-of-"));
        let numbers = numbers.and_then(|(part, of)| Some((part.parse::<u32>().ok()?, of.parse::<u32>().ok()?)));
        let is_part = |&(part, of): &(u32, u32)| of <= Part::MOST && name.to_str() == Some(&format!("{}.json", stem(part, of)));
        found.extend(numbers.filter(is_part));
    }
    found.sort_unstable();
    Ok(found)
}

fn manifest(folder: &Path, part: u32, of: u32) -> PathBuf {
    folder.join(stem(part, of) + ".json")
}

/// `part-00003-of-00008`.
fn stem(part: u32, of: u32) -> String {
    format!("part-{part:05}-of-{of:05}")
}

#[cfg(test)]
#[path = "parts_tests.rs"]
mod tests;
