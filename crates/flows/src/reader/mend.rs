//! Texts that are UTF-8 or Windows-1252, and perhaps the one in this line and the other in the next.

use std::io::{self, Read};

use encoding_rs::WINDOWS_1252;

const CHUNK: u64 = 1 << 16;

/// Gives the bytes of `source` as UTF-8: what is UTF-8 stays as it is, and any other byte is a character of Windows-1252. So a file
/// is read right that was saved as UTF-8 although its schema speaks of Windows-1252.
pub(super) struct Mended<R> {
    source: R,
    /// Bytes that are read at once.
    chunk: u64,
    /// Bytes that may be the first of a character whose others have not been read.
    rest: Vec<u8>,
    text: Vec<u8>,
    /// How much of `text` has been given.
    given: usize,
    is_at_end: bool,
}

impl<R: Read> Mended<R> {
    pub(super) fn new(source: R) -> Self {
        Mended { source, chunk: CHUNK, rest: Vec::new(), text: Vec::new(), given: 0, is_at_end: false }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.rest);
        self.is_at_end = (&mut self.source).take(self.chunk).read_to_end(&mut bytes)? == 0;
        self.text.clear();
        self.given = 0;
        for chunk in bytes.utf8_chunks() {
            self.text.extend_from_slice(chunk.valid().as_bytes());
            let invalid = chunk.invalid();
            let may_go_on = !self.is_at_end
                && chunk_ends_at(&bytes, invalid)
                && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if may_go_on {
                self.rest = invalid.to_vec();
            } else {
                self.text.extend_from_slice(WINDOWS_1252.decode_without_bom_handling(invalid).0.as_bytes());
            }
        }
        Ok(())
    }
}

/// Whether a part of `bytes` is their end.
fn chunk_ends_at(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && part.as_ptr_range().end == bytes.as_ptr_range().end
}

impl<R: Read> Read for Mended<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.text.len() && !self.is_at_end {
            self.fill()?;
        }
        let n = (&self.text[self.given..]).read(buffer)?;
        self.given += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mended(bytes: &[u8]) -> String {
        let mut text = String::new();
        Mended::new(bytes).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn what_is_no_utf_8_is_windows_1252() {
        assert_eq!(mended(b"Web Attack \x96 XSS"), "Web Attack \u{2013} XSS");
        assert_eq!(mended(b"caf\xe9, caf\xc3\xa9"), "café, café");
        assert_eq!(mended(b"\xe2\x82"), "â‚", "the first bytes of a character at the end of the file");
        // a character across the border of two chunks
        let long = [&vec![b'a'; CHUNK as usize - 1][..], "é\u{20ac}".as_bytes(), b"\xe9"].concat();
        assert!(mended(&long).ends_with("aé€é"));
    }

    proptest! {
        #[test]
        fn utf_8_stays_as_it_is(text in "\\PC{0,60}") {
            prop_assert_eq!(mended(text.as_bytes()), text);
        }

        #[test]
        fn pieces_make_no_difference(bytes: Vec<u8>, text in "\\PC{0,9}", chunk in 1_u64..5) {
            let bytes = [text.as_bytes(), &bytes, text.as_bytes()].concat();
            let mut whole = String::new();
            Mended { chunk, ..Mended::new(bytes.as_slice()) }.read_to_string(&mut whole).unwrap();
            prop_assert_eq!(whole, mended(&bytes));
        }
    }
}
