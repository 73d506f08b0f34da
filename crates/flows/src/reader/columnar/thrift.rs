//! The little of Thrift's compact protocol that says how much memory a Parquet file asks for, read ahead of the decoder, which
//! allocates what it is told.

use std::io::Read;

/// Lists in structs in lists: Parquet has five levels.
const MAX_DEPTH: usize = 16;

const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// What a page is said to hold.
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
    /// Reads a page's header; `None` if it is none.
    pub(super) fn read(from: impl Read) -> Option<Self> {
        let mut page = Page::default();
        Thrift(from).fields(0, &mut |thrift, field, kind| match (field, kind) {
            (2, _) => thrift.number(kind).map(|n| page.uncompressed = n),
            (3, _) => thrift.number(kind).map(|n| page.compressed = n),
            (5 | 8, STRUCT) => {
                let place = if field == 5 { 2 } else { 4 };
                thrift.fields(1, &mut |thrift, field, kind| match field {
                    _ if field == place => thrift.number(kind).map(|n| page.encoding = n),
                    _ => thrift.skip(kind, 2),
                })
            }
            (7, STRUCT) => thrift.fields(1, &mut |thrift, field, kind| match field {
                1 => thrift.number(kind).map(|n| page.dictionary = n),
                _ => thrift.skip(kind, 2),
            }),
            _ => thrift.skip(kind, 1),
        })?;
        Some(page)
    }
}

/// The number of children of every element of a footer's schema, depth first; `None` if it is no footer.
pub(super) fn children(footer: &[u8]) -> Option<Vec<i64>> {
    let mut children = Vec::new();
    Thrift(footer).fields(0, &mut |thrift, field, kind| {
        if (field, kind) != (2, LIST) {
            return thrift.skip(kind, 1);
        }
        let (n, kind) = thrift.list()?;
        for _ in 0..n {
            let mut of_element = 0;
            if kind != STRUCT {
                return None;
            }
            thrift.fields(1, &mut |thrift, field, kind| match field {
                5 => thrift.number(kind).map(|n| of_element = n),
                _ => thrift.skip(kind, 2),
            })?;
            children.push(of_element);
        }
        Some(())
    })?;
    Some(children)
}

struct Thrift<R>(R);

/// Takes one field, of which number and type are given.
type Visit<'a, R> = dyn FnMut(&mut Thrift<R>, i64, u8) -> Option<()> + 'a;

impl<R: Read> Thrift<R> {
    /// Every field of a struct.
    fn fields(&mut self, depth: usize, visit: &mut Visit<'_, R>) -> Option<()> {
        let mut field = 0_i64;
        if depth > MAX_DEPTH {
            return None;
        }
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Some(());
            }
            field = if byte >> 4 == 0 { self.zigzag()? } else { field.checked_add((byte >> 4).into())? };
            visit(self, field, byte & 15)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1 | 2 => Some(()),
            3 => self.bytes(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.bytes(8),
            BINARY => {
                let len = self.varint()?;
                self.bytes(len)
            }
            LIST | 10 if depth <= MAX_DEPTH => {
                let (n, kind) = self.list()?;
                // a boolean takes a byte in a list and none in a struct
                (0..n).try_for_each(|_| if kind <= 2 { self.bytes(1) } else { self.skip(kind, depth + 1) })
            }
            STRUCT => self.fields(depth, &mut |thrift, _, kind| thrift.skip(kind, depth + 1)),
            _ => None,
        }
    }

    /// Length and type of elements.
    fn list(&mut self) -> Option<(u64, u8)> {
        let byte = self.byte()?;
        let n = if byte >> 4 == 15 { self.varint()? } else { (byte >> 4).into() };
        Some((n, byte & 15))
    }

    fn number(&mut self, kind: u8) -> Option<i64> {
        if (4..=6).contains(&kind) { self.zigzag() } else { None }
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
    fn nesting_and_endless_lengths_are_refused() {
        assert_eq!(children(&vec![0x1c; 1_000_000]), None);
        assert_eq!(children(&vec![0x19; 1_000_000]), None);
        assert_eq!(children(&[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]), None);
    }
}
