//! `nids-mixer watch`: its arguments, and what it may write to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use nids_flows::{Encoding, ReadOptions, is_stdin};
use nids_pipeline::commands::{self, AlertFormat, PredictOptions, ReasonsFor, Score, WatchOptions};
use nids_store::disk::folder_of;
use nids_store::output::{self, Output as Target, Source};
use nids_store::progress::Progress;
use nids_store::{Error, Result, Run};

use crate::args::{AlarmArgs, encoding};
use crate::{Output, terminal};

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The run folder that `finetune` has filled
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// The log: conn.log, eve.json, CSV; or a folder or a pattern such as 'logs/*.log', of which new files are read, too
    #[arg(long, value_name = "FILE")]
    data: String,
    /// The file that alerts are appended to, which may be rotated; stdout if left out
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where to keep how far the log was read [default: --output with .state behind it]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// How to write alerts: ecs (Elastic Common Schema), ocsf (Detection Finding) or csv (as `predict`)
    #[arg(long, value_name = "FORMAT", value_parser = AlertFormat::NAMES, default_value = "ecs", hide_possible_values = true)]
    alert_format: String,
    /// The file that lines are appended to that cannot be read, with the reason; without it they are counted
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// What to go by: the classifier's probability of an attack, how unlike benign flows a flow is (anomaly), or both as one score
    #[arg(long, value_name = "WHAT", value_parser = Score::NAMES, default_value = "attack", hide_possible_values = true)]
    score: String,
    #[command(flatten)]
    alarm: AlarmArgs,
    /// Say why, in every alert. Some milliseconds an alert
    #[arg(long)]
    reasons: bool,
    /// Read what is there to its end, and stop: for cron
    #[arg(long)]
    once: bool,
    /// How often to say how it goes, in seconds; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    heartbeat: u32,
    /// A text file for Prometheus' node_exporter, written at every heartbeat
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Lines judged together, at most [default: what the model takes at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_rows: Option<u32>,
    /// How the log is written: utf-8 or windows-1252 [default: utf-8]
    #[arg(long, value_name = "NAME", value_parser = encoding)]
    encoding: Option<Encoding>,
}

pub(crate) const WATCH: &str = "\
Examples:
  nids-mixer watch --run runs/zeek --data /opt/zeek/logs/current/conn.log --output /var/log/nids-mixer/alerts.json
  nids-mixer watch --run runs/suricata --data /var/log/suricata/eve.json --alert-format ocsf --output alerts.json
  nids-mixer watch --run runs/zeek --data conn.log --output alerts.json --once

Signals: SIGTERM and SIGINT end it within two seconds, with the state written and
exit code 0. SIGHUP reads the run folder again; one that cannot be read changes
nothing. docs/watch.md says what happens when something fails.";

impl WatchArgs {
    fn state(&self) -> Option<PathBuf> {
        let beside = |path: &PathBuf| {
            let mut name = path.clone().into_os_string();
            name.push(".state");
            PathBuf::from(name)
        };
        self.state.clone().or_else(|| self.output.as_ref().map(beside))
    }

    fn options(&self) -> Result<WatchOptions> {
        Ok(WatchOptions {
            data: self.data.clone(),
            output: self.output.clone(),
            state: self.state(),
            format: AlertFormat::named(&self.alert_format).unwrap_or_default(),
            rejects: self.rejects.clone(),
            metrics: self.metrics.clone(),
            predict: PredictOptions {
                read: ReadOptions { encoding: self.encoding, ..ReadOptions::default() },
                score: Score::named(&self.score).unwrap_or_default(),
                alarm: self.alarm.alarm()?,
                reasons: self.reasons.then_some(ReasonsFor::Alerts),
                ..PredictOptions::default()
            },
            once: self.once,
            heartbeat: Duration::from_secs(u64::from(self.heartbeat)),
            batch_rows: self.batch_rows.map(|rows| rows as usize),
            now,
        })
    }

    /// Refuses to write what is read, or two things to one file.
    fn check(&self, options: &WatchOptions) -> Result<()> {
        if is_stdin(&self.data) {
            let message = "`--data -`: standard input has no place to go on from: `nids-mixer predict --data -` reads it";
            return Err(Error::Usage(message.to_owned()));
        }
        let run = Run::open(&self.run)?;
        let data = Path::new(&self.data);
        let sources = [Source::File("--data", data), Source::Run(&run)];
        let paths = [
            ("--output", options.output.as_deref(), Target::File as fn(_) -> _),
            ("--state", options.state.as_deref(), Target::State),
            ("--rejects", options.rejects.as_deref(), Target::Rejects),
            ("--metrics", options.metrics.as_deref(), Target::Metrics),
        ];
        let there = paths.iter().filter_map(|(name, path, target)| Some((*name, (*path)?, target)));
        let there: Vec<(&str, &Path, &fn(_) -> _)> = there.collect();
        let folder =
            if data.is_dir() { Some(data) } else { Some(folder_of(data)).filter(|_| self.data.contains(['*', '?', '['])) };
        let folder = folder.and_then(|folder| folder.canonicalize().ok());
        for (place, &(name, path, target)) in there.iter().enumerate() {
            output::check(target(path), &sources)?;
            if let Some((other, ..)) = there[..place].iter().find(|(_, other, _)| *other == path) {
                return Err(Error::Usage(format!("`{other}` and `{name}` name one file")));
            }
            let lies_in = |folder: &PathBuf| folder_of(path).canonicalize().is_ok_and(|place| place.starts_with(folder));
            if folder.as_ref().is_some_and(lies_in) {
                let message = format!(
                    "`{name} {}` lies in the folder of `--data {}`: it would be read as flows; write to another folder",
                    path.display(),
                    self.data
                );
                return Err(Error::Usage(message));
            }
        }
        Ok(())
    }
}

/// The seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "an alert says when its line was read; no verdict depends on it")]
fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

pub(crate) fn watch(args: &WatchArgs, progress: &mut dyn Progress) -> Result<()> {
    let options = args.options()?;
    args.check(&options)?;
    let counts = match &options.output {
        Some(_) => commands::watch(&args.run, &options, &mut std::io::sink(), progress)?,
        None => Output::open(None, &[Source::File("--data", Path::new(&args.data))])?
            .fill(|out| commands::watch(&args.run, &options, out, progress))?,
    };
    let commands::WatchCounts { lines, flows, alerts, rejected, passed, .. } = counts;
    terminal::say(&format!(
        "watch: {lines} lines = {flows} flows + {rejected} rejected + {passed} passed over; {alerts} alerts; in all since the state \
         was begun"
    ));
    Ok(())
}
