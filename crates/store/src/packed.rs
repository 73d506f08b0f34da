//! The packed cache: rows of numbers on the disk, each as long as the others, read by number.
//!
//! A cache is a folder, named after what its rows follow from. `cache.json` lists what is whole in it, by content. The rows lie in
//! partitions, `rows-00000.f32` and so on: little-endian f32, row after row. A partition is written to a scratch file, synced and
//! renamed, and then listed. So a command that was killed while it wrote a cache goes on after the last partition that is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::artefacts::{self, Digest};
use crate::disk::{self, Out};
use crate::error::{Error, Result};
use crate::lock::Lock;

const KIND: &str = "nids-mixer packed cache";
const VERSION: u32 = 1;
const INDEX: &str = "cache.json";
const LOCK: &str = ".lock";
/// An index larger than this is some other file.
const MAX_BYTES: u64 = 16 << 20;
/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;
/// Numbers that are read at once.
const READ: usize = 1024;
/// What to do with a cache that cannot be used.
const REMEDY: &str = "remove it with `nids-mixer cache FOLDER --clean`, and run the stage again";

/// What the rows of a cache are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Numbers of a row.
    pub stride: usize,
    /// Rows of each partition but the last.
    pub partition_rows: u64,
    /// A hash of what turned records into rows.
    pub made_by: String,
}

/// `cache.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    kind: String,
    version: u32,
    /// A hash of what the rows follow from.
    key: String,
    layout: Layout,
    partitions: Vec<Digest>,
    /// Other files.
    files: BTreeMap<String, Digest>,
    /// Number of rows and what the writer noted; None until all rows are there.
    whole: Option<(u64, Json)>,
}

/// A cache that is whole.
#[derive(Debug)]
pub struct Packed {
    folder: PathBuf,
    index: Index,
    partitions: Vec<File>,
}

