use std::fmt::Write as _;

use proptest::prelude::*;

use super::span::MAX_LINE_ENDS;
use super::*;

/// Gives as many bytes at a time as it is told to.
struct Slow<'b>(&'b [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(buffer.len()).min(self.0.len());
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

type Cells = Vec<Vec<u8>>;

/// Rows with the lines on which they begin, and the tally; or the first error, as `line: message` or `line, cell: message`.
fn rows_of(text: &[u8], buffer: usize, at_once: usize) -> Result<(Vec<(u64, Cells)>, Tally), String> {
    let mut records = Records { buffer: vec![0; buffer], ..Records::new(Slow(text, at_once), Dialect::default()) };
    let mut rows = Vec::new();
    loop {
        match records.read() {
            Ok(true) if records.ragged().is_some() => return Err(format!("{}: {}", records.line(), records.ragged().unwrap())),
            Ok(true) => rows.push((records.line(), records.cells().map(<[u8]>::to_vec).collect())),
            Ok(false) => return Ok((rows, *records.tally())),
            Err(Fault::Row(Wrong { line, cell: Some(cell), message })) => return Err(format!("{line}, {cell}: {message}")),
            Err(Fault::Row(Wrong { line, cell: None, message })) => return Err(format!("{line}: {message}")),
            Err(Fault::Io(error)) => panic!("{error}"),
        }
    }
}

fn read(text: &str) -> Result<(Vec<(u64, Cells)>, Tally), String> {
    rows_of(text.as_bytes(), BUFFER, usize::MAX)
}

/// The cells between bars, a row a line.
fn shows(text: &str) -> String {
    let (rows, _) = read(text).unwrap();
    let mut out = String::new();
    for (line, cells) in rows {
        let cells: Vec<String> =
            cells.into_iter().map(|cell| String::from_utf8(cell).unwrap().escape_debug().to_string()).collect();
        writeln!(out, "{line}: {}", cells.join("|")).unwrap();
    }
    out
}

fn refused(text: &str, wanted: &str) {
    let message = read(text).unwrap_err();
    assert!(message.starts_with(wanted), "{text}\nwanted {wanted}\nfound  {message}");
}

#[test]
fn a_mark_inside_an_unquoted_field_is_text() {
    assert_eq!(
        shows("a,b,c\n5\",it\"s \"x\" \"\", \"q\"\n1,\"2\",b\"\n"),
        "1: a|b|c\n2: 5\\\"|it\\\"s \\\"x\\\" \\\"\\\"| \\\"q\\\"\n3: 1|2|b\\\"\n"
    );
}

#[test]
fn a_quoted_field_may_hold_commas_marks_and_line_ends() {
    let text = "a,b,\"c, d\"\r\n\"\",\"x\"\"\",\"\"\"\"\r\n1,\"two\r\nlines\",\"and\n\n\rmore\"\r\n\r\n2,3,4";
    assert_eq!(shows(text), "1: a|b|c, d\n2: |x\\\"|\\\"\n3: 1|two\\r\\nlines|and\\n\\n\\rmore\n9: 2|3|4\n");
    let (_, tally) = read(text).unwrap();
    assert_eq!((tally.rows, tally.blank, tally.quoted, tally.quoted_rows), (4, 1, 4, 1));
    assert_eq!(tally.first_quoted, Some((3, 1)));
    assert_eq!(tally.lines(), 9);
}

#[test]
fn every_kind_of_line_end_ends_a_row_and_a_byte_order_mark_is_none_of_it() {
    for text in ["a,b\n1,2\n", "a,b\r\n1,2\r\n", "a,b\r1,2\r", "\u{feff}a,b\n1,2"] {
        assert_eq!(shows(text), "1: a|b\n2: 1|2\n");
    }
    assert_eq!(shows("\n\na,b\n\r\n\r\r1,2\n\n"), "3: a|b\n7: 1|2\n");
    assert_eq!(shows(""), "");
}

#[test]
fn a_mark_left_open_is_an_error_where_it_opened() {
    refused("a,b\n1,2\n3,\"4", "3, 1: the quotation mark that opens here is never closed");
    refused("a,b,c\n1,2,\"x\ny\"\"", "2, 2: the quotation mark that opens here is never closed");
    refused("a,b,c\n1,2,\"", "2, 2: the quotation mark that opens here is never closed");
    refused("a,\"b\n1,2\n", "1, 1: a line end inside of a quoted column name");
    let long = |n| format!("a,b,c\n1,\"{}\",3\n", "x\n".repeat(n));
    assert_eq!(read(&long(MAX_LINE_ENDS)).unwrap().1.quoted, MAX_LINE_ENDS as u64);
    refused(&long(MAX_LINE_ENDS + 1), "2, 1: the quoted field that begins here has more than 16 line ends");
    let endless = format!("a,b,c\n1,\"{}", "x".repeat(2 * MAX_ROW));
    refused(&endless, "2, 1: the quotation mark that opens here is not closed within 1048576 bytes");
    refused(&endless.replace('"', ""), "2: a row of more than 1048576 bytes");
    refused(&format!("a,b\n1,{}\n", "x".repeat(MAX_ROW)), "2: a row of more than 1048576 bytes");
    assert_eq!(read(&format!("a,b\n1,{}\n", "x".repeat(MAX_ROW - 3))).unwrap().1.rows, 2);
}

#[test]
fn text_after_a_closing_mark_is_an_error() {
    refused("a,b\n1,\"2\"x,3\n", "2, 1: text after the closing quotation mark, wanted");
    refused("a,b\n1,\"2\" \n", "2, 1: text after the closing quotation mark, wanted");
    refused("a,b,c\n\n1,\"2\n\"\u{1b}\"\n", "4, 1: text after the closing quotation mark of the field that begins on line 3");
}

/// A program that does not quote writes rows of four cells; whoever controls a text opens a mark in one row and closes it in a
/// later one, and the row that this makes has four cells, too.
#[test]
fn no_row_hides_in_a_quoted_field() {
    let in_last = |first: &str, between: &str, last: &str| format!("a,b,c,note\n1,2,3,x\n4,5,6,{first}\n{between}7,8,9,{last}\n");
    refused(
        &in_last("\"x", "", "y\""),
        "3, 3: the quoted field that begins here takes in line 4, which looks like a row (3 commas)",
    );
    refused(&in_last("\"x", "0,0,0,z\n", "y\""), "3, 3: the quoted field that begins here takes in line 4");
    // more commas do not help, nor does a line that is short
    refused(
        &in_last("\"x", "0,0,0,z,z\n", "y\""),
        "3, 3: the quoted field that begins here takes in line 4, which looks like a row (4",
    );
    refused(&in_last("\"x", "short\n0,0,0,z\n", "y\""), "3, 3: the quoted field that begins here takes in line 5");
    refused(&in_last("\"x", "", "y,z\""), "3, 3: the quoted field that begins here takes in line 4");
    // nor do marks that would be two cells of the line alone, or two fields
    refused(&in_last("\"x", "", "\"\"\""), "3, 3: the quoted field that begins here takes in line 4");
    let in_second =
        |first: &str, between: &str, last: &str| format!("a,note,c,d\n1,x,2,3\n4,{first},5,6\n{between}7,{last},8,9\n");
    refused(
        &in_second("\"x", "", "y\""),
        "3, 1: the quoted field that begins here takes in line 4, which looks like a row (3 commas)",
    );
    refused(&in_second("\"x", "0,z,0,0\n", "y\""), "3, 1: the quoted field that begins here takes in line 4");
    let in_first = "note,b,c,d\n\"x,1,2,3\ny\",4,5,6\n";
    refused(in_first, "2, 0: the quoted field that begins here takes in line 3, which looks like a row (3 commas)");
    // its writer lets line ends through, too: the row of somebody else is safe
    refused("a,note,c,d\n1,\"x\ny,2,3\n4,z,5,6\n7,u\nv\",8,9\n", "2, 1: the quoted field that begins here takes in line 4");
    // two fields, the second of which opens where the first closes
    refused("a,note,c,d\n1,\"x,2,3\n4,y\",\"u,5,6\n7,v\",8\n", "2, 1: the quoted field that begins here takes in line 3");
}

#[test]
fn texts_of_several_lines_are_read_where_no_line_looks_like_two_rows() {
    for row in ["\"x\ny\",2,3,4", "1,\"x\ny, and z\",3,4", "1,2,3,\"x\ny, and\n\nz\"", "\"x\ny\",\"1\n2\",\"a, b, c\",\"u\nv\""] {
        let (rows, tally) = read(&format!("a,b,c,d\n{row}\n5,6,7,8\n")).unwrap();
        assert_eq!((rows.len(), tally.lines()), (3, row.lines().count() as u64 + 2), "{row}");
    }
}

#[test]
fn rows_of_another_number_of_cells_are_refused() {
    refused("a,b\n\n1\n", "3: 1 cells, but the header has 2");
    refused("a,b,c\n1,\"x\ny\"\n", "2: 2 cells and 1 line ends inside of quoted fields, but the header has 3");
    refused("a,b\n \n", "2: 1 cells");
}

#[test]
fn an_empty_line_is_a_row_where_there_is_one_column() {
    assert_eq!(shows("\na\n\nx\n\"\"\r\n\r\n"), "2: a\n3: \n4: x\n5: \n6: \n");
    assert_eq!(read("a\n\nx\n\n").unwrap().1.rows, 4);
    refused(
        "a\n\"x\ny\"\n",
        "2, 0: the quoted field that begins here has a line end, and in a file of one column every line is a row",
    );
}

#[test]
fn a_line_that_is_in_no_row_is_noticed() {
    let mut records = Records::new(Slow(b"a,b\n1,2\n", 4), Dialect::default());
    records.source.n_ends = 1; // as if one more had come from the disk
    assert!(records.read().unwrap() && records.read().unwrap());
    let Err(Fault::Row(Wrong { message, .. })) = records.read() else { panic!("not noticed") };
    assert_eq!(message, "the file has 3 lines, of which 2 were read: this is a fault of the program, report it");
}

/// Cells as the csv crate reads them.
fn lenient(text: &[u8]) -> Vec<Cells> {
    let rows = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text).into_byte_records();
    rows.map(|row| row.unwrap().iter().map(<[u8]>::to_vec).collect()).collect()
}

