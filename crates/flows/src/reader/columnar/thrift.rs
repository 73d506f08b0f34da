//! The little of Thrift's compact protocol that says how much memory a Parquet file asks for, read ahead of the decoder, which
//! allocates what it is told.
//!
//! The decoder takes a field for what its number says, whatever type the file gives it, and cuts numbers to 32 bits. Read with
//! those liberties, a file could say one thing here and another there. So here fields ascend, have the types of parquet.thrift, and
//! numbers fit.

use std::io::Read;

/// Lists in structs in lists: Parquet has five levels.
const MAX_DEPTH: usize = 16;

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Sizes and encoding that a page's header claims.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) uncompressed: i64,
    pub(super) compressed: i64,
    /// Distinct values, where it is a dictionary.
    pub(super) dictionary: i64,
    /// How values are written, where it holds data.
    pub(super) encoding: i64,
}

impl Page {
    /// Reads a page's header; `None` if it is invalid.
    pub(super) fn read(from: impl Read) -> Option<Self> {
        let mut page = Page::default();
        Thrift(from).fields(0, &mut |thrift, field, kind| match (field, kind) {
            (2, I32) => thrift.number().map(|n| page.uncompressed = n),
            (3, I32) => thrift.number().map(|n| page.compressed = n),
            (5, STRUCT) => thrift.fields(1, &mut |thrift, field, kind| match (field, kind) {
                (2, I32) => thrift.number().map(|n| page.encoding = n),
                (1 | 3 | 4, I32) | (5, STRUCT) | (6.., _) => thrift.skip(kind, 2),
                _ => None,
            }),
            (7, STRUCT) => thrift.fields(1, &mut |thrift, field, kind| match (field, kind) {
                (1, I32) => thrift.number().map(|n| page.dictionary = n),
                (2, I32) | (3, TRUE | FALSE) | (4.., _) => thrift.skip(kind, 2),
                _ => None,
            }),
            (8, STRUCT) => thrift.fields(1, &mut |thrift, field, kind| match (field, kind) {
                (4, I32) => thrift.number().map(|n| page.encoding = n),
                (1..=6, I32) | (7, TRUE | FALSE) | (8, STRUCT) | (9.., _) => thrift.skip(kind, 2),
                _ => None,
            }),
            (1 | 4, I32) | (6, STRUCT) | (9.., _) => thrift.skip(kind, 1),
            _ => None,
        })?;
        Some(page)
    }
}

/// Counts that a footer claims.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Footer {
    /// Number of children of every element of the schema, depth first.
    pub(super) children: Vec<i64>,
    pub(super) row_groups: u64,
    /// The longer one of its other lists.
    pub(super) entries: u64,
}

impl Footer {
    /// Reads a footer; `None` if it is invalid.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut footer = Footer::default();
        Thrift(bytes).fields(0, &mut |thrift, field, kind| match (field, kind) {
            (2, LIST) => {
                let (n, kind) = thrift.list()?;
                if n > 0 && kind != STRUCT {
                    return None;
                }
                for _ in 0..n {
                    let mut children = 0;
                    thrift.fields(1, &mut |thrift, field, kind| match (field, kind) {
                        (5, I32) => thrift.number().map(|n| children = n),
                        (1..=9, I32) | (4, BINARY) | (10, STRUCT) | (11.., _) => thrift.skip(kind, 2),
                        _ => None,
                    })?;
                    footer.children.push(children);
                }
                Some(())
            }
            (4 | 5 | 7, LIST) => {
                let (n, kind) = thrift.list()?;
                if field == 4 {
                    footer.row_groups = n;
                } else {
                    footer.entries = footer.entries.max(n);
                }
                thrift.elements(n, kind, 1)
            }
            (1, I32) | (3, I64) | (6 | 9, BINARY) | (8, STRUCT) | (10.., _) => thrift.skip(kind, 1),
            _ => None,
        })?;
        Some(footer)
    }
}

struct Thrift<R>(R);

/// Takes one field, of which number and type are given.
type Visit<'a, R> = dyn FnMut(&mut Thrift<R>, i16, u8) -> Option<()> + 'a;

