//! The `nids-mixer` binary: arguments, progress, exit codes, errors. Everything else is in `nids-pipeline`.
#![forbid(unsafe_code)]

mod args;
mod audit;
mod bench;
mod metrics;
mod model;
#[cfg_attr(not(feature = "mpi"), path = "no_mpi.rs")]
mod mpi;
mod processes;
mod schema;
mod signals;
mod sweep;
mod terminal;
mod watch;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use nids_config::{Config, Stage};
use nids_flows::{Ids, ProposalOptions, ReadOptions, data_files};
use nids_pipeline::commands::{AuditOptions, BenchOptions, Case, Planned, QueryOptions, QueryStrategy, Score};
use nids_pipeline::{commands, stages};
use nids_store::output::{self, Source};
use nids_store::progress::{Progress, Silent};
use nids_store::{Error, Result, Resume, Run, artefacts};

use args::{AboutSettings, Cli, Command, StageArgs};
use processes::{Launch, Processes};
use signals::Stop;
use terminal::Terminal;

fn main() -> ExitCode {
    let launch = Launch::from_env();
    // the decoders of Parquet and Arrow may panic on damaged files; their callers turn that into an error
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_decoder = |file: &str| file.contains("/arrow-") || file.contains("/parquet-");
        if !panic.location().is_some_and(|place| is_decoder(place.file())) {
            report(panic);
        }
    }));
    let Cli { command, quiet, verbose } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if launch.leads() => error.exit(),
        Err(error) => return ExitCode::from(error.exit_code() as u8), // the first process says so
    };
    let launch = launch.of(&command);
    let (quiet, verbose) = if launch.leads() { (quiet, verbose) } else { (2, 0) };
    terminal::set_verbosity(quiet, verbose);
    let serves = matches!(&command, Command::Watch(_));
    let stop = if serves { Stop::listen_and_serve() } else { Stop::listen(launch.size == 1) };
    let stop = match stop {
        Ok(stop) => stop,
        Err(error) => return processes::report(&Error::io("signals", "listen for")(error), ""),
    };
    match Processes::join(launch, stop.clone(), &command) {
        Ok(processes) => processes.run(|processes| run(command, stop, processes)),
        Err(code) => code,
    }
}

