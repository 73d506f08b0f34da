//! Arrays in `.npy` files, the format of numpy.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use ndarray::{Array, ArrayBase, ArrayView, Data, Dimension};
use ndarray_npy::{ViewElement, ViewNpyExt, WritableElement, WriteNpyExt};

use thiserror::Error;

use crate::error::{Error, Result};

/// The longest header that is parsed. numpy writes headers of 128 bytes; a far longer one is an attack on the parser.
const MAX_HEADER: usize = 1024;

/// Why bytes do not start with the header of an `.npy` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Another kind of file.
    #[error("not an `.npy` file")]
    Foreign,
    /// Neither version 1 nor 2 nor 3.
    #[error("an `.npy` header of an unknown version")]
    Version,
    /// Longer than any that numpy writes; so many bytes.
    #[error("an `.npy` header of {0} bytes, expected at most {MAX_HEADER}")]
    Long(usize),
    /// The file ends before its header does.
    #[error("truncated in the `.npy` header")]
    Truncated,
    /// Not UTF-8.
    #[error("an `.npy` header that is no text")]
    NotText,
}

/// Writes an array of any layout.
pub fn write<A, S, D>(array: &ArrayBase<S, D>, out: &mut dyn Write) -> io::Result<()>
where
    A: WritableElement,
    S: Data<Elem = A>,
    D: Dimension,
{
    array.write_npy(out).map_err(io::Error::other)
}

/// What a file of an array of this shape begins with; its elements follow, row after row, little-endian.
///
/// # Panics
/// Never: an array of no elements is written to memory.
pub fn header_of<A: WritableElement>(shape: &[usize]) -> Vec<u8> {
    // the shape is all that tells it from the header of an array without elements
    let mut empty = Vec::new();
    write(&Array::<A, _>::from_shape_vec((0,), Vec::new()).expect("no elements"), &mut empty).expect("memory can be written to");
    let (text, _) = header(&empty).expect("a header");
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let comma = if sizes.len() == 1 { "," } else { "" };
    let text = text.trim_end().replacen("(0,)", &format!("({}{comma})", sizes.join(", ")), 1);
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((length as u16).to_le_bytes());
    out.extend(format!("{text:<width$}\n", width = length - 1).into_bytes());
    out
}

/// Reads an array, which must have this element type and this number of dimensions.
///
/// The whole file is read first and parsed in place, so a header cannot ask for more memory than the file has bytes.
pub fn read<A, D>(path: &Path) -> Result<Array<A, D>>
where
    A: ViewElement + Clone,
    D: Dimension,
{
    from_bytes(&fs::read(path).map_err(Error::io(path, "read"))?, path)
}

/// Like [`read`], but from the content of a file. Errors show `path`.
pub fn from_bytes<A, D>(bytes: &[u8], path: &Path) -> Result<Array<A, D>>
where
    A: ViewElement + Clone,
    D: Dimension,
{
    let refuse = |what: String| Error::artefact(path, what, "run the stage that makes it again");
    let dimensions = D::NDIM.map_or_else(|| "any number of".to_owned(), |n| n.to_string());
    let wanted = format!("expected {dimensions} dimensions of {}", std::any::type_name::<A>());
    let (text, _) = header(bytes).map_err(|error| refuse(format!("foreign: {error}")))?;
    if !is_plain(text) {
        return Err(refuse(format!("foreign: the `.npy` header is not that of a plain array; {wanted}")));
    }
    let view = ArrayView::<A, D>::view_npy(bytes).map_err(|error| refuse(format!("unreadable `.npy`: {error}; {wanted}")))?;
    Ok(view.to_owned())
}

