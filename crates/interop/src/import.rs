//! Checkpoints of the numpy MLP-Mixer that this project replaces, as safetensors.
//!
//! Such a file is a pickle, and to unpickle is to run whatever the file says. Nothing of it runs here: `pickle` reads the few
//! opcodes that arrays in dictionaries are made of and refuses every other, by position; `checkpoint` gives the arrays their
//! names.

mod checkpoint;
mod pickle;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use crate::{Error, Result};

/// A checkpoint larger than this is some other file: the predecessor's largest model has 8 MB.
const MAX_BYTES: u64 = 1 << 26;

/// What an import found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Mixer blocks.
    pub depth: usize,
    /// Numbers of the model, its moments not counted.
    pub n_params: usize,
}

/// Reads a checkpoint and writes it as safetensors: `param.<name>` and, where the optimiser has seen the parameter,
/// `exp_avg.<name>`, `exp_avg_sq.<name>` (in the file's precision) and `step.<name>`.
///
/// Names are given by position: `proj`, for each block `token_norm`, `token_mixing.linear1`, `token_mixing.linear2`,
/// `channel_norm`, `channel_mixing.linear1`, `channel_mixing.linear2`, then `norm` and `classifier`, each `weight` before `bias`.
///
/// # Errors
/// A file that is no such checkpoint: the message names the place in the file, and what is there.
pub fn import(path: &Path, out: &mut dyn Write) -> Result<Imported> {
    let cannot_read = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(cannot_read)?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::with_capacity(size.min(MAX_BYTES) as usize);
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    if bytes.len() as u64 > MAX_BYTES {
        let what = format!("more than {MAX_BYTES} bytes: not a checkpoint of the numpy MLP-Mixer");
        return Err(Error::Foreign { path: path.to_owned(), what });
    }
    from_bytes(&bytes, path, out)
}

/// [`import`] from the content of a file; `path` is what errors show.
pub fn from_bytes(bytes: &[u8], path: &Path, out: &mut dyn Write) -> Result<Imported> {
    let refuse = |what: String| Error::Foreign { path: path.to_owned(), what };
    let pickle = pickle::Pickle::read(bytes).map_err(refuse)?;
    let checkpoint = checkpoint::Checkpoint::of(&pickle).map_err(refuse)?;
    out.write_all(&checkpoint.to_safetensors(&pickle)).map_err(Error::Write)?;
    Ok(checkpoint.imported(&pickle))
}

#[cfg(test)]
mod tests;
