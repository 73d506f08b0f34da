//! The command line. Its help texts are the manual.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use nids_flows::{Encoding, Ids, OnBadRow, Part, ReadOptions};
use nids_pipeline::commands::{Alarm, Axis, Inputs, ReasonsFor, Score, VerdictFormat};

const MANUAL: &str = "\
Examples:
  nids-mixer pretrain --config configs/unsw-nb15.yaml
  nids-mixer finetune --config configs/unsw-nb15.yaml
  nids-mixer evaluate --run runs/unsw-nb15 --data test.csv
  nids-mixer predict --run runs/unsw-nb15 --data today.csv --output verdicts.csv

  From a table that nids-mixer does not know:
  nids-mixer schema flows.csv --output flows.yaml --config my.yaml

  Before training:
  nids-mixer audit train.csv test.csv

  Without data, on generated flows and in seconds:
  nids-mixer pretrain --config configs/tiny.yaml
  nids-mixer finetune --config configs/tiny.yaml
  nids-mixer synth --rows 1000 --seed 1 --output flows.csv
  nids-mixer evaluate --run runs/tiny --data flows.csv

Results go to stdout, progress and errors to stderr, in colour where that is a
terminal and NO_COLOR is not set.

Exit codes:
    0        done
    2        the command line or the config is wrong
    3        a data file is missing or wrong, or its schema or its labels
    4        something in the run folder is missing, stale, truncated or foreign
    5        non-finite values (NaN, Inf), or layers that no longer learn
    6        disk full, permission denied, out of address space and the like
  130, 143   stopped by Ctrl-C, by SIGTERM";

const SETTINGS: &str = "\
Examples:
  --set seed=1
  --set data.train=flows.csv --set data.unlabelled=null
  --set finetune.labels=100
  --set pretrain.objective.mae.mask_ratio=0.3
  --set pretrain.schedule=constant

`nids-mixer config --config FILE` prints every key with its value. A key that
does not exist or a value that makes no sense is an error, and all of them are
reported at once (exit code 2).

A stage reads the artefacts of earlier stages from the folder of --run. Without
--config it uses the config that is kept there. An artefact that was made with
other settings, or has changed since, is refused (exit code 4); the message
names the command that makes it.

A stage that was stopped, by Ctrl-C or in any other way, goes on from its last
checkpoint when the command is given again, and leaves the same bytes as if it
had not been stopped. If settings, data or kernels have changed since, the
stage refuses (exit code 4): see --allow-changes and --fresh. One process at a
time works in a run folder.";

const CALIBRATE: &str = "\
Examples:
  nids-mixer calibrate --run runs/unsw-nb15 --fpr 0.01
  nids-mixer calibrate --run runs/unsw-nb15 --alerts-per-day 50 --flows-per-day 1e6 --data held-out.csv
  nids-mixer calibrate --run runs/day-one --score anomaly --data another-day.log";

const ADAPT: &str = "\
Examples:
  nids-mixer adapt --run runs/unsw-nb15 --data labelled.csv
  nids-mixer adapt --run runs/unsw-nb15 --data today.csv --no-labels --json
  nids-mixer adapt --run runs/unsw-nb15 --undo";

const SCHEMA: &str = "\
Examples:
  nids-mixer schema flows.csv
  nids-mixer schema flows.csv --output flows.yaml --config my.yaml
  nids-mixer schema logs/ --label verdict --output flows.yaml";

const AUDIT: &str = "\
Examples:
  nids-mixer audit flows.csv
  nids-mixer audit train.csv test.csv
  nids-mixer audit logs/ --schema zeek-conn --json";