/// The text of a file's header, and where the data start. The text's length takes 2 bytes in version 1, 4 in versions 2 and 3.
///
/// # Errors
/// If the bytes start with no such header.
pub fn header(file: &[u8]) -> std::result::Result<(&str, usize), HeaderError> {
    let rest = file.strip_prefix(b"\x93NUMPY").ok_or(HeaderError::Foreign)?;
    let (len, rest) = match rest {
        [1, 0, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, 0, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [] | [1..=3] | [1..=3, 0, ..] => return Err(HeaderError::Truncated),
        _ => return Err(HeaderError::Version),
    };
    if len > MAX_HEADER {
        return Err(HeaderError::Long(len));
    }
    let text = rest.get(..len).ok_or(HeaderError::Truncated)?;
    let text = str::from_utf8(text).map_err(|_| HeaderError::NotText)?;
    Ok((text, file.len() - rest.len() + len))
}

/// Whether a header is one dictionary with one tuple of sizes, and an array can index the product of all sizes other than 0.
///
/// ndarray-npy asks for less. What it parses headers with takes forever over nested lists; and an array with a size of 0 has no
/// elements, so that `view_npy` lets the other sizes pass whatever they are, and panics when ndarray does not.
fn is_plain(header: &str) -> bool {
    let sizes = || {
        let sizes = header.split_once('(')?.1.split_once(')')?.0.split(',').map(str::trim).filter(|size| !size.is_empty());
        sizes.map(str::parse::<isize>).try_fold(1, |product: isize, size| product.checked_mul(size.ok()?.max(1)))
    };
    header.matches('{').count() == 1 && header.matches('(').count() == 1 && !header.contains('[') && sizes().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2, Array3, Ix1, Ix2, Ix3, array};

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn bytes<A: WritableElement, D: Dimension>(array: &Array<A, D>) -> Vec<u8> {
        let mut out = Vec::new();
        write(array, &mut out).unwrap();
        out
    }

    fn round_trip<A, D>(array: &Array<A, D>)
    where
        A: WritableElement + ViewElement + Clone + PartialEq + std::fmt::Debug,
        D: Dimension,
    {
        assert_eq!(&read::<A, D>(file(&bytes(array)).path()).unwrap(), array);
    }

    fn error<A: ViewElement + Clone, D: Dimension>(bytes: &[u8]) -> String {
        let file = file(bytes);
        let error = read::<A, D>(file.path()).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        error.to_string().replace(&file.path().display().to_string(), "x.npy")
    }

    #[test]
    fn a_header_is_that_of_a_written_array() {
        let one: Array1<f32> = Array1::zeros(7);
        assert!(bytes(&one).starts_with(&header_of::<f32>(&[7])));
        let two = Array2::<f32>::zeros((0, 1234));
        assert_eq!(bytes(&two), header_of::<f32>(&[0, 1234]));
        let three = Array3::<u8>::zeros((2, 3, 1));
        assert!(bytes(&three).starts_with(&header_of::<u8>(&[2, 3, 1])));
        assert_eq!(bytes(&three).len(), header_of::<u8>(&[2, 3, 1]).len() + 6);
    }

    #[test]
    fn a_header_is_read_in_every_version() {
        let file = |version: &[u8], text: &[u8]| [b"\x93NUMPY", version, text].concat();
        assert_eq!(header(&file(&[1, 0, 3, 0], b"{a}data")), Ok(("{a}", 13)));
        for version in [2, 3] {
            assert_eq!(header(&file(&[version, 0, 3, 0, 0, 0], b"{a}data")), Ok(("{a}", 15)));
        }
        for (bytes, wanted) in [
            (b"\x93NUMP".to_vec(), HeaderError::Foreign),
            (file(&[4, 0, 3, 0], b"{a}"), HeaderError::Version),
            (file(&[1, 1, 3, 0], b"{a}"), HeaderError::Version),
            (file(&[], b""), HeaderError::Truncated),
            (file(&[2, 0, 3, 0], b""), HeaderError::Truncated),
            (file(&[1, 0, 4, 0], b"{a}"), HeaderError::Truncated),
            (file(&[1, 0, 1, 4], &[b' '; 1025]), HeaderError::Long(1025)),
            (file(&[1, 0, 3, 0], b"{\xff}"), HeaderError::NotText),
        ] {
            assert_eq!(header(&bytes), Err(wanted), "{bytes:?}");
        }
        assert!(header(&file(&[1, 0, 0, 4], &[b' '; 1024])).is_ok());
    }

    #[test]
    fn arrays_come_back_as_they_were() {
        round_trip::<f32, Ix1>(&Array1::linspace(0.0, 1.0, 7));
        round_trip::<f32, Ix2>(&Array2::from_shape_fn((3, 5), |(i, j)| (i * 7 + j) as f32));
        round_trip::<f32, Ix3>(&Array3::from_shape_fn((3, 4, 5), |(i, j, k)| (i * 70 + j * 7 + k) as f32));
        round_trip::<f32, Ix2>(&Array2::zeros((0, 5)));
        round_trip::<u8, Ix1>(&array![0, 1, 255]);
        round_trip::<u32, Ix1>(&array![0, 1, u32::MAX]);
        round_trip::<i64, Ix1>(&array![i64::MIN, 0, i64::MAX]);
    }

    #[test]
    fn a_transposed_array_keeps_its_indices() {
        let array = Array2::from_shape_fn((3, 5), |(i, j)| (i * 7 + j) as f32).reversed_axes();
        round_trip::<f32, Ix2>(&array);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let whole = bytes::<f32, Ix2>(&Array2::ones((3, 5)));
        for end in 0..whole.len() {
            error::<f32, Ix2>(&whole[..end]);
        }
        insta::assert_snapshot!(error::<f32, Ix2>(&whole[..whole.len() - 1]), @"x.npy: unreadable `.npy`: missing 1 bytes of data specified in header; expected 2 dimensions of f32: run the stage that makes it again");
        insta::assert_snapshot!(error::<f32, Ix2>(&[whole.as_slice(), b"!"].concat()), @"x.npy: unreadable `.npy`: file had 1 extra bytes before EOF; expected 2 dimensions of f32: run the stage that makes it again");
    }

    #[test]
    fn a_foreign_file_is_named_so() {
        insta::assert_snapshot!(error::<f32, Ix2>(b"id,dur,proto\n1,2,tcp\n"), @"x.npy: foreign: not an `.npy` file: run the stage that makes it again");
        insta::assert_snapshot!(error::<u8, Ix1>(&bytes::<f32, Ix1>(&Array1::ones(3))), @"x.npy: unreadable `.npy`: incorrect descriptor ('<f4') for this type; expected 1 dimensions of u8: run the stage that makes it again");
        insta::assert_snapshot!(error::<f32, Ix1>(&bytes::<f32, Ix2>(&Array2::ones((3, 5)))), @"x.npy: unreadable `.npy`: ndim 2 of array did not match Dimension type with NDIM = Some(1); expected 1 dimensions of f32: run the stage that makes it again");
    }

    #[test]
    fn a_header_cannot_ask_for_memory() {
        let header = |shape: &str, length: Option<u16>| {
            let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
            let length = length.unwrap_or(text.len() as u16);
            [b"\x93NUMPY\x01\x00".as_slice(), &length.to_le_bytes(), text.as_bytes()].concat()
        };
        insta::assert_snapshot!(error::<f32, Ix2>(&header("(99999999999, 64)", None)), @"x.npy: unreadable `.npy`: missing 25599999999744 bytes of data specified in header; expected 2 dimensions of f32: run the stage that makes it again");
        error::<f32, Ix2>(&header("(18446744073709551615, 18446744073709551615)", None));
        error::<f32, Ix2>(&header("(-1, 64)", None));
        insta::assert_snapshot!(error::<f32, Ix2>(&header("(0, 18446744073709551615)", None)), @"x.npy: foreign: the `.npy` header is not that of a plain array; expected 2 dimensions of f32: run the stage that makes it again");
        error::<f32, Ix3>(&header("(9223372036854775807, 0, 9223372036854775807)", None));
        error::<f32, Ix2>(&header(&"[".repeat(1000), None));
        error::<f32, Ix2>(&header(&"-".repeat(1000), None));
        insta::assert_snapshot!(error::<f32, Ix2>(&header("(3, 5)", Some(u16::MAX))), @"x.npy: foreign: an `.npy` header of 65535 bytes, expected at most 1024: run the stage that makes it again");
        error::<f32, Ix2>(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}");
    }
}
