//! Flows from files to tokens and to verdicts.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use nids_config::Config;
use nids_detect::{Detector, ReadSummary, batch_rows};
use nids_flows::{FeatureColumn, FlowReader, Flows, ReadOptions, write_csv};
use nids_store::progress::Silent;
use nids_store::{Error, Result};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::{BenchOptions, Case, ReadFigures, median, timed, untrained, untrained_on};

/// How often a generated file has the flows: 131,072 rows.
const COPIES: usize = 8;
/// The rows of a file that the tokeniser is fitted on.
const FITTED: usize = 16_384;

/// Reads each of `options.data`, or a generated CSV and Parquet file, with an untrained classifier of the config.
pub(super) fn measure(config: &Config, options: &BenchOptions) -> Result<Vec<ReadFigures>> {
    if options.data.is_empty() {
        let (flows, detector) = untrained(config)?;
        let io = |source| Error::io("a temporary file", "write")(source);
        let folder = tempfile::tempdir().map_err(io)?;
        let scratch =
            |suffix: &str| tempfile::Builder::new().prefix("generated").rand_bytes(0).suffix(suffix).tempfile_in(folder.path());
        let [csv, parquet] = [".csv", ".parquet"].map(scratch);
        let (csv, parquet) = (csv.map_err(io)?, parquet.map_err(io)?);
        write_csv_of(&flows, csv.as_file()).map_err(io)?;
        write_parquet_of(&flows, parquet.as_file()).map_err(io)?;
        return [csv, parquet].iter().map(|file| time(&detector, file.path(), options)).collect();
    }
    let schema = crate::data::schema_of(config)?;
    options
        .data
        .iter()
        .map(|file| {
            let mut reader = FlowReader::open(&[file], &schema, &ReadOptions::default())?;
            let Some(flows) = reader.next_batch(FITTED)? else {
                return Err(Error::Usage(format!("--data: {}: no rows", file.display())));
            };
            time(&untrained_on(config, &flows)?, file, options)
        })
        .collect()
}

fn time(detector: &Detector, file: &Path, options: &BenchOptions) -> Result<ReadFigures> {
    let (mut tokens, mut verdicts, mut rows) = (Vec::new(), Vec::new(), 0);
    for pass in 0..=options.repeats {
        let (tokens_s, n_rows) = timed(|| tokenise(detector, file));
        rows = n_rows?;
        let mut summary = ReadSummary::default();
        let (verdicts_s, done) =
            timed(|| detector.each_batch(&[file], &ReadOptions::default(), &mut summary, &mut Silent, |_, _, _| Ok(())));
        done?;
        assert_eq!(summary.rows, rows as u64, "a verdict a row");
        // the first pass settles memory
        if pass > 0 {
            tokens.push(tokens_s);
            verdicts.push(verdicts_s);
        }
    }
    Ok(ReadFigures {
        name: Case::Read.name(),
        file: file.file_name().map_or_else(|| file.display().to_string(), |name| name.to_string_lossy().into_owned()),
        rows,
        tokens_per_s: rows as f64 / median(&tokens),
        verdicts_per_s: rows as f64 / median(&verdicts),
    })
}

/// Reads a batch while the one before is tokenised; the number of rows.
fn tokenise(detector: &Detector, file: &Path) -> Result<usize> {
    let mut reader = FlowReader::open(&[file], detector.schema(), &ReadOptions::default())?;
    let mut n_rows = 0;
    let mut next = reader.next_batch(batch_rows(detector.tokeniser()))?;
    while let Some(flows) = next {
        let (encoded, after) = detector
            .engine()
            .join(|| detector.tokeniser().tokenise(&flows), || reader.next_batch(batch_rows(detector.tokeniser())));
        n_rows += encoded?.n_rows();
        next = after?;
    }
    Ok(n_rows)
}

fn write_csv_of(flows: &Flows, file: &File) -> std::io::Result<()> {
    let mut lines = Vec::new();
    write_csv(flows, &mut lines)?;
    let header = lines.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let mut file = BufWriter::new(file);
    file.write_all(&lines[..header])?;
    (0..COPIES).try_for_each(|_| file.write_all(&lines[header..]))?;
    file.flush()
}

/// Numbers as f64, texts as texts, with snappy, the codec that pandas writes unless told otherwise.
fn write_parquet_of(flows: &Flows, file: &File) -> std::io::Result<()> {
    let column = |column: &FeatureColumn| -> ArrayRef {
        match column {
            FeatureColumn::Numeric(values) => Arc::new(Float64Array::from(values.clone())),
            FeatureColumn::Categorical(texts) => Arc::new(StringArray::from_iter_values(texts.iter())),
        }
    };
    let ids = flows.schema().id().map(|id| (id, Arc::new(StringArray::from_iter_values(flows.ids())) as ArrayRef));
    let features = flows.schema().features().map(|feature| feature.name.as_str()).zip(flows.features().iter().map(column));
    let batch = RecordBatch::try_from_iter(ids.into_iter().chain(features)).map_err(std::io::Error::other)?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties))?;
    (0..COPIES).try_for_each(|_| writer.write(&batch))?;
    writer.close()?;
    Ok(())
}