fn run(command: Command, stop: Stop, processes: &Processes) -> Result<()> {
    // rows that are written to a terminal are progress enough
    let writes_rows =
        matches!(&command, Command::Predict { output: None, .. } | Command::Watch(_) | Command::Query { output: None, .. });
    let mut progress = Terminal::new(stop, !(writes_rows && io::stdout().is_terminal()));
    if let Some(plan) = planned(&command) {
        return plan;
    }
    match command {
        Command::Pretrain(args) => {
            let (config, run) = open_dealt(&args, processes)?;
            stages::pretrain(&config, &run, &mut progress)
        }
        Command::Encode(args) => {
            let (config, run) = open(&args)?;
            stages::encode(&config, &run, &mut progress)
        }
        Command::Finetune(args) => finetune(&args, processes, &mut progress),
        Command::Distil { mut stage, teacher } => {
            stage.set.push(format!("finetune.teachers={}", teachers(&teacher)?));
            finetune(&stage, processes, &mut progress)
        }
        Command::Sweep { stage, grid } => {
            let (config, run) = open(&stage)?;
            let out = Output::open(None, &stage_sources(&stage, &config, &run))?;
            let report = commands::sweep(&config, &run, &grid, &mut progress)?;
            out.print(&sweep::table(&report))?;
            let chosen = run.folder().join("chosen.yaml");
            terminal::say(&format!("sweep: {} and its config in {}", report.trials[report.chosen].name, chosen.display()));
            Ok(())
        }
        Command::Calibrate { run, data, id, score, alarm, scaling, json } => match model::score(&score) {
            Score::Attack => model::calibrate(&run, &data, &id, &alarm, scaling.as_deref(), json, &mut progress),
            score => model::calibrate_anomaly(&run, &data, &id, score, &alarm, scaling.as_deref(), json, &mut progress),
        },
        Command::Adapt { run, undo: true, .. } => model::undo_adapt(&run, &mut progress),
        Command::Adapt { run, data, id, no_labels, json, .. } => model::adapt(&run, &data, &id, no_labels, json, &mut progress),
        Command::Evaluate { model, report, json } => model::evaluate(&model, report.as_deref(), json, &mut progress),
        Command::Predict { model, output, format, columns, reasons, drift, part } => {
            let [format, reasons] = [format.as_deref(), reasons.as_deref()];
            model::predict(&model, part, [output.as_deref(), drift.as_deref()], [format, reasons], columns, &mut progress)
        }
        Command::Watch(args) => watch::watch(&args, &mut progress),
        Command::Parts { folder, output: path } => parts(&folder, path.as_deref()),
        Command::Report { run, compare, card } => {
            let others = compare.iter().map(|folder| Run::open(folder)).collect::<Result<Vec<_>>>()?;
            let run = Run::open(&run)?;
            let Some(card) = card else { return commands::report(&run, &others, None, &mut progress).map(drop) };
            let out = Output::open(Some(&card), &[Source::Run(&run)])?;
            out.fill(|out| commands::report(&run, &others, Some(out), &mut progress)).map(drop)
        }
        Command::Query { run, budget, data, id, strategy, output: path } => {
            query(&run, budget, &data, &id, strategy.as_deref(), path.as_deref(), &mut progress)
        }
        Command::Schema { files, output, config, label, encoding } => {
            schema::schema(&files, output.as_deref(), config.as_deref(), &ProposalOptions { label, encoding }, &mut progress)
        }
        Command::Audit { files, schema, label, encoding, json } => {
            let options = AuditOptions { schema, proposal: ProposalOptions { label, encoding } };
            audit::audit(&files, &options, json, &mut progress)
        }
        Command::Synth { rows, seed, output: path, partitions } => synth(rows as usize, seed, path.as_deref(), partitions),
        Command::Cache { folders, clean } => Output::open(None, &[])?.print(&commands::cache(&folders, clean)?),
        Command::Bench { config: path, mut set, only, data, dropout, steps, threads, gemm, json } => {
            set.extend(threads.map(|threads| format!("engine.threads={threads}")));
            if let Some(gemm) = gemm {
                let (gemm, precision) = if gemm == "bf16" { ("auto", "bf16") } else { (gemm.as_str(), "f32") };
                set.extend([format!("engine.gemm={gemm}"), format!("engine.precision={precision}")]);
            }
            let config = match &path {
                Some(path) => Config::load(path, &set)?,
                None => Config::parse("name: bench", "the default settings", &set)?,
            };
            let sources: Vec<Source<'_>> = path.iter().map(|path| Source::File("--config", path)).collect();
            let out = Output::open(None, &sources)?;
            let cases = bench::cases(&only)?;
            if !data.is_empty() && !cases.contains(&Case::Read) {
                return Err(Error::Usage("--data: only `read` reads files: add `--only read`".to_owned()));
            }
            let options = BenchOptions { cases, dropout, repeats: steps as usize, data };
            let report = commands::bench(&config, &options)?;
            out.print(&if json { bench::json(&report) } else { bench::table(&report) })
        }
        Command::Export { run, onnx, inputs } => {
            let run = Run::open(&run)?;
            Output::open(Some(&onnx), &[Source::Run(&run)])?.fill(|out| commands::export(&run, inputs, out))
        }
        Command::Completions { shell } => completions(shell),
        Command::Man { output } => man(&output),
        Command::Import { file, output: path } => {
            let out = Output::open(Some(&path), &[Source::File("FILE", &file)])?;
            let found = out.fill(|out| commands::import(&file, out))?;
            terminal::say(&format!("import: {} parameters in {} blocks", found.n_params, found.depth));
            Ok(())
        }
        Command::Config { about, config, set } => config_or_about(about, config.as_deref(), &set),
    }
}

