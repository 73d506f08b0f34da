//! Which files a path, a pattern or a folder stands for.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::input::STDIN;
use crate::{At, Error, Result};

/// The most files.
const MAX_FILES: usize = 100_000;

/// Whether a path stands for standard input.
pub fn is_stdin(path: &str) -> bool {
    path == STDIN
}

/// The files that `names` stand for, in the order given: a file for itself, a folder for the files in it and in its folders, a pattern
/// (`*`, `?`, `[a-z]`, `**`) for those that it matches; the latter two in the order of their names. Files and folders whose names
/// begin with `.` or `_` are no data.
///
/// # Errors
/// If a name stands for no file, or two names for one.
pub fn data_files<S: AsRef<str>>(names: &[S]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in names {
        let path = Path::new(name.as_ref());
        let refuse = |message: &str| Err(Error::data(path, At::File, None, message.to_owned()));
        if is_stdin(name.as_ref()) || path.is_file() {
            files.push(path.to_owned());
        } else if path.is_dir() {
            let before = files.len();
            walk(path, &mut files)?;
            if files.len() == before {
                return refuse("a folder without files");
            }
        } else if name.as_ref().contains(['*', '?', '[']) && !path.exists() {
            let matches = glob::glob(name.as_ref());
            let Ok(matches) = matches else { return refuse("a pattern that cannot be read; wanted the like of `logs/*.csv`") };
            let before = files.len();
            for found in matches {
                let found = found.map_err(|error| Error::Io { path: error.path().to_owned(), source: error.into() })?;
                if found.is_dir() { walk(&found, &mut files)? } else { files.push(found) }
            }
            if files.len() == before {
                return refuse("a pattern that no file matches");
            }
            files[before..].sort_unstable();
        } else {
            // what is neither is named by whoever opens it
            files.push(path.to_owned());
        }
        if files.len() > MAX_FILES {
            return refuse(&format!("more than {MAX_FILES} files"));
        }
    }
    let mut sorted: Vec<&PathBuf> = files.iter().collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::data(pair[0], At::File, None, "named twice: its rows would count twice".to_owned())),
        None => Ok(files),
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let is_data = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().to_string_lossy();
        entry.depth() == 0 || !name.starts_with(['.', '_'])
    };
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter().filter_entry(is_data) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_owned();
            Error::Io { path, source: error.into() }
        })?;
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        }
    }
    Ok(())
}
