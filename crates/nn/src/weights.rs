//! Parameters as safetensors, strictly: every name and shape of the table, and no other.

use std::collections::{BTreeMap, BTreeSet};

use nids_kernels::{Buffer, Real};
use thiserror::Error;

use crate::tensor_file::{self, Dtype, FormatError, NamedTensor, TensorFile, TensorView};
use crate::{Param, ParamTable};

/// Why weights could not be read.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The bytes are no safetensors file.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Names, shapes or types differ from the network's.
    #[error("the file does not fit this network:\n  {}", .0.join("\n  "))]
    Mismatch(Vec<String>),
}

/// The table's parameters as tensors of F32.
pub fn tensors<'t>(table: &'t ParamTable, params: &[f32]) -> Vec<NamedTensor<'t>> {
    table.specs().iter().map(|spec| NamedTensor::f32(&spec.name, &spec.shape, spec.param.of(params))).collect()
}

/// The table's parameters as a safetensors file. `metadata` is one JSON text; the same numbers give the same bytes.
pub fn to_bytes(table: &ParamTable, params: &[f32], metadata: &str) -> Vec<u8> {
    tensor_file::to_bytes(&tensors(table, params), metadata)
}

/// The metadata text of a file written by [`to_bytes`].
///
/// # Errors
/// If the bytes are no safetensors file.
pub fn metadata(bytes: &[u8]) -> Result<Option<String>, WeightsError> {
    Ok(TensorFile::read(bytes)?.metadata().map(str::to_owned))
}

/// How many tensors a file says that it holds: at most as many as its header, which is limited, has room for.
///
/// # Errors
/// If the bytes are no safetensors file.
pub fn n_tensors(bytes: &[u8]) -> Result<usize, WeightsError> {
    Ok(TensorFile::read(bytes)?.n_tensors())
}

/// Requires what [`load`] does of names, shapes and types. Nothing of the network's size is allocated: to be asked before that is.
///
/// # Errors
/// Every missing, foreign, mis-shaped or mistyped name at once.
pub fn check(table: &ParamTable, prefixes: &[&str], bytes: &[u8]) -> Result<(), WeightsError> {
    read(table, prefixes, bytes, |_, _| true)
}

/// Reads into `params` every parameter of the table whose name starts with one of `prefixes`, and requires that the file holds
/// each of them; others of the file that start with a prefix must be in the table. With the prefix `""` the two must agree
/// entirely.
///
/// # Errors
/// Every missing, foreign, mis-shaped or mistyped name at once.
pub fn load(table: &ParamTable, prefixes: &[&str], bytes: &[u8], params: &mut [f32]) -> Result<(), WeightsError> {
    read(table, prefixes, bytes, |param, view| {
        let into = param.of_mut(params);
        into.iter_mut().zip(tensor_file::numbers(view)).for_each(|(into, value)| *into = value);
        into.iter().all(|value| value.is_finite())
    })
}