/// Prints a config with all defaults, or what can be said of settings.
fn config_or_about(about: Option<AboutSettings>, path: Option<&Path>, set: &[String]) -> Result<()> {
    let sources: Vec<Source<'_>> = path.iter().map(|path| Source::File("--config", path)).collect();
    let out = Output::open(None, &sources)?;
    let text = match (about, path) {
        (Some(AboutSettings::Schema), _) => format!("{:#}\n", nids_config::schema()),
        (Some(AboutSettings::Reference), _) => nids_config::reference(),
        (None, Some(path)) => Config::load(path, set)?.to_yaml(),
        (None, None) => unreachable!("`--config` is required"),
    };
    out.fill(|out| out.write_all(text.as_bytes()).map_err(Error::io("stdout", "write")))
}

/// Says whether the parts of a folder are whole; writes their verdicts to a file where that is asked for.
fn parts(folder: &Path, path: Option<&Path>) -> Result<()> {
    let parts = commands::parts(folder)?;
    let (rows, rejected) = parts.iter().fold((0, 0), |(rows, rejected), part| (rows + part.rows, rejected + part.rejected));
    let rejected = if rejected > 0 { format!(", {rejected} rejected") } else { String::new() };
    let text = format!("{}: {} parts, whole and of one input: {rows} rows{rejected}", folder.display(), parts.len());
    let Some(path) = path else { return Output::open(None, &[])?.print(&text) };
    let files: Vec<PathBuf> = parts.iter().flat_map(|part| part.files.keys()).map(|name| folder.join(name)).collect();
    let sources: Vec<Source<'_>> = files.iter().map(|file| Source::File("FOLDER", file)).collect();
    Output::open(Some(path), &sources)?.fill(|out| commands::join_parts(folder, &parts, out))?;
    terminal::say(&text);
    Ok(())
}

/// Writes generated flows to one file, to stdout, or to several files of a folder.
fn synth(rows: usize, seed: u64, path: Option<&Path>, partitions: Option<u32>) -> Result<()> {
    let Some((folder, parts)) = path.zip(partitions) else {
        return Output::open(path, &[])?.fill(|out| commands::synth(rows, seed, out));
    };
    for part in 0..parts as usize {
        output::check(output::Output::File(&commands::synth_part(folder, part)), &[])?;
    }
    commands::synth_parts(rows, seed, parts as usize, folder)
}

fn query(
    folder: &Path,
    budget: u32,
    data: &[String],
    id: &str,
    strategy: Option<&str>,
    path: Option<&Path>,
    progress: &mut Terminal,
) -> Result<()> {
    if std::env::args_os().nth(1).is_some_and(|name| name == "select") {
        terminal::say("note: `select` is called `query` now; the old name still works");
    }
    let strategy = strategy.map(|name| if name == "medoids" { QueryStrategy::Medoids } else { QueryStrategy::Uncertainty });
    let data = data_files(data)?;
    let read = ReadOptions { ids: if id == "row" { Ids::Row } else { Ids::Schema }, ..ReadOptions::default() };
    let options = QueryOptions { budget: budget as usize, data: (!data.is_empty()).then_some(&data), read, strategy };
    let run = Run::open(folder)?;
    let sources = model::sources(&data, &run);
    Output::open(path, &sources)?.fill(|out| commands::query(&run, &options, out, progress))
}