/// Lines as an editor counts them.
fn n_lines(text: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(text).replace("\r\n", "\n").replace('\r', "\n");
    text.lines().count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_accepted_is_what_the_csv_crate_reads_and_every_line_is_counted(
        cells in prop::collection::vec("[xy,\"\n\r ]{0,4}|\"(x|,|\"\"|\n|\r\n|y){0,4}\"", 1..24),
        columns in 1_usize..5, end in "\n|\r\n|\r|\n\n", buffer in 3_usize..40, at_once in 1_usize..9,
    ) {
        let mut text = String::new();
        for row in cells.chunks(columns) {
            text += &row.join(",");
            text += &end;
        }
        let text = text.as_bytes();
        let found = rows_of(text, buffer, at_once);
        if let Ok((rows, tally)) = &found {
            prop_assert_eq!(tally.lines(), n_lines(text));
            prop_assert_eq!(tally.rows, rows.len() as u64);
            let has_one_column = rows.first().is_some_and(|row| row.1.len() == 1);
            let cells: Vec<Cells> = rows.iter().map(|row| row.1.clone()).collect();
            // the csv crate passes over empty lines there, too
            let cells = cells.into_iter().filter(|row| !has_one_column || !row[0].is_empty()).collect::<Vec<_>>();
            let wanted = lenient(text).into_iter().filter(|row| !has_one_column || !row[0].is_empty()).collect::<Vec<_>>();
            prop_assert_eq!(cells, wanted);
        }
        // how the bytes arrive is no matter
        let whole = rows_of(text, BUFFER, usize::MAX);
        prop_assert_eq!(found.map(|(rows, _)| rows), whole.map(|(rows, _)| rows));
    }

    #[test]
    fn what_the_csv_crate_writes_is_read(
        rows in prop::collection::vec(prop::collection::vec("[xy,\" ]{0,6}", 3), 1..9),
    ) {
        let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
        for row in &rows {
            writer.write_record(row).unwrap();
        }
        let (found, _) = rows_of(&writer.into_inner().unwrap(), 8, 3).unwrap();
        let found: Vec<Cells> = found.into_iter().map(|row| row.1).collect();
        prop_assert_eq!(found, rows.iter().map(|row| row.iter().map(|cell| cell.as_bytes().to_vec()).collect()).collect::<Vec<Cells>>());
    }
}
