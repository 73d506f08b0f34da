//! The command that proposes a schema.

use std::path::Path;

use nids_flows::{ProposalOptions, data_files, is_stdin};
use nids_pipeline::commands;
use nids_store::output::{self, Source};
use nids_store::{Error, Result};

use crate::Output;
use crate::terminal::Terminal;

/// Proposes a schema for files, and writes it and perhaps a config around it: both or none.
pub(crate) fn schema(
    names: &[String],
    path: Option<&Path>,
    config: Option<&Path>,
    options: &ProposalOptions,
    progress: &mut Terminal,
) -> Result<()> {
    if config.is_some() && names.iter().any(|name| is_stdin(name)) {
        return Err(Error::Usage("a config names files: save standard input to one, or leave `--config` out".to_owned()));
    }
    let files = data_files(names)?;
    let sources: Vec<Source<'_>> = files.iter().map(|file| Source::File("FILE", file)).collect();
    let out = Output::open(path, &sources)?;
    if let Some(config) = config {
        output::check(output::Output::Config(config), &sources)?;
        if path == Some(config) {
            return Err(Error::Usage("`--output` and `--config` name one file".to_owned()));
        }
    }
    let proposal = commands::schema(&files, options, progress)?;
    let around = match (config, proposal.builtin, path.map(Path::to_str)) {
        (None, ..) => None,
        (Some(config), Some(name), _) => Some((config, commands::config_around(&proposal, name, names)?)),
        (Some(config), None, Some(Some(schema))) => Some((config, commands::config_around(&proposal, schema, names)?)),
        (Some(_), None, Some(None)) => {
            return Err(Error::Usage("`--config` names the file of `--output`, whose name is not UTF-8".to_owned()));
        }
        (Some(_), None, None) => {
            let message = "`--config` names the file of the schema: say with `--output FILE` where to write that";
            return Err(Error::Usage(message.to_owned()));
        }
    };
    out.fill(|out| {
        out.write_all(proposal.yaml.as_bytes()).map_err(Error::io("the schema", "write"))?;
        around.map_or(Ok(()), |(config, text)| {
            Output::File(config).fill(|out| out.write_all(text.as_bytes()).map_err(Error::io("the config", "write")))
        })
    })
}
