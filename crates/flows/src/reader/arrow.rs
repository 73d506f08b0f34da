//! Arrow streams, and Arrow files (Feather), which hold one.

use std::io::{Cursor, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::root_as_message;
use arrow_schema::ArrowError;

use super::batch;
use super::header::{Header, Plan};
use super::sink::{Sink, Slot};
use crate::{At, Error, Result};

const MAGIC: &[u8] = b"ARROW1\0\0";
const CONTINUES: [u8; 4] = [0xff; 4];
/// Some hundred bytes a column.
const MAX_HEADER: u64 = 4 << 20;
/// A batch is held in memory as a whole.
const MAX_BODY: u64 = 1 << 30;

/// The rows of a stream.
pub(super) struct Reader {
    /// Bytes that have been read ahead.
    start: Cursor<Vec<u8>>,
    bytes: Box<dyn Read + Send>,
    decoder: StreamDecoder,
    n_bytes: u64,
    /// Of the last message what the decoder has not taken: it looks at one without a body when the next one is there.
    undecoded: Buffer,
    is_at_end: bool,
    /// Whether it is a file, in which a footer comes after the stream.
    is_file: bool,
    /// Bytes before the last message.
    offset: u64,
    /// Where the batches begin that are taken.
    pub(super) begin_in: Range<u64>,
    /// Rows decoded and not yet handed out, and where their batch begins.
    rest: Option<(u64, RecordBatch)>,
    n_rows: u64,
}

impl Reader {
    /// Reads up to the first rows.
    pub(super) fn open(path: &Path, mut bytes: Box<dyn Read + Send>) -> Result<(Header, Self)> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut start = Vec::new();
        (&mut bytes).take(MAGIC.len() as u64).read_to_end(&mut start).map_err(io)?;
        // a file begins with its magic number, and some writers make that 64 bytes long
        let is_file = start == MAGIC;
        if is_file {
            while start == MAGIC || start == [0; 8] {
                start.clear();
                (&mut bytes).take(MAGIC.len() as u64).read_to_end(&mut start).map_err(io)?;
            }
        }
        let (decoder, start) = (StreamDecoder::new(), Cursor::new(start));
        let undecoded = Buffer::default();
        let mut reader = Reader {
            start,
            bytes,
            decoder,
            n_bytes: 0,
            undecoded,
            is_at_end: false,
            is_file,
            offset: 0,
            begin_in: 0..u64::MAX,
            rest: None,
            n_rows: 0,
        };
        reader.rest = reader.decode(path)?;
        let Some(schema) = reader.decoder.schema() else {
            return Err(damaged(path, "the file ends before its schema does"));
        };
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok((Header { n_seen: names.len(), names, is_sparse: false, is_by_place: false }, reader))
    }

    /// Whether the cells of a column can be read.
    pub(super) fn is_readable(&self, place: usize) -> bool {
        let schema = self.decoder.schema();
        schema.is_some_and(|schema| batch::check_type(Slot::Raw(0), schema.field(place).data_type()).is_ok())
    }

    /// Refuses columns whose type cannot be read.
    pub(super) fn check(&self, path: &Path, plan: &Plan) -> Result<()> {
        let Some(schema) = self.decoder.schema() else { return Ok(()) };
        for &(place, slot) in &plan.uses {
            batch::check_type(slot, schema.field(place).data_type())
                .map_err(|message| Error::data(path, At::File, Some(&plan.names[place]), message))?;
        }
        Ok(())
    }

    /// Takes up to `max_rows` more rows; false at the end of the file.
    pub(super) fn fill(&mut self, path: &Path, plan: &Plan, sink: &mut Sink, max_rows: usize) -> Result<bool> {
        while !sink.is_full(max_rows) {
            let (offset, rows) = match self.rest.take() {
                Some(rows) => rows,
                None => match self.decode(path)? {
                    Some(rows) => rows,
                    None => return Ok(false),
                },
            };
            if offset >= self.begin_in.end {
                return Ok(false);
            }
            if offset < self.begin_in.start {
                self.n_rows += rows.num_rows() as u64;
                sink.skip_rows(rows.num_rows() as u64);
                continue;
            }
            let n = rows.num_rows().min(max_rows - sink.n_rows());
            if n < rows.num_rows() {
                self.rest = Some((offset, rows.slice(n, rows.num_rows() - n)));
            }
            let first = self.n_rows;
            let taken = guarded(path, || batch::take(&rows.slice(0, n), plan, |place| place, sink))?;
            let (n_unwanted, faults, kept) = taken;
            sink.end_rows(kept.len(), path, |row| At::Row(first + kept[row] as u64 + 1), faults);
            sink.n_unwanted += n_unwanted as u64;
            self.n_rows += n as u64;
            // a column without values takes no room
            if self.n_rows > self.n_bytes + (1 << 20) {
                return Err(damaged(path, "more rows than a table of flows of its size can have"));
            }
        }
        Ok(true)
    }

    /// The next rows, and where their batch begins; None at the end of the stream.
    fn decode(&mut self, path: &Path) -> Result<Option<(u64, RecordBatch)>> {
        loop {
            if self.undecoded.is_empty() {
                let Some(message) = self.message(path)? else { return Ok(None) };
                self.undecoded = Buffer::from_vec(message);
            }
            let (decoder, undecoded) = (&mut self.decoder, &mut self.undecoded);
            if let Some(rows) = guarded(path, || decoder.decode(undecoded))? {
                return Ok(Some((self.offset, rows)));
            }
        }
    }

    /// The bytes of the next message; the mark of the end is the last. The decoder would make room for what a message claims; this reads what there is.
    fn message(&mut self, path: &Path) -> Result<Option<Vec<u8>>> {
        let mut message = Vec::new();
        if self.is_at_end {
            return Ok(None);
        }
        self.offset = self.n_bytes;
        self.read(path, &mut message, 4)?;
        let is_continued = message == CONTINUES;
        if is_continued {
            self.read(path, &mut message, 4)?;
        }
        let head = message.len();
        let size = match message.last_chunk() {
            Some(size) if head == if is_continued { 8 } else { 4 } => u64::from(u32::from_le_bytes(*size)),
            // a stream that was cut between two batches would else be one with fewer rows
            _ => {
                return Err(damaged(path, "it ends without the mark of its end: it was cut short, or its writer was not closed"));
            }
        };
        if size == 0 {
            self.is_at_end = true;
            return self.end(path).map(|()| Some(message));
        }
        if size > MAX_HEADER {
            return Err(damaged(path, &format!("a header of {size} bytes, expected at most {MAX_HEADER}")));
        }
        self.read(path, &mut message, size)?;
        if ((message.len() - head) as u64) < size {
            return Err(damaged(path, "it ends in the middle of a header"));
        }
        let body = guarded(path, || {
            let header = root_as_message(&message[head..]).map_err(|error| ArrowError::ParseError(error.to_string()))?;
            u64::try_from(header.bodyLength()).map_err(|_| ArrowError::ParseError("a body of negative size".to_owned()))
        })?;
        if body > MAX_BODY {
            return Err(damaged(path, &format!("{body} bytes in one batch, expected at most {MAX_BODY}: write smaller batches")));
        }
        let wanted = message.len() as u64 + body;
        self.read(path, &mut message, body)?;
        if (message.len() as u64) < wanted {
            return Err(damaged(path, "it ends in the middle of a batch"));
        }
        Ok(Some(message))
    }

    /// Whether a stream is over where it says so; a file goes on with a footer.
    fn end(&mut self, path: &Path) -> Result<()> {
        let mut more = Vec::new();
        if !self.is_file {
            self.read(path, &mut more, 1)?;
        }
        if more.is_empty() {
            return Ok(());
        }
        Err(damaged(path, "it goes on after the mark of its end: give streams that were put one after the other one by one"))
    }

    /// Appends up to `n` bytes.
    fn read(&mut self, path: &Path, to: &mut Vec<u8>, n: u64) -> Result<()> {
        let read = (&mut self.start).chain(&mut self.bytes).take(n).read_to_end(to);
        self.n_bytes += read.map_err(|source| Error::Io { path: path.to_owned(), source })? as u64;
        Ok(())
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::data(path, At::File, None, format!("not a readable Arrow file: {what}"))
}

/// Runs a call into the decoder, which may panic on a damaged file.
fn guarded<T>(path: &Path, call: impl FnOnce() -> std::result::Result<T, ArrowError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let hint = if error.to_string().contains("compress") { "; write it without compression" } else { "" };
            Err(damaged(path, &format!("{error}{hint}")))
        }
        Err(_) => Err(damaged(path, "the decoder gave up on damaged data")),
    }
}