/// Gives every parameter that fits to `take`, which says whether its numbers are finite.
fn read(
    table: &ParamTable,
    prefixes: &[&str],
    bytes: &[u8],
    mut take: impl FnMut(Param, &TensorView<'_>) -> bool,
) -> Result<(), WeightsError> {
    let concerns = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let mut tensors: BTreeMap<String, TensorView<'_>> = TensorFile::read(bytes)?.tensors();
    tensors.retain(|name, _| concerns(name));
    let mut problems = Vec::new();
    for spec in table.specs().iter().filter(|spec| concerns(&spec.name)) {
        match tensors.get(&spec.name) {
            None => problems.push(format!("`{}` {:?} is missing", spec.name, spec.shape)),
            Some(view) if view.shape() != spec.shape => {
                problems.push(format!("`{}` has shape {:?}, the network has {:?}", spec.name, view.shape(), spec.shape));
            }
            Some(view) if view.dtype() != Dtype::F32 => problems.push(format!("`{}` is {:?}, not F32", spec.name, view.dtype())),
            Some(view) if !take(spec.param, view) => {
                problems.push(format!("`{}` holds a number that is not finite", spec.name));
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<&str> = table.specs().iter().map(|spec| spec.name.as_str()).collect();
    problems.extend(
        tensors
            .keys()
            .filter(|name| !known.contains(name.as_str()))
            .map(|name| format!("`{}` is not in the network", name.escape_debug())),
    );
    if problems.is_empty() { Ok(()) } else { Err(WeightsError::Mismatch(problems)) }
}

/// The same parameters in another number type.
pub fn convert<R: Real>(params: &[f32]) -> Buffer<R> {
    let mut out = Buffer::zeros(params.len());
    out.iter_mut().zip(params).for_each(|(out, &value)| *out = R::from_f64(f64::from(value)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Linear, Scope};

    /// A map under `encoder.proj` and what `more` adds.
    fn table(more: impl FnOnce(&mut Scope<'_>)) -> ParamTable {
        let mut table = ParamTable::default();
        Linear::new(&mut table.root().at("encoder").at("proj"), 3, 5);
        more(&mut table.root());
        table
    }

    fn head(outputs: usize) -> ParamTable {
        table(|scope| {
            Linear::new(&mut scope.at("head"), 5, outputs);
        })
    }

    fn problems(result: Result<(), WeightsError>) -> Vec<String> {
        match result {
            Err(WeightsError::Mismatch(problems)) => problems,
            other => panic!("{other:?} is no list of problems"),
        }
    }

    #[test]
    fn what_was_written_is_read_and_written_again_the_same() {
        let table = head(2);
        let params = table.init::<f32>(1);
        let bytes = to_bytes(&table, &params, "{\"a\":1}");
        let mut read = table.zeros::<f32>();
        load(&table, &[""], &bytes, &mut read).unwrap();
        assert_eq!(*params, *read);
        assert_eq!(to_bytes(&table, &read, "{\"a\":1}"), bytes);
        assert_eq!(metadata(&bytes).unwrap().as_deref(), Some("{\"a\":1}"));
    }

    #[test]
    fn a_network_of_any_size_is_compared_without_its_memory() {
        let (network, file) = (head(usize::MAX), head(2));
        let bytes = to_bytes(&file, &file.init::<f32>(1), "");
        assert_eq!(n_tensors(&bytes).unwrap(), 4);
        assert_eq!(
            problems(check(&network, &[""], &bytes)),
            [
                format!("`head.weight` has shape [2, 5], the network has [{}, 5]", usize::MAX),
                format!("`head.bias` has shape [2], the network has [{}]", usize::MAX)
            ]
        );
        check(&network, &["encoder."], &bytes).unwrap();
        check(&file, &[""], &bytes).unwrap();
    }

    #[test]
    fn names_from_a_file_are_escaped() {
        let file = table(|scope| {
            Linear::without_bias(&mut scope.at("\x1b[31m\nred"), 1, 1);
        });
        let told = problems(check(&table(|_| ()), &[""], &to_bytes(&file, &file.init::<f32>(1), "")));
        assert_eq!(told, [r"`\u{1b}[31m\nred.weight` is not in the network"]);
    }

    #[test]
    fn every_misfit_is_told_at_once() {
        let file_table = table(|scope| {
            Linear::new(&mut scope.at("head"), 5, 2);
            Linear::without_bias(&mut scope.at("foreign"), 1, 1);
        });
        let mut params = file_table.init::<f32>(1);
        let proj_bias = file_table.specs()[1].param;
        proj_bias.of_mut::<f32>(&mut params)[2] = f32::NAN;
        let bytes = to_bytes(&file_table, &params, "");
        let network = table(|scope| {
            Linear::new(&mut scope.at("head"), 4, 2);
            Linear::without_bias(&mut scope.at("wanted"), 1, 1);
        });
        let told = problems(load(&network, &[""], &bytes, &mut network.zeros()));
        assert_eq!(
            told,
            [
                "`encoder.proj.bias` holds a number that is not finite",
                "`head.weight` has shape [2, 5], the network has [2, 4]",
                "`wanted.weight` [1, 1] is missing",
                "`foreign.weight` is not in the network",
            ]
        );
    }

    #[test]
    fn a_prefix_limits_what_is_read_and_what_is_required() {
        let (pretrained, network) = (head(2), head(1));
        let bytes = to_bytes(&pretrained, &pretrained.init::<f32>(1), "");
        let mut params = network.init::<f32>(2);
        let before = params.clone();
        load(&network, &["encoder."], &bytes, &mut params).unwrap();
        for (spec, read) in network.specs().iter().zip([true, true, false, false]) {
            assert_eq!(spec.param.of::<f32>(&params) != spec.param.of(&before), read, "{}", spec.name);
        }
    }

    #[test]
    fn another_number_type_is_refused() {
        let table = table(|_| ());
        let bytes = [vec![0; 5 * 3 * 8], vec![0; 5 * 8]];
        let views = table.specs().iter().zip(&bytes);
        let views = views.map(|(spec, bytes)| (&spec.name, TensorView::new(Dtype::F64, spec.shape.clone(), bytes).unwrap()));
        let file = safetensors::serialize(views, None).unwrap();
        let told = problems(load(&table, &[""], &file, &mut table.zeros()));
        assert_eq!(told, ["`encoder.proj.weight` is F64, not F32", "`encoder.proj.bias` is F64, not F32"]);
    }

    #[test]
    fn broken_files_are_errors() {
        let table = head(2);
        let whole = to_bytes(&table, &table.init::<f32>(1), "");
        let truncated = (0..whole.len()).map(|len| whole[..len].to_vec());
        let endless_header = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
        let foreign = [b"\x93NUMPY\x01\x00v\x00{'descr'".to_vec(), vec![0; 64], vec![0xff; 64], endless_header];
        for bytes in truncated.chain(foreign) {
            let result = load(&table, &[""], &bytes, &mut table.zeros());
            assert!(matches!(result, Err(WeightsError::Format(_))), "{} bytes: {result:?}", bytes.len());
        }
        assert!(metadata(&whole[..20]).is_err());
    }
}