/// Self-supervised intrusion detection on plain CPUs
///
/// A flow record comes in as text and leaves as a verdict. `pretrain` learns from flows without labels, `finetune`
/// from a few with labels, `predict` tells attacks from the rest. Each stage leaves its artefacts in a run folder,
/// where the next one finds them.
#[derive(Debug, Parser)]
#[command(name = "nids-mixer", version, after_help = MANUAL, arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Tell less on stderr: no progress, only warnings and errors; -qq: errors alone
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose", display_order = 1000)]
    pub(crate) quiet: u8,
    /// Tell more on stderr: files, threads, and when each line was told
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 1001)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train an autoencoder, masked or variational, on flows without labels
    #[command(after_help = SETTINGS)]
    Pretrain(StageArgs),
    /// Write the latents of every row and print the accuracy of a linear probe
    #[command(after_help = SETTINGS)]
    Encode(StageArgs),
    /// Train the classifier
    #[command(after_help = SETTINGS)]
    Finetune(StageArgs),
    /// Train the classifier on what other classifiers say
    ///
    /// A small network learns what large ones, and trees, know: more than labels alone tell it.
    ///
    /// The same as `finetune --set finetune.teachers=[DIR,...]`. The teachers give every training row and every row of
    /// `data.unlabelled` a probability, which the network learns; rows with labels count half by these. The teachers must have
    /// been trained on the same cut of the data (`data.train`, `data.validation_fraction`, `seed`), so that the rows held out
    /// are new to all. More `finetune.steps` than for labels alone are worth their time.
    #[command(after_help = SETTINGS)]
    Distil {
        #[command(flatten)]
        stage: StageArgs,
        /// The run folder of a teacher, which `finetune` has filled; may be repeated
        #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
        teacher: Vec<PathBuf>,
    },
    /// Find how large the network should be, or which settings are best, by short trainings
    ///
    /// With `sweep.strategy: width_depth` widths go up at a fixed depth until a wider network no longer lowers the
    /// validation loss of the first iterations, then depth does. With `halving`, combinations of --grid train for a short
    /// while and the best go on for longer. Validation rows are cut from the training rows, so that the held-out ones stay
    /// unseen. Leaves sweep.json, sweep.svg and chosen.yaml in the run folder; a trial that has finished is not trained
    /// again, so a sweep that was stopped goes on.
    #[command(after_help = SETTINGS)]
    Sweep {
        #[command(flatten)]
        stage: StageArgs,
        /// A setting and the values to try, for `halving`; may be repeated: --grid finetune.lr=1e-3,4e-3
        #[arg(long, value_name = "KEY=VALUE,...")]
        grid: Vec<Axis>,
    },
    /// Choose when a row is an alarm, and make scores probabilities
    ///
    /// Scores labelled rows that the classifier has not learned from: the run's validation rows, or those of --data. Fits
    /// how scores become probabilities, and finds the smallest threshold that keeps a budget of false alarms. Both are
    /// kept in the run folder (calibration.json) and used by `predict` and `evaluate` from then on; no weight changes.
    /// The budget holds, with 95 % confidence, for flows like the benign ones held out. It needs 299 of them for 1 %,
    /// 2,995 for 0.1 %, 29,956 for 0.01 %.
    #[command(after_help = CALIBRATE)]
    Calibrate {
        /// The run folder that `finetune` has filled
        #[arg(long, value_name = "DIR")]
        run: PathBuf,
        /// Labelled flows that the classifier has not learned from [default: the run's validation rows]
        #[arg(long, value_name = "FILE", num_args = 1..)]
        data: Vec<String>,
        /// What names a row in messages: the id column of the schema, or `row` for its number
        #[arg(long, value_name = "WHAT", value_parser = ["schema", "row"], default_value = "schema", hide_possible_values = true)]
        id: String,
        /// What for: attack, or --score anomaly or both of `predict`, for which benign rows are looked at and kept (anomaly.json)
        #[arg(long, value_name = "WHAT", value_parser = Score::NAMES, default_value = "attack", hide_possible_values = true)]
        score: String,
        #[command(flatten)]
        alarm: AlarmArgs,
        /// How scores become probabilities: platt (slope and offset), temperature (slope alone) or none [default: platt]
        #[arg(long, value_name = "HOW", value_parser = ["platt", "temperature", "none"], hide_possible_values = true)]
        scaling: Option<String>,
        /// Print one JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Adapt a trained run to the flows of another network, in seconds
    ///
    /// Corrects probabilities; no weight changes. With labels in --data (a few hundred are enough) it fits a slope, an
    /// offset and a weight for each kind of flow where the model is wrong. Without labels it estimates the share of
    /// attacks (expectation and maximisation) and corrects for that. What does not help is refused (exit code 3), and
    /// nothing is changed. The correction is kept in the run folder (adaptation.json).
    #[command(after_help = ADAPT)]
    Adapt {
        /// The run folder that `finetune` has filled
        #[arg(long, value_name = "DIR")]
        run: PathBuf,
        /// Flows of the other network: a file, a folder, a pattern such as 'logs/*.csv', or several of these
        #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "undo")]
        data: Vec<String>,
        /// What names a row in messages: the id column of the schema, or `row` for its number
        #[arg(long, value_name = "WHAT", value_parser = ["schema", "row"], default_value = "schema", hide_possible_values = true)]
        id: String,
        /// Do not look at labels, although the flows may have some
        #[arg(long)]
        no_labels: bool,
        /// Take back what `adapt` has left
        #[arg(long, conflicts_with_all = ["data", "no_labels", "json"])]
        undo: bool,
        /// Print one JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Compare verdicts with the labels of a file
    ///
    /// Prints accuracy, balanced accuracy, precision, recall, F1, ROC-AUC, PR-AUC, recall at 1 % false alarms, log loss,
    /// Brier score and the number of rows, beside them on rows without duplicates and on rows that equal no training row;
    /// then the threshold, the share of false alarms at it, the calibration error and the recall of each category of attacks.
    /// Intervals are at 95 %. Whatever is undefined (one class only) is null. To see what a feature is worth, train without
    /// it: `finetune --without NAME`.
    Evaluate {
        #[command(flatten)]
        model: ModelArgs,
        /// Write a page about these rows, too, as `nids-mixer report` does about those held out
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Print one JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Write a verdict for every row of a file, with or without labels
    ///
    /// One row per input row, in order: id, probability of an attack, verdict, and what --columns names; after `calibrate`
    /// a p-value, too, and with --reasons why a row is an alert. With --score anomaly or both: the score, the most surprising
    /// feature and the p-value. Categories never seen in training, those that it has cut, and missing cells are counted on
    /// stderr, which also says how the rows differ from those of training (drift), and warns where verdicts should not be
    /// trusted.
    Predict {
        #[command(flatten)]
        model: ModelArgs,
        /// Where to write; stdout if left out. The file appears whole or not at all
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// How to write: csv, jsonl, parquet or arrow [default: what the ending of --output says, else csv]
        #[arg(long, value_name = "FORMAT", value_parser = VerdictFormat::NAMES, hide_possible_values = true)]
        format: Option<String>,
        /// Columns of the input to carry along, as uid,id.orig_h
        #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
        columns: Vec<String>,
        /// Say why, of alerts or of all rows: the features without whose values the classifier would be less sure of an attack, and
        /// where benign flows lie. Some milliseconds a row
        #[arg(long, value_name = "ROWS", value_parser = ReasonsFor::NAMES, hide_possible_values = true)]
        reasons: Option<String>,
        /// Where to write how the rows differ from those of training, as JSON. The file appears whole or not at all
        #[arg(long, value_name = "FILE")]
        drift: Option<PathBuf>,
        /// Write the verdicts of part I of K alone, counted from 0, into the folder --output, which all parts share: 3/8. A part that
        /// is whole stays. `nids-mixer parts` says whether all are there
        #[arg(long, value_name = "I/K", value_parser = part, requires = "output", conflicts_with_all = ["rejects", "drift"])]
        part: Option<Part>,
    },
    /// Follow the log of a sensor and append an alert for every flow that looks like an attack
    ///
    /// Goes on where it was, through rotation by rename, copy and cut, and packing. Each alert is a line of JSON that Filebeat, Vector
    /// and others take; a line that cannot be read stops nothing. At least once: after a crash an alert may come twice, with the
    /// same id.
    #[command(after_help = crate::watch::WATCH)]
    Watch(crate::watch::WatchArgs),
    /// Say whether the parts that `predict --part` has left are all there, whole and of one input
    ///
    /// Compares every file with the manifest beside it, and the manifests with each other. Parts that are missing or damaged are
    /// named, with exit code 4.
    Parts {
        /// The folder of `predict --part --output`
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Write the verdicts of all parts to one file, as one process writes them: of CSV and JSON lines
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Write one page about a trained run: what to trust, metrics, curves, settings
    ///
    /// Leaves report.html in the run folder: one file without scripts, for any browser, light or dark. It begins with what
    /// passes and what is a warning (leaks, duplicates, contradicting labels, balance, calibration, enough benign rows, every kind
    /// of attack), on the rows that the classifier has not learned from. The same run gives the same bytes.
    Report {
        /// The run folder that `finetune` has filled
        #[arg(long, value_name = "DIR")]
        run: PathBuf,
        /// Other runs, to compare by how many labels they had; may be repeated
        #[arg(long, value_name = "DIR", num_args = 1..)]
        compare: Vec<PathBuf>,
        /// Write the same as a model card, too: Markdown with the first lines that Hugging Face reads (README.md)
        #[arg(long, value_name = "FILE")]
        card: Option<PathBuf>,
    },
    /// Write which rows to label next
    ///
    /// Prints one row number a line, counted from 0, as `finetune.label_rows` takes them. Rows that stand for most
    /// others come first; rows with equal features count as one. Without a classifier, the rows stand for all others in
    /// the latent space of the pretrained encoder. With a classifier, they are rows of which it is not sure and that
    /// differ from one another. (This command was called `select` before; that name still works.)
    #[command(alias = "select")]
    Query {
        /// The run folder that `pretrain` has filled, and perhaps `finetune`
        #[arg(long, value_name = "DIR")]
        run: PathBuf,
        /// Number of rows to label
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        budget: u32,
        /// Flows to choose from: a file, a folder or a pattern; if left out, the training rows of the run without a label
        #[arg(long, value_name = "FILE", num_args = 1..)]
        data: Vec<String>,
        /// What names a row in messages: the id column of the schema, or `row` for its number
        #[arg(long, value_name = "WHAT", value_parser = ["schema", "row"], default_value = "schema", hide_possible_values = true)]
        id: String,
        /// How to choose: `medoids` or `uncertainty` [default: uncertainty where there is a classifier]
        #[arg(long, value_name = "HOW", value_parser = ["medoids", "uncertainty"], hide_possible_values = true)]
        strategy: Option<String>,
        /// Where to write; stdout if left out. The file appears whole or not at all
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Propose a schema for files of flows: what each column is, and which say what is an attack
    ///
    /// Knows the formats of common tools and data sets by their columns. For any other table it looks at up to 100,000
    /// rows: finds numbers, categories, times, labels and kinds of attacks, and leaves out what names a host, a row or a
    /// moment. It warns of columns that are always the same or that alone give the label away. The schema is YAML with
    /// comments, for `data.schema`. Look it over.
    #[command(after_help = SCHEMA)]
    Schema {
        /// The flows: files, folders or patterns such as 'logs/*.csv'; `-` for standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<String>,
        /// Where to write the schema; stdout if left out. The file appears whole or not at all
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write a config around it, too, which trains on these files
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The column that says what is an attack [default: found by its name and its values]
        #[arg(long, value_name = "COLUMN")]
        label: Option<String>,
        /// How text files are written: utf-8 or windows-1252 [default: utf-8, and windows-1252 where that fails]
        #[arg(long, value_name = "NAME", value_parser = encoding)]
        encoding: Option<Encoding>,
    },
    /// Look at flows before anything is trained on them: leaks, duplicates, contradictory labels, drift
    ///
    /// Counts rows, kinds of attacks, missing and infinite values. Finds features that alone give the label away, that name a
    /// row or tell the time; rows that repeat in a file or in two; equal rows with different labels; files that are sorted
    /// by label; and what differs between the first file and the others. Prints a verdict for each check, then where and what
    /// to do. Warnings are no errors: the exit code is 0.
    #[command(after_help = AUDIT)]
    Audit {
        /// The flows: files, folders or patterns such as 'logs/*.csv'; `-` for standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<String>,
        /// A built-in schema or the file of one [default: found by the columns, as `nids-mixer schema` does]
        #[arg(long, value_name = "SCHEMA")]
        schema: Option<String>,
        /// The column that says what is an attack, where no schema is named [default: found by its name and its values]
        #[arg(long, value_name = "COLUMN", conflicts_with = "schema")]
        label: Option<String>,
        /// How text files are written: utf-8 or windows-1252 [default: utf-8]
        #[arg(long, value_name = "NAME", value_parser = encoding)]
        encoding: Option<Encoding>,
        /// Print one JSON object instead of tables
        #[arg(long)]
        json: bool,
    },
    /// Write generated flows as CSV, shaped like UNSW-NB15
    ///
    /// The same rows and seed give the same bytes.
    Synth {
        /// Number of rows
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
        rows: u32,
        /// Seed of the generator
        #[arg(long, value_name = "S", default_value_t = 0)]
        seed: u64,
        /// Where to write; stdout if left out. The file appears whole or not at all
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write the rows to N files of the folder --output: part-00000.csv, part-00001.csv, ...
        #[arg(long, value_name = "N", requires = "output", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        partitions: Option<u32>,
    },
    /// List the caches of tokenised rows in folders, or remove them
    ///
    /// Stages pack rows that memory should not hold into a folder on the disk (`data.cache`), and leave them there for
    /// other runs on the same rows.
    Cache {
        /// The folder of `data.cache`, or a run folder with a cache in it; may be several
        #[arg(value_name = "DIR", required = true)]
        folders: Vec<PathBuf>,
        /// Remove the caches; files of others stay
        #[arg(long)]
        clean: bool,
    },
    /// Measure how fast this machine trains and gives verdicts
    ///
    /// Training steps of four fixed shapes (S, M, L, M32), pretraining steps of the config (mae), verdicts for many flows
    /// (predict) and for one at a time (latency), all on generated numbers. Shares are of the fused multiply-adds that
    /// the machine can make, measured in between.
    Bench {
        /// The config whose network and engine are measured; the default settings if left out
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Override one setting, as if it had been written in the file; may be repeated
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// What to measure: any of S, M, L, M32, mae, predict, read, latency
        #[arg(long, value_name = "CASE", value_delimiter = ',')]
        only: Vec<String>,
        /// A file that `read` reads by the config's schema; may be repeated [default: generated CSV and Parquet]
        #[arg(long, value_name = "FILE")]
        data: Vec<PathBuf>,
        /// Dropout of S, M, L and M32, and stochastic depth at their last block
        #[arg(long, value_name = "P", default_value_t = 0.1, value_parser = probability)]
        dropout: f64,
        /// Number of timed steps or passes of each case; the median is reported
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        steps: u32,
        /// Worker threads; 0 means one for each core [default: the config's]
        #[arg(long, value_name = "N")]
        threads: Option<u32>,
        /// GEMM backend: openblas, tiles or bf16 [default: the config's]
        #[arg(long, value_name = "BACKEND")]
        gemm: Option<String>,
        /// Print one JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Write a trained network as an ONNX graph, from the values of a flow to a probability
    ///
    /// Tokeniser, network and calibration in one file for the runtimes of others: docs/onnx.md says what goes in and comes out.
    Export {
        /// The run folder
        #[arg(long, value_name = "DIR")]
        run: PathBuf,
        /// Where to write. The file appears whole or not at all
        #[arg(long, value_name = "FILE")]
        onnx: PathBuf,
        /// How features come in: an input a feature, doubles and strings, or floats and integer codes in two inputs
        #[arg(long, value_name = "raw|codes", default_value = "raw", value_parser = inputs)]
        inputs: Inputs,
    },
    /// Turn a checkpoint of the numpy MLP-Mixer into safetensors
    ///
    /// Reads a pickled `.npy` checkpoint and executes nothing in it. Everything except arrays in dictionaries is refused,
    /// with its place in the file. Parameters get their names by position.
    Import {
        /// The checkpoint
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where to write. The file appears whole or not at all
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Print a script that completes command lines in a shell
    ///
    /// For this session of bash: source <(nids-mixer completions bash)
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Write manual pages, one for each command
    Man {
        /// The folder that they are written to, which must exist, such as ~/.local/share/man/man1
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
    /// Check a config and print it with every default written out
    #[command(after_help = SETTINGS, args_conflicts_with_subcommands = true)]
    Config {
        /// What to print instead
        #[command(subcommand)]
        about: Option<AboutSettings>,
        /// The config
        #[arg(long, value_name = "FILE", required = true)]
        config: Option<PathBuf>,
        /// Override one setting, as if it had been written in the file; may be repeated
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
}

/// What `config` prints without a config.
#[derive(Debug, Subcommand)]
pub(crate) enum AboutSettings {
    /// Print a JSON schema of configs, with which editors complete and check them
    Schema,
    /// Print docs/settings.md: every setting, what it accepts, its default and its meaning
    Reference,
}

fn probability(text: &str) -> Result<f64, String> {
    let inside = text.parse().ok().filter(|p| (0.0..1.0).contains(p));
    inside.ok_or_else(|| "expected a number from 0 to below 1".to_owned())
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct StageArgs {
    /// The config; if left out, the one kept in --run
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override one setting, as if it had been written in the file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// The run folder [default: runs/NAME, with the name from the config]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Features to train without, as sttl,dttl; as --set data.without=[NAME,...]
    #[arg(long, value_name = "NAMES")]
    pub(crate) without: Option<String>,
    /// What names a row; as --set data.id=WHAT
    #[arg(long, value_name = "WHAT", value_parser = ["schema", "row"], hide_possible_values = true)]
    pub(crate) id: Option<String>,
    /// What to do with a row that cannot be read: stop or skip; as --set data.on_bad_row=WHAT
    #[arg(long, value_name = "WHAT", value_parser = ["stop", "skip"], hide_possible_values = true)]
    pub(crate) on_bad_row: Option<String>,
    /// The file for the rows that are skipped; as --set data.rejects=FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<String>,
    /// Go on with a stage that was stopped in the run folder, or start it if none was. This is the default
    #[arg(long, conflicts_with = "fresh")]
    pub(crate) resume: bool,
    /// Go on although settings, data or kernels have changed since
    #[arg(long, conflicts_with = "fresh")]
    pub(crate) allow_changes: bool,
    /// Start anew
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Print what would be done and what it would take, in a moment, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// The run folder that `finetune` has filled
    #[arg(long, value_name = "DIR")]
    pub(crate) run: PathBuf,
    /// The flows: a file, a folder, a pattern such as 'logs/*.csv', several of these, or `-` for standard input
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) data: Vec<String>,
    /// What names a row: the id column of the schema, or `row` for its number in the file
    #[arg(long, value_name = "WHAT", value_parser = ["schema", "row"], default_value = "schema", hide_possible_values = true)]
    pub(crate) id: String,
    /// What to go by: the classifier's probability of an attack, how unlike benign flows a flow is (anomaly), which needs no
    /// classifier, or both as one score
    #[arg(long, value_name = "WHAT", value_parser = Score::NAMES, default_value = "attack", hide_possible_values = true)]
    pub(crate) score: String,
    #[command(flatten)]
    pub(crate) alarm: AlarmArgs,
    /// What to do with a row that cannot be read: stop, or skip it and write it to --rejects
    #[arg(long, value_name = "WHAT", value_parser = ["stop", "skip"], default_value = "stop", hide_possible_values = true)]
    pub(crate) on_bad_row: String,
    /// The file for the rows that are skipped, with the reason; appears whole or not at all
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,
    /// The share of rows that may be skipped
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = threshold)]
    pub(crate) max_bad_rows: f64,
    /// How text files are written, where neither the schema nor a byte order mark says it: utf-8 or windows-1252
    #[arg(long, value_name = "NAME", value_parser = encoding)]
    pub(crate) encoding: Option<Encoding>,
}

/// When a row is an attack.
#[derive(Debug, Args)]
pub(crate) struct AlarmArgs {
    /// From which probability on a row is an attack [default: what `calibrate` has left, else `evaluate.threshold` in
    /// config.yaml of the run folder]
    #[arg(long, value_name = "P", value_parser = threshold)]
    threshold: Option<f64>,
    /// The smallest threshold at which at most this share of benign flows are alarms, at 95 % confidence: 0.01
    #[arg(long, value_name = "SHARE", value_parser = rate, conflicts_with = "threshold")]
    fpr: Option<f64>,
    /// The same as --fpr N / M: at most N false alarms a day, with --flows-per-day M
    #[arg(long, value_name = "N", requires = "flows_per_day", conflicts_with_all = ["threshold", "fpr"])]
    alerts_per_day: Option<f64>,
    /// Number of benign flows a day
    #[arg(long, value_name = "M", requires = "alerts_per_day")]
    flows_per_day: Option<f64>,
}

impl AlarmArgs {
    /// What was asked for, if anything.
    pub(crate) fn alarm(&self) -> nids_store::Result<Option<Alarm>> {
        if let Some((alerts, flows)) = self.alerts_per_day.zip(self.flows_per_day) {
            return Alarm::per_day(alerts, flows).map(Some);
        }
        Ok(self.fpr.map(Alarm::Budget).or(self.threshold.map(Alarm::Threshold)))
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let inside = text.parse().ok().filter(|&rate: &f64| rate > 0.0 && rate < 1.0);
    inside.ok_or_else(|| "expected a number above 0 and below 1".to_owned())
}

fn threshold(text: &str) -> Result<f64, String> {
    let inside = text.parse().ok().filter(|p| (0.0..=1.0).contains(p));
    inside.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

fn part(text: &str) -> Result<Part, String> {
    Part::named(text).ok_or_else(|| "expected I/K with I from 0 to K - 1, such as 0/8 to 7/8; K is at most 100,000".to_owned())
}

fn inputs(text: &str) -> Result<Inputs, String> {
    match text {
        "raw" => Ok(Inputs::Raw),
        "codes" => Ok(Inputs::Codes),
        _ => Err("expected raw or codes".to_owned()),
    }
}

pub(crate) fn encoding(text: &str) -> Result<Encoding, String> {
    let name = text.to_lowercase();
    serde_json::from_value(name.into()).map_err(|_| "expected utf-8 or windows-1252 (latin-1)".to_owned())
}

impl ModelArgs {
    /// How the files are read.
    pub(crate) fn read_options(&self) -> ReadOptions {
        ReadOptions {
            ids: if self.id == "row" { Ids::Row } else { Ids::Schema },
            on_bad_row: if self.on_bad_row == "skip" { OnBadRow::Skip } else { OnBadRow::Stop },
            max_bad_rows: self.max_bad_rows,
            encoding: self.encoding,
            ..ReadOptions::default()
        }
    }
}
