//! Parameters as safetensors, strictly: every name and shape of the table, and no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nids_kernels::{Buffer, Real};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

use crate::ParamTable;

/// Why weights could not be read.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The bytes are no safetensors file.
    #[error("not a readable safetensors file: {0}")]
    Format(String),
    /// Names, shapes or types differ from the network's.
    #[error("the file does not fit this network:\n  {}", .0.join("\n  "))]
    Mismatch(Vec<String>),
}

/// The table's parameters as a safetensors file of F32 tensors. `metadata` is one JSON text, kept under the key `nids_mixer`
/// (several keys would be written in random order); the same numbers give the same bytes.
pub fn to_bytes(table: &ParamTable, params: &[f32], metadata: &str) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> =
        table.specs().iter().map(|spec| spec.param.of(params).iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = table.specs().iter().zip(&bytes).map(|(spec, bytes)| {
        let view =
            TensorView::new(Dtype::F32, spec.shape.clone(), bytes).expect("a parameter has as many numbers as its shape says");
        (spec.name.as_str(), view)
    });
    let metadata = HashMap::from([("nids_mixer".to_owned(), metadata.to_owned())]);
    safetensors::serialize(views, Some(metadata)).expect("names are unique and sizes fit")
}

/// The metadata text of a file written by [`to_bytes`].
///
/// # Errors
/// If the bytes are no safetensors file.
pub fn metadata(bytes: &[u8]) -> Result<Option<String>, WeightsError> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| WeightsError::Format(error.to_string()))?;
    Ok(header.metadata().as_ref().and_then(|map| map.get("nids_mixer").cloned()))
}

/// Reads into `params` every parameter of the table whose name starts with one of `prefixes`, and requires that the file holds
/// each of them; others of the file that start with a prefix must be in the table. With the prefix `""` the two must agree
/// entirely.
///
/// # Errors
/// Every missing, foreign, mis-shaped or mistyped name at once.
pub fn load(table: &ParamTable, prefixes: &[&str], bytes: &[u8], params: &mut [f32]) -> Result<(), WeightsError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| WeightsError::Format(error.to_string()))?;
    let concerns = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let tensors: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().filter(|(name, _)| concerns(name)).collect();
    let mut problems = Vec::new();
    for spec in table.specs().iter().filter(|spec| concerns(&spec.name)) {
        match tensors.get(&spec.name) {
            None => problems.push(format!("`{}` {:?} is missing", spec.name, spec.shape)),
            Some(view) if view.shape() != spec.shape => {
                problems.push(format!("`{}` has shape {:?}, the network has {:?}", spec.name, view.shape(), spec.shape));
            }
            Some(view) if view.dtype() != Dtype::F32 => problems.push(format!("`{}` is {:?}, not F32", spec.name, view.dtype())),
            Some(view) => {
                let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                let into = spec.param.of_mut(params);
                into.iter_mut().zip(values).for_each(|(into, value)| *into = value);
                if into.iter().any(|value| !value.is_finite()) {
                    problems.push(format!("`{}` holds a number that is not finite", spec.name));
                }
            }
        }
    }
    let known: BTreeSet<&str> = table.specs().iter().map(|spec| spec.name.as_str()).collect();
    problems.extend(
        tensors.keys().filter(|name| !known.contains(name.as_str())).map(|name| format!("`{name}` is not in the network")),
    );
    if problems.is_empty() { Ok(()) } else { Err(WeightsError::Mismatch(problems)) }
}

/// The same parameters in another number type.
pub fn convert<R: Real>(params: &[f32]) -> Buffer<R> {
    let mut out = Buffer::zeros(params.len());
    out.iter_mut().zip(params).for_each(|(out, &value)| *out = R::from_f64(f64::from(value)));
    out
}
