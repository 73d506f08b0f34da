//! Parquet files, laid out in the ways in which writers differ.

use arrow_array::{ArrayRef, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

/// How a file is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// 0 for none, 1 for Snappy, 2 for Zstandard.
    pub compression: u8,
    /// Distinct values by number.
    pub dictionary: bool,
    /// Version 2 of data pages; columns without a dictionary are delta-coded.
    pub second_version: bool,
    /// Smallest and largest value of each page.
    pub statistics: bool,
    /// Rows of a row group.
    pub group: usize,
    /// Rows of a page.
    pub page: usize,
}

impl Format {
    /// One of all ways, by bits.
    pub fn numbered(layout: u8, sizes: u8) -> Self {
        let on = |bit: u8| layout >> bit & 1 == 1;
        Self {
            compression: layout % 3,
            dictionary: on(3),
            second_version: on(4),
            statistics: on(5),
            group: usize::from(sizes >> 1 & 7) + 1,
            page: usize::from(sizes >> 4) + 1,
        }
    }
}

/// A Parquet file.
///
/// # Panics
/// If the columns differ in length.
pub fn columnar<'a>(columns: impl IntoIterator<Item = (&'a str, ArrayRef)>, format: &Format) -> Vec<u8> {
    let columns = columns.into_iter().map(|(name, cells)| (name, cells, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
    let compression = [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(parquet::basic::ZstdLevel::default())];
    let mut properties = WriterProperties::builder()
        .set_compression(compression[usize::from(format.compression % 3)])
        .set_dictionary_enabled(format.dictionary)
        .set_writer_version(if format.second_version { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 })
        .set_statistics_enabled(if format.statistics { EnabledStatistics::Page } else { EnabledStatistics::None })
        .set_max_row_group_row_count(Some(format.group))
        .set_data_page_row_count_limit(format.page)
        .set_write_batch_size(8);
    if format.second_version && !format.dictionary {
        properties = properties.set_column_encoding("id".into(), Encoding::DELTA_BINARY_PACKED);
    }
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).expect("plain types");
    writer.write(&batch).expect("memory takes all");
    writer.close().expect("memory takes all");
    bytes
}
