//! A Parquet file between disk and decoder: what the decoder would allocate because the file says so is looked at first.

use std::fs::File;
use std::io::{BufReader, Read};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use super::thrift::{Footer, Page};

/// A footer of 42 columns takes some 5 KB a row group.
const MAX_FOOTER: u64 = 4 << 20;
/// Elements of a schema, and how deep they nest; flows are flat.
const MAX_COLUMNS: usize = 1 << 14;
const MAX_NESTING: usize = 32;
/// Columns of all row groups: the decoder keeps half a kilobyte for each, which may take twenty bytes of the footer.
const MAX_CHUNKS: u64 = 1 << 16;
/// Statistics included.
const MAX_PAGE_HEADER: u64 = 1 << 16;
/// Writers cut pages at 1 MiB. A page that is larger must not be much smaller on disk.
const PLAIN_PAGE: i64 = 5 << 18;
const MAX_RATIO: i64 = 8;
const MAX_PAGE: i64 = 1 << 26;
/// DELTA_LENGTH_BYTE_ARRAY and DELTA_BYTE_ARRAY: the decoder allocates as many lengths as the (compressed) page says, and aborts.
const UNBOUNDED: [i64; 2] = [6, 7];

/// A file that is read with care.
pub(super) struct Source {
    file: File,
    /// Whether what is read from now on are pages.
    footer_is_read: bool,
}

impl Source {
    /// Looks at the footer.
    pub(super) fn new(file: File) -> Result<Self> {
        let refuse = |what: String| Err(ParquetError::General(what));
        let len = Length::len(&file);
        let Some(start) = len.checked_sub(8) else { return refuse(format!("a file of {len} bytes")) };
        let tail = file.get_bytes(start, 8)?;
        let footer = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
        if footer > MAX_FOOTER {
            return refuse(format!("a footer of {footer} bytes, expected at most {MAX_FOOTER}: write larger row groups"));
        }
        let Some(start) = start.checked_sub(footer) else { return refuse(format!("a footer of {footer} bytes of {len}")) };
        let footer = file.get_bytes(start, footer as usize)?;
        let Some(Footer { children, row_groups, entries }) = Footer::read(&footer) else {
            return refuse("invalid footer".to_owned());
        };
        if children.len() > MAX_COLUMNS {
            return refuse(format!("{} columns, expected at most {MAX_COLUMNS}", children.len()));
        }
        let chunks = row_groups.saturating_mul(children.len() as u64);
        if chunks > MAX_CHUNKS {
            return refuse(format!(
                "{row_groups} row groups of {} columns, expected at most {MAX_CHUNKS} in all: write larger row groups",
                children.len()
            ));
        }
        if entries > MAX_CHUNKS {
            return refuse(format!("{entries} keys in its footer, expected at most {MAX_CHUNKS}"));
        }
        let mut open: Vec<i64> = Vec::new();
        for &n in &children {
            if usize::try_from(n).map_or(true, |n| n >= children.len()) {
                return refuse(format!("a column of {n} columns, of {} in all", children.len()));
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            if n > 0 {
                open.push(n);
            }
            if open.len() > MAX_NESTING {
                return refuse(format!("columns nested deeper than {MAX_NESTING} levels"));
            }
            while open.last() == Some(&0) {
                open.pop();
            }
        }
        Ok(Self { file, footer_is_read: false })
    }

    /// The pages alone, now that the decoder has read the footer: no page starts in the last eight bytes.
    pub(super) fn pages(self) -> Self {
        Self { footer_is_read: true, ..self }
    }

    /// The most rows that a file of this size can reasonably have: flows take some ten bytes each.
    pub(super) fn max_rows(&self) -> u64 {
        self.len() + (1 << 20)
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        Length::len(&self.file)
    }
}

impl ChunkReader for Source {
    type T = BufReader<File>;

    /// The decoder reads the header of a page from what this returns.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        if self.footer_is_read || start < self.len().saturating_sub(8) {
            let page = Page::read(self.file.get_read(start)?.take(MAX_PAGE_HEADER));
            let Some(Page { uncompressed, compressed, dictionary, encoding }) = page else {
                return Err(ParquetError::General(format!("no page header at byte {start}")));
            };
            if UNBOUNDED.contains(&encoding) {
                let what = "delta-coded texts are not read here: write them plain or with a dictionary".to_owned();
                return Err(ParquetError::General(what));
            }
            let plausible = uncompressed <= PLAIN_PAGE || (uncompressed / MAX_RATIO <= compressed && uncompressed <= MAX_PAGE);
            if !plausible || dictionary > uncompressed.max(0) {
                let what = format!(
                    "a page of {uncompressed} bytes out of {compressed}, expected at most {PLAIN_PAGE}: write smaller pages"
                );
                return Err(ParquetError::General(what));
            }
        }
        self.file.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(ParquetError::EOF(format!("{length} bytes at byte {start} of {}", self.len())));
        }
        self.file.get_bytes(start, length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn no_page_starts_in_the_tail() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"PAR1\x00\x01\x00\x00\x00PAR1").unwrap();
        let source = Source::new(file).unwrap();
        let tail = source.len() - 8;
        assert!(source.get_read(tail).is_ok());
        // of what a list claims, the decoder passes what is not there one by one
        assert!(source.pages().get_read(tail).is_err());
    }
}
