//! From a path to bytes: what they are, decompressed, as UTF-8.

use std::fs::File;
use std::io::{self, Chain, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use encoding_rs_io::DecodeReaderBytesBuilder;
use flate2::read::MultiGzDecoder;

use super::mend::Mended;
use crate::{At, Encoding, Error, Result};

/// How much of a file is looked at before it is read.
pub(super) const HEAD: usize = 1 << 16;
/// The largest window of zstd, as a power of two: what it keeps in memory. Its levels up to 19 need 8 MB.
const ZSTD_WINDOW: u32 = 25;

/// The path that stands for standard input.
pub(super) const STDIN: &str = "-";

type Bytes = Box<dyn Read + Send>;

/// A file whose first bytes have been looked at.
pub(super) enum Input {
    /// Read from any place.
    Parquet(File),
    /// Read once, from the first byte: that of an Arrow stream, or of an Arrow file, which holds one.
    Arrow(Bytes),
    Text(Text),
}

/// A file of text.
pub(super) struct Text {
    /// The first bytes, at most `HEAD`, without a byte order mark.
    pub(super) head: Vec<u8>,
    /// All bytes, the first ones included.
    pub(super) bytes: Bytes,
    pub(super) is_compressed: bool,
    /// What was done to the bytes of the file: `gzip`, `UTF-16`.
    pub(super) notes: Vec<String>,
}

/// What a file is that holds no flows, and what to do.
const STRANGERS: [(&[u8], &str); 13] = [
    (b"PK\x03\x04", "a zip archive or an Excel workbook: unpack it, or export its sheet as CSV"),
    (b"BZh", "compressed by bzip2: decompress it first; gzip and zstd are read as they are"),
    (b"\xfd7zXZ\0", "compressed by xz: decompress it first; gzip and zstd are read as they are"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a rar archive: unpack it first"),
    (b"\xd4\xc3\xb2\xa1", "captured packets (pcap), not flows: make flows of them first, with Zeek, Suricata or CICFlowMeter"),
    (b"\xa1\xb2\xc3\xd4", "captured packets (pcap), not flows: make flows of them first, with Zeek, Suricata or CICFlowMeter"),
    (b"\x4d\x3c\xb2\xa1", "captured packets (pcap), not flows: make flows of them first, with Zeek, Suricata or CICFlowMeter"),
    (b"\x0a\x0d\x0d\x0a", "captured packets (pcapng), not flows: make flows of them first, with Zeek, Suricata or CICFlowMeter"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file: run `git lfs pull`"),
    (b"%PDF", "a PDF document, not flows"),
    (b"\x93NUMPY", "a numpy array, not flows: its columns have no names; save the table as CSV or Parquet"),
    (b"SQLite format 3", "a SQLite database: export the table as CSV or Parquet"),
];

/// A file, and how many of its bytes have been read.
struct Counted {
    file: File,
    n_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.n_read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Opens a file; `-` is standard input.
pub(super) fn open(path: &Path, encoding: Option<Encoding>) -> Result<Input> {
    open_counted(path, encoding, &Arc::default())
}

/// The same, adding to `n_read` what is read of it but for Parquet.
pub(super) fn open_counted(path: &Path, encoding: Option<Encoding>, n_read: &Arc<AtomicU64>) -> Result<Input> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    if path == Path::new(STDIN) {
        let mut bytes: Bytes = Box::new(io::stdin());
        let head = head(&mut bytes).map_err(io)?;
        return look(path, head, bytes, None, encoding, Vec::new());
    }
    let mut file = File::open(path).map_err(io)?;
    // a folder opens on Linux, and fails here
    let head = head(&mut file).map_err(io)?;
    let is_parquet = head.starts_with(b"PAR1");
    let rewound = if is_parquet { Some(file.try_clone().map_err(io)?) } else { None };
    n_read.fetch_add(head.len() as u64, Ordering::Relaxed);
    let counted = Counted { file, n_read: Arc::clone(n_read) };
    look(path, head, Box::new(counted), rewound, encoding, Vec::new())
}

/// Text in memory.
pub(super) fn of_bytes(path: &Path, bytes: Vec<u8>, encoding: Option<Encoding>) -> Result<Input> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut rest: Bytes = Box::new(Cursor::new(bytes));
    if encoding == Some(Encoding::Windows1252) {
        rest = Box::new(Mended::new(rest));
    }
    let head = head(&mut rest).map_err(io)?;
    Ok(text(head, rest, Vec::new()))
}

/// What the first bytes are of that begin no text.
pub(super) fn stranger(head: &[u8]) -> Option<&'static str> {
    const BINARY: [(&[u8], &str); 6] = [
        (b"PAR1", "Parquet"),
        (b"ARROW1\0\0", "Arrow"),
        (b"\xff\xff\xff\xff", "Arrow"),
        (b"\x1f\x8b", "compressed by gzip"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"\xff\xfe", "UTF-16"),
    ];
    let found = STRANGERS.iter().chain(&BINARY).find(|(magic, _)| head.starts_with(magic));
    found.map(|(_, what)| *what)
}

fn look(
    path: &Path,
    head: Vec<u8>,
    rest: Bytes,
    file: Option<File>,
    encoding: Option<Encoding>,
    mut notes: Vec<String>,
) -> Result<Input> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let refuse = |message: &str| Err(Error::data(path, At::File, None, message.to_owned()));
    if head.starts_with(b"PAR1") {
        let Some(mut file) = file else {
            return refuse("Parquet is read from a file alone, neither compressed nor from a pipe: save it to disk first");
        };
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        return Ok(Input::Parquet(file));
    }
    if head.starts_with(b"ARROW1\0\0") || head.starts_with(b"\xff\xff\xff\xff") {
        return Ok(Input::Arrow(Box::new(Cursor::new(head).chain(rest))));
    }
    if let Some((_, what)) = STRANGERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return refuse(&format!("the file is {what}"));
    }
    if head.get(257..262) == Some(b"ustar") {
        return refuse("the file is a tar archive: unpack it first, and name the folder");
    }
    let is_gzip = head.starts_with(b"\x1f\x8b");
    if is_gzip || head.starts_with(b"\x28\xb5\x2f\xfd") {
        if !notes.is_empty() {
            return refuse("the file is compressed twice: decompress it first");
        }
        notes.push(if is_gzip { "gzip" } else { "zstd" }.to_owned());
        let bytes = Cursor::new(head).chain(rest);
        let mut bytes: Bytes = if is_gzip { Box::new(MultiGzDecoder::new(bytes)) } else { zstd_of(bytes).map_err(io)? };
        let head = self::head(&mut bytes).map_err(io)?;
        return look(path, head, bytes, None, encoding, notes);
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        notes.push("UTF-16".to_owned());
        let mut bytes: Bytes = Box::new(DecodeReaderBytesBuilder::new().build(Cursor::new(head).chain(rest)));
        let head = self::head(&mut bytes).map_err(io)?;
        return Ok(text(head, bytes, notes));
    }
    if encoding == Some(Encoding::Windows1252) {
        let mut bytes: Bytes = Box::new(Mended::new(Cursor::new(head).chain(rest)));
        let head = self::head(&mut bytes).map_err(io)?;
        notes.push("Windows-1252 where it is not UTF-8".to_owned());
        return Ok(text(head, bytes, notes));
    }
    Ok(text(head, rest, notes))
}

fn text(head: Vec<u8>, rest: Bytes, notes: Vec<String>) -> Input {
    let start = if head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let is_compressed = notes.iter().any(|note| note == "gzip" || note == "zstd");
    Input::Text(Text { head: head[start..].to_vec(), bytes: Box::new(Cursor::new(head).chain(rest)), is_compressed, notes })
}

fn zstd_of(bytes: Chain<Cursor<Vec<u8>>, Bytes>) -> io::Result<Bytes> {
    let mut decoder = zstd::stream::read::Decoder::new(bytes)?;
    decoder.window_log_max(ZSTD_WINDOW)?;
    Ok(Box::new(decoder))
}

/// The first bytes, at most `HEAD`.
fn head(bytes: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    bytes.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}