/// What a command with `--dry-run` does; None without.
fn planned(command: &Command) -> Option<Result<()>> {
    let plan = |args: &StageArgs, planned: Planned<'_>| -> Result<()> {
        let config = config_of(args)?;
        let run = Run::at(&folder_of(args, &config));
        let out = Output::open(None, &stage_sources(args, &config, &run))?;
        let text = commands::plan(planned, &config, &run)?;
        out.print(text.trim_end())
    };
    let (args, planned) = match command {
        Command::Pretrain(args) => (args, Planned::Stage(Stage::Pretrain)),
        Command::Encode(args) => (args, Planned::Stage(Stage::Encode)),
        Command::Finetune(args) | Command::Distil { stage: args, .. } => (args, Planned::Stage(Stage::Finetune)),
        Command::Sweep { stage, grid } => (stage, Planned::Sweep(grid)),
        _ => return None,
    };
    args.dry_run.then(|| plan(args, planned))
}

fn finetune(args: &StageArgs, processes: &Processes, progress: &mut dyn Progress) -> Result<()> {
    let (config, run) = open_dealt(args, processes)?;
    if !processes.leads() {
        return stages::finetune(&config, &run, progress).map(drop);
    }
    let out = Output::open(None, &stage_sources(args, &config, &run))?;
    let metrics = stages::finetune(&config, &run, progress)?;
    out.print(&metrics::tables(&metrics))?;
    if stages::rows_are_packed(&config, &run)? {
        let folder = run.folder().display();
        terminal::say(&format!(
            "finetune: no report.html: a page holds all labelled rows in memory, and `data.cache` keeps them on the disk: \
             `nids-mixer report --run {folder}` writes it"
        ));
    } else {
        report(&run);
    }
    Ok(())
}

/// Writes the page about a run that has just been trained; of its rows all has been said. What a run lacks for a page is no reason to
/// train again.
fn report(run: &Run) {
    match commands::report(run, &[], None, &mut Silent) {
        Ok(path) => terminal::say(&format!("report: {}", path.display())),
        Err(error) => terminal::tell(&format!("finetune: no report.html: {error}")),
    }
}

/// Folders as the value of a setting.
fn teachers(folders: &[PathBuf]) -> Result<String> {
    let text = |folder: &PathBuf| {
        let refused = || Error::Usage(format!("--teacher {}: expected a path in UTF-8", folder.display()));
        folder.to_str().map(|text| serde_json::Value::from(text).to_string()).ok_or_else(refused)
    };
    Ok(format!("[{}]", folders.iter().map(text).collect::<Result<Vec<_>>>()?.join(", ")))
}

/// The files and folders that a stage reads.
fn stage_sources<'s>(args: &'s StageArgs, config: &'s Config, run: &'s Run) -> Vec<Source<'s>> {
    let file = args.config.as_deref().map(|path| Source::File("--config", path));
    file.into_iter().chain([Source::Config(config), Source::Run(run)]).collect()
}

/// The config, from `--config` or else from the run folder.
fn config_of(args: &StageArgs) -> Result<Config> {
    let mut set = args.set.clone();
    set.extend(args.without.iter().map(|names| format!("data.without=[{names}]")));
    for (key, value) in [("id", &args.id), ("on_bad_row", &args.on_bad_row), ("rejects", &args.rejects)] {
        set.extend(value.iter().map(|value| format!("data.{key}={value}")));
    }
    match (&args.config, &args.run) {
        (Some(path), _) => Ok(Config::load(path, &set)?),
        (None, Some(folder)) => Run::open(folder)?.config(&set),
        (None, None) => {
            let message = "expected `--config FILE`, or `--run DIR` of a run that keeps a config: neither is given";
            Err(Error::Usage(message.to_owned()))
        }
    }
}

/// The run folder, from `--run` or else from the config.
fn folder_of(args: &StageArgs, config: &Config) -> PathBuf {
    args.run.clone().unwrap_or_else(|| PathBuf::from("runs").join(&config.name))
}

/// The config and the run folder, which is made if it is not there.
fn open(args: &StageArgs) -> Result<(Config, Run)> {
    let config = config_of(args)?;
    let run = Run::create(&folder_of(args, &config))?.with_resume(resume_of(args));
    if let Some(path) = &config.data.rejects {
        output::check(output::Output::Rejects(Path::new(path)), &stage_sources(args, &config, &run))?;
    }
    Ok((config, run))
}

