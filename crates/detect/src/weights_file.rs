//! Weights that a stage left, before they are trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use nids_config::{Head, Stage};
use nids_kernels::Buffer;
use nids_nn::ParamTable;
use nids_nn::tensor_file::{self, TensorFile, TensorView};
use nids_nn::weights::{self, WeightsError};
use nids_store::{Error, Result};

use crate::again;
use crate::committee::Committee;
use crate::engine::most_tokens;
use crate::head_tensors;

/// An artefact of `stage` with weights, in memory. Whoever made it chose the settings of its network, too: that network is compared
/// with what the file holds before anything of its size is allocated.
#[derive(Debug)]
pub struct WeightsFile {
    path: PathBuf,
    stage: Stage,
    bytes: Vec<u8>,
}

impl WeightsFile {
    /// The file that `stage` left.
    pub fn read(path: &Path, stage: Stage) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
        Ok(Self { path: path.to_owned(), stage, bytes })
    }

    /// An error that names the file, and the stage that makes it.
    pub fn refuse(&self, what: impl Into<String>) -> Error {
        Error::artefact(&self.path, what, again(self.stage))
    }

    /// What was written beside the weights.
    pub fn metadata(&self) -> Result<Option<String>> {
        weights::metadata(&self.bytes).map_err(|error| self.refuse(error.to_string()))
    }

    /// Refuses a network over so many features that the file cannot have their embeddings. To be asked before it is built, as the
    /// other numbers that networks are built by have limits.
    pub fn check_features(&self, n: usize) -> Result<()> {
        let n_tensors = weights::n_tensors(&self.bytes).map_err(|error| self.refuse(error.to_string()))?;
        if n > n_tensors {
            return Err(self.refuse(format!("{n_tensors} tensors do not fit a network over {n} features")));
        }
        Ok(())
    }

    /// Requires the parameters of `table` under `prefixes`, by name and shape; `tokens` are the numbers of a row's tokens.
    pub fn check(&self, table: &ParamTable, prefixes: &[&str], tokens: usize) -> Result<()> {
        weights::check(table, prefixes, &self.bytes).map_err(|error| self.misfit(&error))?;
        let n = table.n_params();
        if tokens > most_tokens(table) {
            return Err(self.refuse(format!("a row would take {tokens} numbers in a network of {n}: none that was trained here")));
        }
        Ok(())
    }

    /// The parameters of `table`, those under `prefixes` read and the others 0, after [`WeightsFile::check`].
    pub fn params(&self, table: &ParamTable, prefixes: &[&str], tokens: usize) -> Result<Buffer<f32>> {
        self.check(table, prefixes, tokens)?;
        let mut params = table.zeros();
        self.load(table, prefixes, &mut params)?;
        Ok(params)
    }

    /// Reads the parameters under `prefixes`.
    pub fn load(&self, table: &ParamTable, prefixes: &[&str], params: &mut Buffer<f32>) -> Result<()> {
        weights::load(table, prefixes, &self.bytes, params).map_err(|error| self.misfit(&error))
    }

    /// The parameters of `table`, and the tensors of heads beside them; the file holds nothing else.
    pub fn params_beside_heads(&self, table: &ParamTable, tokens: usize) -> Result<Buffer<f32>> {
        let segments = table.specs().iter().filter_map(|spec| spec.name.split_inclusive('.').next());
        let prefixes: Vec<&str> = segments.collect::<BTreeSet<_>>().into_iter().collect();
        let foreign: Vec<String> = self
            .tensors()?
            .keys()
            .filter(|name| !name.starts_with(head_tensors::PREFIX) && !prefixes.iter().any(|prefix| name.starts_with(prefix)))
            .map(|name| format!("`{}` is not in the network", name.escape_debug()))
            .collect();
        if !foreign.is_empty() {
            return Err(self.misfit(&WeightsError::Mismatch(foreign)));
        }
        self.params(table, &prefixes, tokens)
    }

    /// Heads for rows of `n_features` features and `width` numbers to find components in.
    pub fn committee(&self, heads: &[Head], n_features: usize, width: usize) -> Result<Committee> {
        head_tensors::committee(self.tensors()?, heads, n_features, width).map_err(|what| self.refuse(what))
    }

    fn tensors(&self) -> Result<BTreeMap<String, TensorView<'_>>> {
        let file = TensorFile::read(&self.bytes).map_err(|error| self.refuse(error.to_string()))?;
        Ok(file.tensors())
    }

    fn misfit(&self, error: &WeightsError) -> Error {
        const SHOWN: usize = 4;
        let text = error.to_string();
        let (lines, more) = (text.lines().take(SHOWN).collect::<Vec<_>>().join("\n"), text.lines().count().saturating_sub(SHOWN));
        self.refuse(if more == 0 { lines } else { format!("{lines}\n  and {more} more") })
    }
}

/// A classifier as a file: the parameters of its network, its heads, and one metadata text.
pub fn model_bytes(table: &ParamTable, params: &[f32], committee: &Committee, metadata: &str) -> Vec<u8> {
    let mut tensors = weights::tensors(table, params);
    tensors.extend(head_tensors::tensors(committee));
    tensor_file::to_bytes(&tensors, metadata)
}
