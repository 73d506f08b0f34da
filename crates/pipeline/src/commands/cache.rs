//! Lists the caches of tokenised rows in folders, or removes them.

use std::path::PathBuf;

use nids_store::packed;
use nids_store::progress::grouped;
use nids_store::{Error, Result};

use crate::packed::{in_run, size};

/// Lists the caches in folders, a line each, or with `clean` removes them and says what was freed. A folder is that of `data.cache`,
/// or a run folder with a cache in it.
///
/// # Errors
/// A folder that is not there, or a cache that is being written.
pub fn cache(folders: &[PathBuf], clean: bool) -> Result<String> {
    let mut lines = Vec::new();
    for folder in folders {
        if !folder.is_dir() {
            let message = format!("{}: no such folder: name the folder of `data.cache`, or a run folder", folder.display());
            return Err(Error::Usage(message));
        }
        let folder = in_run(folder).unwrap_or_else(|| folder.clone());
        let place = folder.display();
        if clean {
            let (n, bytes) = packed::clean(&folder, "cache --clean")?;
            lines.push(format!("{place}: {n} {} removed, {} freed", if n == 1 { "cache" } else { "caches" }, size(bytes)));
            continue;
        }
        let found = packed::list(&folder)?;
        if found.is_empty() {
            lines.push(format!("{place}: no caches"));
        }
        for packed::Listed { key, rows, bytes } in found {
            let rows = rows.map_or_else(|| "not whole".to_owned(), |rows| format!("{} rows", grouped(rows as f64)));
            lines.push(format!("{place}/{key}: {rows}, {}", size(bytes)));
        }
    }
    Ok(lines.join("\n"))
}
