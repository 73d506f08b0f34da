//! Safetensors files: the one place that writes and reads them. Whose tensors they are, the caller knows.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::SafeTensors;
pub use safetensors::tensor::{Dtype, TensorView};
use thiserror::Error;

/// Names and shapes of a thousand parameters take some 100 KB; a header that comes near this is an attack on its parser.
const MAX_HEADER: u64 = 1 << 20;
/// The key that the metadata text is kept under. Several keys would be written in random order.
const METADATA: &str = "nids_mixer";

/// The bytes are no safetensors file; the text says why.
#[derive(Debug, Error)]
#[error("not a readable safetensors file: {0}")]
pub struct FormatError(String);

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct NamedTensor<'t> {
    /// Its name, which no other tensor of the file has.
    pub name: Cow<'t, str>,
    /// Its number type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, little-endian, the last index running fastest.
    pub bytes: Cow<'t, [u8]>,
}

impl<'t> NamedTensor<'t> {
    /// A tensor of F32.
    pub fn f32(name: &'t str, shape: &[usize], numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { name: Cow::Borrowed(name), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }
}

/// A safetensors file of these tensors and one metadata text. The same input gives the same bytes.
///
/// # Panics
/// If a tensor has not as many bytes as its shape says, or two have one name.
pub fn to_bytes(tensors: &[NamedTensor<'_>], metadata: &str) -> Vec<u8> {
    let views = tensors.iter().map(|NamedTensor { name, dtype, shape, bytes }| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("as many bytes as the shape says"))
    });
    let metadata = HashMap::from([(METADATA.to_owned(), metadata.to_owned())]);
    safetensors::serialize(views, Some(metadata)).expect("names are unique and sizes fit")
}

/// A safetensors file that has been read; its numbers stay where they are.
#[derive(Debug)]
pub struct TensorFile<'f> {
    tensors: SafeTensors<'f>,
    metadata: Option<String>,
}

impl<'f> TensorFile<'f> {
    /// Reads a file. A header that is longer than any that is written here is refused before it is parsed.
    ///
    /// # Errors
    /// If the bytes are no safetensors file.
    pub fn read(bytes: &'f [u8]) -> Result<Self, FormatError> {
        if let Some(len) = bytes.first_chunk().map(|len| u64::from_le_bytes(*len))
            && len > MAX_HEADER
        {
            return Err(FormatError(format!("a header of {len} bytes, expected at most {MAX_HEADER}")));
        }
        let format = |error: safetensors::SafeTensorError| FormatError(error.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
        let metadata = header.metadata().as_ref().and_then(|map| map.get(METADATA).cloned());
        Ok(Self { tensors: SafeTensors::deserialize(bytes).map_err(format)?, metadata })
    }

    /// The metadata text, if the file has one.
    pub fn metadata(&self) -> Option<&str> {
        self.metadata.as_deref()
    }

    /// How many tensors the file says that it holds: at most as many as its header, which is limited, has room for.
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Every tensor by its name.
    pub fn tensors(&self) -> BTreeMap<String, TensorView<'f>> {
        self.tensors.tensors().into_iter().collect()
    }
}

/// The numbers of a tensor of F32.
pub fn numbers<'v>(view: &'v TensorView<'_>) -> impl Iterator<Item = f32> + 'v {
    view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> [NamedTensor<'static>; 2] {
        let step = 7_i64.to_le_bytes().to_vec();
        let step = NamedTensor { name: "step".into(), dtype: Dtype::I64, shape: vec![1], bytes: step.into() };
        [NamedTensor::f32("weight", &[2, 3], &[0.5, -0.0, f32::NAN, 1e-30, f32::MAX, 3.0]), step]
    }

    #[test]
    fn what_was_written_is_read_to_the_bit() {
        let bytes = to_bytes(&tensors(), "{\"a\":1}");
        let file = TensorFile::read(&bytes).unwrap();
        assert_eq!((file.metadata(), file.n_tensors()), (Some("{\"a\":1}"), 2));
        let found = file.tensors();
        for NamedTensor { name, dtype, shape, bytes } in tensors() {
            let view = &found[&*name];
            assert_eq!((view.dtype(), view.shape(), view.data()), (dtype, &shape[..], &*bytes), "{name}");
        }
        let bits: Vec<u32> = numbers(&found["weight"]).map(f32::to_bits).collect();
        assert_eq!(bits, [0.5, -0.0, f32::NAN, 1e-30, f32::MAX, 3.0].map(f32::to_bits));
        assert_eq!(to_bytes(&tensors(), "{\"a\":1}"), bytes);
    }

    #[test]
    fn a_long_header_is_refused_before_it_is_parsed() {
        // a header that would parse: the length alone speaks against it
        let text = format!("{{\"__metadata__\":{{\"a\":\"{}\"}}}}", "x".repeat(1 << 20));
        let bytes = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let error = TensorFile::read(&bytes).unwrap_err().to_string();
        assert_eq!(error, format!("not a readable safetensors file: a header of {} bytes, expected at most 1048576", text.len()));
    }
}