impl<R: Read> Thrift<R> {
    /// Every field of a struct.
    fn fields(&mut self, depth: usize, visit: &mut Visit<'_, R>) -> Option<()> {
        let mut last = 0_i16;
        if depth > MAX_DEPTH {
            return None;
        }
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Some(());
            }
            let field = if byte >> 4 == 0 { self.zigzag()?.try_into().ok()? } else { last.checked_add((byte >> 4).into())? };
            if field <= last {
                return None;
            }
            visit(self, field, byte & 15)?;
            last = field;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            TRUE | FALSE => Some(()),
            3 => self.bytes(1),
            4..=I64 => self.varint().map(|_| ()),
            7 => self.bytes(8),
            BINARY => {
                let len = self.varint()?;
                self.bytes(len)
            }
            LIST | 10 if depth <= MAX_DEPTH => {
                let (n, kind) = self.list()?;
                self.elements(n, kind, depth)
            }
            STRUCT => self.fields(depth, &mut |thrift, _, kind| thrift.skip(kind, depth + 1)),
            _ => None,
        }
    }

    /// Passes `n` elements of a list. Booleans, which take a byte there and none in a struct, are none for the decoder, and
    /// Parquet has no such lists here.
    fn elements(&mut self, n: u64, kind: u8, depth: usize) -> Option<()> {
        (0..n).try_for_each(|_| if kind <= FALSE { None } else { self.skip(kind, depth + 1) })
    }

    /// Length and type of elements.
    fn list(&mut self) -> Option<(u64, u8)> {
        let byte = self.byte()?;
        let n = if byte >> 4 == 15 { self.varint()? } else { (byte >> 4).into() };
        Some((n, byte & 15))
    }

    fn number(&mut self) -> Option<i64> {
        self.zigzag().filter(|&n| i32::try_from(n).is_ok())
    }

    fn zigzag(&mut self) -> Option<i64> {
        let n = self.varint()?;
        Some((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).ok()?;
        Some(byte[0])
    }

    fn bytes(&mut self, n: u64) -> Option<()> {
        let passed = std::io::copy(&mut self.0.by_ref().take(n), &mut std::io::sink()).ok()?;
        (passed == n).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_header_says_its_sizes() {
        // type 2, 300 bytes, 20 compressed, a dictionary of 7 values
        let header = [0x15, 4, 0x15, 0xd8, 4, 0x15, 40, 0x4c, 0x15, 14, 0x15, 0, 0, 0];
        assert_eq!(Page::read(&header[..]), Some(Page { uncompressed: 300, compressed: 20, dictionary: 7, encoding: 0 }));
        // type 0, 5 values in delta-coded texts
        let header = [0x15, 0, 0x15, 10, 0x15, 8, 0x2c, 0x15, 10, 0x15, 14, 0, 0];
        assert_eq!(Page::read(&header[..]), Some(Page { uncompressed: 5, compressed: 4, dictionary: 0, encoding: 7 }));
        for len in 0..header.len() {
            assert_eq!(Page::read(&header[..len]), None);
        }
    }

    #[test]
    fn what_the_decoder_would_read_otherwise_is_refused() {
        // sizes that are others when cut to 32 bits: -2^32 + 2^31 - 1
        let mut cut = vec![0x15, 0, 0x15];
        let mut rest = ((-(1_i64 << 32) + i64::from(i32::MAX)) << 1 ^ -1).cast_unsigned();
        while rest > 0x7f {
            cut.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        cut.extend([rest as u8, 0x15, 8, 0x2c, 0x15, 10, 0x15, 0, 0, 0]);
        assert_eq!(Page::read(&cut[..]), None);
        // the type is a text; a field comes back; a field's number is another in 16 bits: 65,538
        assert_eq!(Page::read(&[0x18, 1, 0x15, 0x15, 10, 0x15, 8, 0][..]), None);
        assert_eq!(Page::read(&[0x15, 0, 0x15, 10, 0x15, 8, 0x05, 4, 20, 0][..]), None);
        assert_eq!(Page::read(&[0x15, 0, 0x15, 10, 0x15, 8, 0x05, 0x84, 0x80, 8, 20, 0][..]), None);
        // a list of two booleans
        assert_eq!(Page::read(&[0x15, 0, 0x15, 10, 0x15, 8, 0x69, 0x21, 1, 1, 0][..]), None);
    }

    #[test]
    fn nesting_and_endless_lengths_are_refused() {
        assert_eq!(Footer::read(&vec![0x1c; 1_000_000]), None);
        assert_eq!(Footer::read(&vec![0x19; 1_000_000]), None);
        assert_eq!(Footer::read(&[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]), None);
    }
}
