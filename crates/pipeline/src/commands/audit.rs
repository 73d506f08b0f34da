//! What to know of files before anything is trained on them.

use std::path::PathBuf;

use nids_audit::{Audit, File};
use nids_detect::read::{READ_ROWS, tell};
use nids_flows::{At, FlowReader, Flows, ProposalOptions, ReadOptions, Reject, Schema, is_stdin, propose};
use nids_store::progress::{Event, Progress};
use nids_store::{Error, Result};

/// Unreadable rows of a file that are shown.
const SHOWN: usize = 5;

/// How files are audited.
#[derive(Debug, Clone, Default)]
pub struct AuditOptions {
    /// Name or file of the schema; found by the columns of the files if there is none.
    pub schema: Option<String>,
    /// How a schema is found, and how text files are written.
    pub proposal: ProposalOptions,
}

/// Reads whole files and looks at them.
pub fn audit(files: &[PathBuf], options: &AuditOptions, progress: &mut dyn Progress) -> Result<Audit> {
    let schema = match &options.schema {
        Some(name) => Schema::resolve(name)?,
        None => found_schema(files, &options.proposal, progress)?,
    };
    let (by, read) = nids_audit::read_options(&schema);
    let read = ReadOptions { encoding: options.proposal.encoding, ..read };
    let mut reader = FlowReader::open(files, &by, &read)?;
    let keeps_infinite = nids_audit::keeps_infinite(&schema);
    let mut found: Vec<File> =
        files.iter().map(|path| File { keeps_infinite, ..File::new(path.display().to_string(), Flows::none(&by)) }).collect();
    let mut rows = 0;
    loop {
        let batch = reader.next_batch(READ_ROWS);
        tell(&mut reader, progress);
        add_rejects(&mut found, files, &reader.take_rejects());
        let Some(mut flows) = batch? else { break };
        rows += flows.len() as u64;
        progress.event(Event::Rows { what: "read", rows, share: reader.share_read() });
        let file = &mut found[reader.file()];
        let others = reader.others().iter().cloned().zip(flows.take_carried());
        if file.flows.is_empty() {
            (file.others, file.flows) = (others.collect(), flows);
        } else {
            file.others.iter_mut().zip(others).for_each(|((_, cells), (_, more))| cells.extend(more));
            file.flows.extend(flows);
        }
    }
    progress.event(Event::Rows { what: "read", rows, share: Some(1.0) });
    Ok(nids_audit::audit(found))
}

/// The schema that `nids-mixer schema` proposes, with what there is to say of it.
fn found_schema(files: &[PathBuf], options: &ProposalOptions, progress: &mut dyn Progress) -> Result<Schema> {
    if files.iter().any(|file| is_stdin(&file.to_string_lossy())) {
        let message = "standard input is read once, and not to look for its schema: name that with `--schema`";
        return Err(Error::Usage(message.to_owned()));
    }
    let proposal = propose(files, options)?;
    let found = match proposal.builtin {
        Some(name) => format!("the columns are those of the built-in schema `{name}`"),
        None => "no built-in schema has these columns: one is proposed, as `nids-mixer schema` prints it".to_owned(),
    };
    progress.event(Event::Message(&found));
    if proposal.builtin.is_none() {
        proposal.warnings.iter().for_each(|warning| progress.event(Event::Message(&format!("warning: {warning}"))));
    }
    Ok(Schema::parse("the proposed schema", &proposal.yaml)?)
}

/// Counts rows that cannot be read, and keeps why for the first of each file.
fn add_rejects(found: &mut [File], files: &[PathBuf], rejects: &[Reject]) {
    // a row may have several faults
    for row in rejects.chunk_by(|a, b| (&a.file, a.at) == (&b.file, b.at)) {
        let Reject { file, at, column, value: _, reason } = &row[0];
        let Some(place) = files.iter().position(|path| path == file) else { continue };
        let found = &mut found[place];
        found.unreadable += 1;
        if found.why_unreadable.len() < SHOWN {
            let at = match at {
                At::Line(line) => format!("line {line}: "),
                At::Row(row) => format!("row {row}: "),
                At::File => String::new(),
            };
            let column = column.as_ref().map_or_else(String::new, |column| format!("column \"{column}\": "));
            found.why_unreadable.push(format!("{at}{column}{reason}"));
        }
    }
}