/// The same of a stage that several processes may work on. The first one makes the folder.
fn open_dealt(args: &StageArgs, processes: &Processes) -> Result<(Config, Run)> {
    let (config, run) = if processes.leads() {
        open(args)?
    } else {
        let config = config_of(args)?;
        let run = Run::at(&folder_of(args, &config)).with_resume(resume_of(args));
        (config, run)
    };
    Ok((
        config,
        match processes.peers() {
            Some(peers) => run.with_peers(peers),
            None => run,
        },
    ))
}

/// What the arguments say of a stage that was stopped.
fn resume_of(args: &StageArgs) -> Resume {
    match (args.fresh, args.allow_changes) {
        (true, _) => Resume::Fresh,
        (_, true) => Resume::Changed,
        _ => Resume::Unchanged,
    }
}

/// Prints a script that completes command lines.
fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nids-mixer", &mut script);
    Output::open(None, &[])?.fill(|out| out.write_all(&script).map_err(Error::io("stdout", "write")))
}

/// Writes a manual page for the program and one for each command.
fn man(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Err(Error::Usage(format!("--output {}: no such folder: make it first", folder.display())));
    }
    let mut program = Cli::command();
    program.build();
    let write = |command: clap::Command, name: String| {
        let path = folder.join(format!("{name}.1"));
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command.display_name(name)).render(&mut page);
        rendered.map_err(Error::io(&path, "write"))?;
        Output::open(Some(&path), &[])?.fill(|out| out.write_all(&page).map_err(Error::io(&path, "write")))
    };
    let commands: Vec<clap::Command> =
        program.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect();
    write(program, "nids-mixer".to_owned())?;
    let n = commands.len() + 1;
    for command in commands {
        let name = format!("nids-mixer-{}", command.get_name());
        write(command, name)?;
    }
    terminal::say(&format!("man: {n} pages in {}", folder.display()));
    Ok(())
}

/// The destination of results.
enum Output<'p> {
    File(&'p Path),
    Stdout(File),
}

impl<'p> Output<'p> {
    /// Opens the file, or stdout if there is no path. Fails if it is one of the sources or an artefact.
    fn open(path: Option<&'p Path>, sources: &[Source<'_>]) -> Result<Self> {
        if let Some(path) = path {
            output::check(output::Output::File(path), sources)?;
            return Ok(Self::File(path));
        }
        let stdout = output::stdout()?;
        output::check(output::Output::Stdout(&stdout), sources)?;
        Ok(Self::Stdout(stdout))
    }

    /// Lets `fill` write to the file, which then appears whole or not at all, or to stdout.
    fn fill<T>(self, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
        match self {
            Self::File(path) => artefacts::fill_atomic(path, fill).map(|(value, _)| value),
            Self::Stdout(stdout) => {
                let mut out = Stdout { inner: BufWriter::new(stdout), is_closed: false };
                let result = fill(&mut out).and_then(|value| out.flush().map(|()| value).map_err(Error::io("stdout", "write")));
                if out.is_closed { Err(Error::io("stdout", "write")(io::ErrorKind::BrokenPipe.into())) } else { result }
            }
        }
    }

    /// Writes a text and a line break.
    fn print(self, text: &str) -> Result<()> {
        self.fill(|out| writeln!(out, "{text}").map_err(Error::io("stdout", "write")))
    }
}

/// Stdout, which remembers whether the reader has closed the pipe, whatever error the caller reports.
struct Stdout {
    inner: BufWriter<File>,
    is_closed: bool,
}

impl Stdout {
    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.is_closed |= result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Stdout {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let result = self.inner.write(buffer);
        self.noted(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.inner.flush();
        self.noted(result)
    }
}
