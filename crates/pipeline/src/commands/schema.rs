//! A schema for files of which nothing is known, and a config around it.

use std::path::PathBuf;

use nids_config::Config;
use nids_flows::{Proposal, ProposalOptions, propose, yaml_scalar};
use nids_store::progress::{Event, Progress};
use nids_store::{Error, Result};

/// Proposes a schema, and says what to know of it.
pub fn schema(files: &[PathBuf], options: &ProposalOptions, progress: &mut dyn Progress) -> Result<Proposal> {
    let proposal = propose(files, options)?;
    if let Some(name) = proposal.builtin {
        progress
            .event(Event::Message(&format!("the columns are those of the built-in schema `{name}`: `data.schema: {name}` does")));
    }
    for warning in &proposal.warnings {
        progress.event(Event::Message(&format!("warning: {warning}")));
    }
    Ok(proposal)
}

/// A config that trains on the files, as `names` has them, by the schema of a name or in a file.
pub fn config_around(proposal: &Proposal, schema: &str, names: &[String]) -> Result<String> {
    let name = match proposal.builtin {
        Some(name) => name,
        None => std::path::Path::new(schema).file_stem().and_then(|stem| stem.to_str()).unwrap_or("flows"),
    };
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
    let name = if name.is_empty() { "flows" } else { &name };
    let files: Vec<String> = names.iter().map(|name| yaml_scalar(name)).collect();
    let files = format!("[{}]", files.join(", "));
    let data = if proposal.has_labels {
        format!("  train: {files}\n  unlabelled: null # files of more flows, with or without labels, for pretraining\n")
    } else {
        format!(
            "  train: null # no column says what is an attack: name a file of labelled flows before `finetune`\n  unlabelled: {files}\n"
        )
    };
    let text = format!(
        "# Next: nids-mixer pretrain --config THIS_FILE, then finetune, then predict.\n\
         # To set: `unlabelled`, where you have more flows without labels; `seed`; docs/settings.md has the rest.\n\
         # Rows are held out at random, which flatters a network where the flows of an attack are alike:\n\
         # `nids-mixer evaluate` on flows of another day or network says more.\n\
         name: {}\n\
         data:\n  schema: {}\n{data}",
        yaml_scalar(name),
        yaml_scalar(schema),
    );
    Config::parse(&text, "the config", &[]).map_err(Error::from)?;
    Ok(text)
}