impl Packed {
    /// Opens the cache of this key in `parent` and compares it with its index; None if it is not there, or not whole.
    ///
    /// # Errors
    /// A file that was changed or cannot be read.
    pub fn open(parent: &Path, key: &str) -> Result<Option<Self>> {
        let folder = folder_of(parent, key);
        match read_index(&folder, key)? {
            Some(index) if index.whole.is_some() => {
                for (name, digest) in index.listed() {
                    check(&folder.join(name), digest)?;
                }
                Self::of(folder, index).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn of(folder: PathBuf, index: Index) -> Result<Self> {
        let open = |number: usize| {
            let path = folder.join(partition_name(number));
            File::open(&path).map_err(Error::io(&path, "read"))
        };
        let partitions = (0..index.partitions.len()).map(open).collect::<Result<_>>()?;
        Ok(Self { folder, index, partitions })
    }

    /// Number of rows.
    pub fn n_rows(&self) -> u64 {
        self.index.whole.as_ref().map_or(0, |(rows, _)| *rows)
    }

    /// What the rows are.
    pub fn layout(&self) -> &Layout {
        &self.index.layout
    }

    /// What the writer noted.
    pub fn note(&self) -> &Json {
        self.index.whole.as_ref().map_or(&Json::Null, |(_, note)| note)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.index.listed().map(|(_, digest)| digest.bytes).sum()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The content of one of its other files.
    ///
    /// # Errors
    /// If the index lists no such file, or it cannot be read.
    pub fn file(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(name);
        if !self.index.files.contains_key(name) {
            return Err(Error::artefact(path, "the index does not list it", REMEDY));
        }
        fs::read(&path).map_err(Error::io(&path, "read"))
    }

    /// Reads numbers of a row, from its number `first` on.
    ///
    /// # Errors
    /// A file that cannot be read, or has become shorter.
    ///
    /// # Panics
    /// If there are no such numbers.
    pub fn read(&self, row: u64, first: usize, cells: &mut [f32]) -> Result<()> {
        let Layout { stride, partition_rows, .. } = self.index.layout;
        assert!(row < self.n_rows() && first + cells.len() <= stride, "numbers of a row that is there");
        let number = (row / partition_rows) as usize;
        let mut at = ((row % partition_rows) * stride as u64 + first as u64) * size_of::<f32>() as u64;
        let mut buffer = [0; READ * size_of::<f32>()];
        for cells in cells.chunks_mut(READ) {
            let bytes = &mut buffer[..size_of_val(cells)];
            self.partitions[number].read_exact_at(bytes, at).map_err(|error| {
                let path = self.folder.join(partition_name(number));
                match error.kind() {
                    io::ErrorKind::UnexpectedEof => Error::artefact(path, "truncated since it was opened", REMEDY),
                    _ => Error::io(path, "read")(error),
                }
            })?;
            for (cell, bytes) in cells.iter_mut().zip(bytes.as_chunks().0) {
                *cell = f32::from_le_bytes(*bytes);
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

impl Index {
    fn listed(&self) -> impl Iterator<Item = (String, &Digest)> {
        let partitions = self.partitions.iter().enumerate().map(|(number, digest)| (partition_name(number), digest));
        partitions.chain(self.files.iter().map(|(name, digest)| (name.clone(), digest)))
    }
}

/// Writes a cache, alone in its folder.
#[derive(Debug)]
pub struct Packer {
    folder: PathBuf,
    lock: Lock,
    index: Index,
    /// Rows so far, those among them that were there already.
    n_rows: u64,
    n_kept: u64,
    open: Option<Partition>,
}

/// A partition that is not whole yet.
#[derive(Debug)]
struct Partition {
    scratch: NamedTempFile,
    buffer: Vec<u8>,
    hash: Sha256,
    rows: u64,
    bytes: u64,
}

impl Packer {
    /// Begins the cache of this key in `parent`, or goes on with it: partitions stay that an earlier command has left of the same
    /// layout. `what` names the command.
    ///
    /// # Errors
    /// A folder that is in use or cannot be written to.
    pub fn begin(parent: &Path, key: &str, layout: Layout, what: &str) -> Result<Self> {
        let folder = folder_of(parent, key);
        disk::make_folder(&folder).map_err(Error::io(&folder, "make the folder of a cache"))?;
        let lock = Lock::take(&folder, what)?;
        artefacts::remove_scratch(&folder)?;
        let before = read_index(&folder, key).ok().flatten().filter(|index| index.layout == layout);
        let mut partitions = before.map_or_else(Vec::new, |index| index.partitions);
        let is_whole = |(number, digest): (usize, &Digest)| {
            digest.bytes == layout.partition_rows * (layout.stride * size_of::<f32>()) as u64
                && artefacts::digest(&folder.join(partition_name(number))).is_ok_and(|found| found == *digest)
        };
        let n_whole = partitions.iter().enumerate().take_while(|&partition| is_whole(partition)).count();
        partitions.truncate(n_whole);
        let n_kept = n_whole as u64 * layout.partition_rows;
        let index = Index {
            kind: KIND.to_owned(),
            version: VERSION,
            key: key.to_owned(),
            layout,
            partitions,
            files: BTreeMap::new(),
            whole: None,
        };
        let packer = Self { folder, lock, index, n_rows: 0, n_kept, open: None };
        packer.write_index()?;
        Ok(packer)
    }

    /// Whether the next `n` rows are there already; they count as written then.
    pub fn has(&mut self, n: usize) -> bool {
        let has = self.n_rows + n as u64 <= self.n_kept;
        if has {
            self.n_rows += n as u64;
        }
        has
    }

    /// Number of rows that an earlier command has left.
    pub fn n_kept(&self) -> u64 {
        self.n_kept
    }

    /// Appends rows.
    ///
    /// # Errors
    /// A full disk.
    ///
    /// # Panics
    /// If the numbers are not those of whole rows.
    pub fn push(&mut self, cells: &[f32]) -> Result<()> {
        let Layout { stride, partition_rows, .. } = self.index.layout;
        assert!(cells.len().is_multiple_of(stride), "whole rows");
        for row in cells.chunks_exact(stride) {
            self.n_rows += 1;
            if self.n_rows <= self.n_kept {
                continue;
            }
            if self.open.is_none() {
                self.lock.check()?;
                let path = self.folder.join(partition_name(self.index.partitions.len()));
                let scratch = disk::scratch(&self.folder, None).map_err(|error| cannot_write(&path)(error.kind().into()))?;
                self.open = Some(Partition { scratch, buffer: Vec::new(), hash: Sha256::new(), rows: 0, bytes: 0 });
            }
            let open = self.open.as_mut().expect("it was opened");
            open.buffer.extend(row.iter().flat_map(|cell| cell.to_le_bytes()));
            open.rows += 1;
            if open.rows == partition_rows {
                self.close()?;
            } else if open.buffer.len() >= BUFFER {
                open.flush().map_err(cannot_write(&self.folder.join(partition_name(self.index.partitions.len()))))?;
            }
        }
        Ok(())
    }

    /// Puts the partition in its place and lists it.
    fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        self.lock.check()?;
        let path = self.folder.join(partition_name(self.index.partitions.len()));
        open.flush().map_err(cannot_write(&path))?;
        let Partition { scratch, hash, bytes, .. } = open;
        disk::sync(scratch.as_file(), scratch.path()).map_err(cannot_write(&path))?;
        disk::rename(scratch, &path).map_err(cannot_write(&path))?;
        disk::sync_folder(&self.folder).map_err(cannot_write(&path))?;
        self.index.partitions.push(Digest { sha256: hex::encode(hash.finalize()), bytes });
        self.write_index()
    }

    /// Writes another file of the cache.
    ///
    /// # Errors
    /// A full disk.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.lock.check()?;
        let digest = artefacts::write(&self.folder.join(name), |out| out.write_all(bytes))?;
        self.index.files.insert(name.to_owned(), digest);
        Ok(())
    }

    /// Ends the cache, which readers find from now on.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(mut self, note: Json) -> Result<Packed> {
        self.close()?;
        self.index.whole = Some((self.n_rows, note));
        self.write_index()?;
        Packed::of(self.folder.clone(), self.index.clone())
    }

    fn write_index(&self) -> Result<()> {
        self.lock.check()?;
        let bytes = serde_json::to_vec(&self.index).expect("numbers and texts under names");
        artefacts::write(&self.folder.join(INDEX), |out| out.write_all(&bytes)).map(drop)
    }
}

impl Partition {
    fn flush(&mut self) -> io::Result<()> {
        Out(self.scratch.as_file(), self.scratch.path()).write_all(&self.buffer)?;
        self.hash.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A cache in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Number of rows; None if it is not whole.
    pub rows: Option<u64>,
    /// Bytes of its files.
    pub bytes: u64,
}

/// The caches in a folder. Their content is not compared with their index.
///
/// # Errors
/// A folder that cannot be read.
pub fn list(parent: &Path) -> Result<Vec<Listed>> {
    let of = |(key, folder): (String, PathBuf)| {
        let names = artefacts::files_in(&folder)?;
        let bytes = names.iter().map(|name| fs::metadata(folder.join(name)).map_or(0, |found| found.len())).sum();
        let rows = read_index(&folder, &key).ok().flatten().and_then(|index| index.whole).map(|(rows, _)| rows);
        Ok(Listed { key, rows, bytes })
    };
    caches(parent)?.into_iter().map(of).collect()
}

/// Keys and folders of the caches in a folder. An index that cannot be read is no reason to leave one out.
fn caches(parent: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).map_err(Error::io(parent, "list"))? {
        let folder = entry.map_err(Error::io(parent, "list"))?.path();
        let key = folder.file_name().and_then(|name| name.to_str()).filter(|name| is_key(name)).map(str::to_owned);
        if let Some(key) = key.filter(|_| folder.join(INDEX).is_file()) {
            found.push((key, folder));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes the caches in a folder; how many there were, and their bytes. Files of others stay.
///
/// # Errors
/// A cache that is being written, or a folder that cannot be read.
pub fn clean(parent: &Path, what: &str) -> Result<(usize, u64)> {
    let (mut n, mut bytes) = (0, 0);
    for (key, folder) in caches(parent)? {
        let lock = Lock::take(&folder, what)?;
        artefacts::remove_scratch(&folder)?;
        let listed: Vec<String> = read_index(&folder, &key)
            .ok()
            .flatten()
            .map(|index| index.listed().map(|(name, _)| name).collect())
            .unwrap_or_default();
        let names = artefacts::files_in(&folder)?;
        let is_partition = |name: &str| name.strip_prefix("rows-").and_then(|name| name.strip_suffix(".f32")).is_some();
        let is_ours = |name: &&String| listed.contains(name) || is_partition(name);
        // first what says that the others count, last what keeps others out
        for name in [INDEX.to_owned()].iter().chain(names.iter().filter(is_ours)).chain([&LOCK.to_owned()]) {
            let path = folder.join(name);
            bytes += fs::metadata(&path).map_or(0, |found| found.len());
            artefacts::remove(&path)?;
        }
        drop(lock);
        disk::remove_empty(&folder);
        n += 1;
    }
    Ok((n, bytes))
}

fn folder_of(parent: &Path, key: &str) -> PathBuf {
    parent.join(key)
}

/// Whether a name is that of a cache: a hash in hexadecimal.
fn is_key(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn partition_name(number: usize) -> String {
    format!("rows-{number:05}.f32")
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { path, doing: "write", source }
}

/// The index in a folder; None where there is none.
fn read_index(folder: &Path, key: &str) -> Result<Option<Index>> {
    let path = folder.join(INDEX);
    let refuse = |what: String| Error::artefact(&path, what, REMEDY);
    let bytes = match artefacts::read_at_most(&path, MAX_BYTES) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(refuse("larger than 16 MiB, the limit for an index of a cache".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(&path, "read")(error)),
    };
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| refuse(format!("not an index of a cache: {error}")))?;
    let Layout { stride, partition_rows, .. } = index.layout;
    if (index.kind.as_str(), index.version) != (KIND, VERSION) || index.key != key {
        return Err(refuse(format!("foreign index: `{}` version {} of `{}`", index.kind, index.version, index.key)));
    }
    let row_bytes = stride as u64 * size_of::<f32>() as u64;
    let n_rows = index.partitions.iter().map(|digest| digest.bytes).sum::<u64>().checked_div(row_bytes);
    let is_full = |digest: &Digest| digest.bytes == partition_rows.saturating_mul(row_bytes);
    let n_full = index.partitions.len().saturating_sub(1);
    let fits = index.whole.as_ref().is_none_or(|(rows, _)| n_rows == Some(*rows));
    if stride == 0 || partition_rows == 0 || !fits || !index.partitions[..n_full].iter().all(is_full) {
        return Err(refuse("its partitions do not have the rows that it says".to_owned()));
    }
    if let Some(name) = index.files.keys().find(|name| artefacts::inside(folder, name).is_none()) {
        return Err(refuse(format!("`{name}` lies outside the folder")));
    }
    Ok(Some(index))
}

/// Refuses a file that is not what the index lists.
fn check(path: &Path, listed: &Digest) -> Result<()> {
    if !path.is_file() {
        return Err(Error::artefact(path, "missing", REMEDY));
    }
    let found = artefacts::digest(path)?;
    if found.bytes < listed.bytes {
        return Err(Error::artefact(path, format!("truncated: {} bytes of {}", found.bytes, listed.bytes), REMEDY));
    }
    if found != *listed {
        return Err(Error::artefact(path, "changed since it was written", REMEDY));
    }
    Ok(())
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
