//! The command line: it reads arguments and configuration, runs statements, and writes rows to stdout and words to stderr.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use gust_engine::config::{Config, ConfigError, ConfigFile, Label, Overrides, labels};
use gust_engine::error::QueryError;
use gust_engine::report::Report;
use gust_engine::session::{Engine, EngineOptions, Finding, Recorder, Session, SessionOptions, SetUpLog};
use gust_engine::storage::aws;
use gust_output::{NewFile, OutputError, OutputFormat, RowOutput, StreamError, end_of, write_statement};
use gust_protocol::with_hint_line;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

pub mod args;
mod calibrate;
mod cost;
mod demo;
mod exchange;
pub mod exit;
mod prices;
pub mod progress;
mod remote;
mod say;
mod serve;
mod signals;
mod token;

use crate::cli::args::{
    Cli, Command, CompletionsArgs, DoctorArgs, ExchangeCommand, QueryArgs, ReportFormat, SourceArgs, SqlError,
    TokenCommand,
};
use crate::cli::exit::Exit;
use crate::cli::progress::Progress;
use crate::cli::say::say;
use crate::cli::signals::Signals;

/// Reason why a command ended early: its message and the exit code.
#[derive(Debug)]
pub(crate) struct CommandError {
    exit: Exit,
    message: String,
    /// Next step.
    hint: Option<String>,
}

impl CommandError {
    fn new(exit: Exit, error: impl std::fmt::Display) -> Self {
        Self { exit, message: error.to_string(), hint: None }
    }

    fn usage(error: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// The same with the next step, where there is one.
    fn with_hint(self, hint: Option<impl Into<String>>) -> Self {
        Self { hint: hint.map(Into::into), ..self }
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::usage(&error).with_hint(error.hint())
    }
}

impl From<OutputError> for CommandError {
    fn from(error: OutputError) -> Self {
        Self::new(Exit::QueryFailed, &error).with_hint(error.hint())
    }
}

impl From<SqlError> for CommandError {
    fn from(error: SqlError) -> Self {
        Self::usage(&error).with_hint(error.hint())
    }
}

impl From<QueryError> for CommandError {
    fn from(error: QueryError) -> Self {
        Self::new(Exit::of(error.kind()), error.message()).with_hint(error.hint())
    }
}

/// Runs the program and returns its exit code. It is not generic, so that it is compiled once, and not in each binary.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    fragment_fn::quiet_caught_panics();
    let cli = match Cli::read(arguments) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if matches!(cli.command, Command::Bootstrap) {
        return bootstrap();
    }
    let filter = match std::env::var("GUST_LOG") {
        Ok(filter) => EnvFilter::try_new(filter),
        Err(_) => Ok(EnvFilter::new(cli.log_filter())),
    };
    match filter {
        Ok(filter) => {
            let layer = tracing_subscriber::fmt::layer().with_writer(fragment_fn::log_lines);
            let layer = layer.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false);
            tracing_subscriber::registry().with(layer.with_filter(fragment_fn::without_payloads(filter))).init();
        }
        Err(error) => return fail(&CommandError::usage(format!("GUST_LOG: {error}"))),
    }
    // A session has threads of its own. While they compute, this thread still hears signals and time-outs.
    let control = match cli.command {
        // Statements are read and dropped on the server's threads.
        Command::Serve(_) => fragment_fn::stack::runtime(),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    let control = match control {
        Ok(control) => control,
        Err(error) => return fail(&CommandError::usage(format!("cannot start: {error}"))),
    };
    let progress = if cli.verbose == 0 { Progress::on_stderr() } else { Progress::hidden() };
    let ended = control.block_on(async {
        match cli.command {
            Command::Query(args) if args.server.url.is_some() => Box::pin(remote::query::query(args)).await,
            Command::Query(args) => Box::pin(query(args, progress)).await,
            Command::Explain(args) => Box::pin(explain(args)).await,
            Command::Demo(args) => Box::pin(demo::demo(args, progress)).await,
            Command::Doctor(args) => Box::pin(doctor(args)).await,
            Command::Calibrate(args) => Box::pin(calibrate::calibrate(args)).await,
            Command::Prices(args) => prices::prices(args).await,
            Command::Cost(args) => Box::pin(cost::cost(args)).await,
            Command::Serve(args) => Box::pin(serve::serve(args)).await,
            Command::Token(TokenCommand::New(args)) => token::new(args),
            Command::Exchange(ExchangeCommand::Gc(args)) => exchange::gc(args).await,
            Command::Completions(CompletionsArgs { shell }) => completions(shell),
            Command::Bootstrap => unreachable!("it has threads of its own, above"),
        }
    });
    // A reader that stopped reading must not hold the program up, and the end of the process drops the rest: the session has
    // been closed.
    std::mem::forget(control);
    match ended {
        Ok(()) => Exit::Done.into(),
        Err(error) => fail(&error),
    }
}

fn fail(error: &CommandError) -> ExitCode {
    say!("error: {}", with_hint_line(&error.message, error.hint.as_ref()));
    error.exit.into()
}

fn bootstrap() -> ExitCode {
    match fragment_fn::bootstrap::block_on(fragment_fn::bootstrap::run) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            let exit = if error.exit_code() == 2 { Exit::Usage } else { Exit::QueryFailed };
            fail(&CommandError::new(exit, &error).with_hint(error.hint()))
        }
    }
}

/// Loads the configuration of all three layers.
fn configuration(named: Option<&Path>, overrides: &Overrides) -> Result<Config, CommandError> {
    let file = ConfigFile::find(named, Path::new(""))?;
    // Variables that are not Unicode cannot be our settings.
    let environment =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let mut config = Config::load(file.as_ref(), environment, overrides)?;
    // Cron, containers and services often have no USER.
    config.history.user = config.history.user.or_else(|| whoami::fallible::username().ok());
    Ok(config)
}

/// Opens a session as configured, in an engine of its own. `labels` override those of the configuration.
async fn session(named: Option<&Path>, overrides: &Overrides, labels: &[Label]) -> Result<Session, CommandError> {
    only_session(with_region(configuration(named, overrides)?).await, labels)
}

/// Fills the region from the places of AWS's own tools.
async fn with_region(mut config: Config) -> Config {
    if config.s3.region.is_none() {
        config.s3.region = aws::default_region().await;
    }
    config
}

/// Opens the session of the command line's one user.
pub(crate) fn only_session(config: Config, own: &[Label]) -> Result<Session, CommandError> {
    labels(&config.history, own).map_err(|bad| CommandError::usage(format!("--label: expected {bad}")))?;
    let options = SessionOptions { labels: own.to_vec(), ..SessionOptions::default() };
    Ok(Engine::open(config, EngineOptions::default())?.session(options)?)
}

/// Opens a session and runs the statements of the setup files. They are in `log`.
async fn open(source: &SourceArgs, labels: &[Label], log: &mut SetUpLog) -> Result<Session, CommandError> {
    let session = session(source.config.as_deref(), &source.run.overrides(), labels).await?;
    if let Some(catalog) = &source.catalog {
        session.use_catalog(catalog).await?;
    }
    for path in &source.setup {
        session.set_up_reported(&read_setup(path)?, log).await?;
    }
    Ok(session)
}

fn read_setup(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path).map_err(|e| CommandError::usage(format!("--setup {}: {e}", path.display())))
}

async fn doctor(args: DoctorArgs) -> Result<(), CommandError> {
    let overrides = Overrides { on: args.on, ..Overrides::default() };
    let session = session(args.config.as_deref(), &overrides, &[]).await?;
    let checks = session.examine().await;
    session.close().await;
    let mut ailing = 0;
    for Finding { subject, outcome } in &checks {
        let (verdict, text) = match outcome {
            Ok(text) => ("ok  ", text.clone()),
            Err(error) => ("FAIL", error.to_string()),
        };
        ailing += usize::from(outcome.is_err());
        let text = text.replace('\n', "\n                     ");
        match writeln!(stdout(), "{verdict} {subject:<15} {text}") {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(CommandError::usage(error)),
            _ => {}
        }
    }
    match ailing {
        0 => Ok(()),
        _ => Err(CommandError::new(Exit::FunctionsFailed, format!("{ailing} of {} checks failed", checks.len()))),
    }
}

/// Prints the script that completes this program's commands and flags in a shell.
fn completions(shell: Shell) -> Result<(), CommandError> {
    let (all, mut script) = (Cli::command(), Vec::new());
    // The generator would offer hidden commands, too.
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut shown = clap::Command::new("gust").args(all.get_arguments().cloned()).subcommands(shown);
    clap_complete::generate(shell, &mut shown, "gust", &mut script);
    match stdout().write_all(&script) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CommandError::usage(error)),
        _ => Ok(()),
    }
}

async fn explain(source: SourceArgs) -> Result<(), CommandError> {
    let sql = source.read_sql(stdin(), stdin().is_terminal())?;
    let session = open(&source, &[], &mut SetUpLog::default()).await?;
    for statement in session.parse(&sql)? {
        let text = session.explain(statement).await?;
        match writeln!(stdout(), "{text}") {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(CommandError::usage(error)),
            _ => {}
        }
    }
    Ok(())
}

async fn query(args: QueryArgs, progress: Progress) -> Result<(), CommandError> {
    let sql = args.source.read_sql(stdin(), stdin().is_terminal())?;
    let (mut file, mut reports) = destinations(&args)?;
    let mut signals = Signals::listen()?;
    let mut log = SetUpLog::default();
    let opened = tokio::select! {
        session = Box::pin(open(&args.source, &args.labels, &mut log)) => Ok(session),
        ended = signals.ended() => Err(ended),
    };
    if opened.is_err() {
        log.interrupt().await;
    }
    for report in log.take_reports() {
        reports.write_setup(&report)?;
    }
    let session = opened??;
    let recorder = Recorder::new(session.clone());
    let running = async {
        match file.as_ref().map(NewFile::writer).transpose()? {
            None => {
                let output = RowOutput::new(progress.clear_before_writing(stdout()), args.format);
                statements(&recorder, &sql, args.dry_run, &output, &mut file, &progress, &mut reports).await
            }
            Some(writer) => {
                let output = RowOutput::new(writer, args.format);
                statements(&recorder, &sql, args.dry_run, &output, &mut file, &progress, &mut reports).await?;
                match file.is_none() {
                    true => Ok(()),
                    false => Err(no_rows()),
                }
            }
        }
    };
    let ended = tokio::select! {
        ended = Box::pin(running) => ended,
        ended = signals.ended() => Err(ended),
    };
    session.close().await;
    if let Some(report) = recorder.interrupt().await {
        reports.write(&report)?;
    }
    ended
}

/// Makes the file of the rows, if one is named, and the destination of the reports.
fn destinations(args: &QueryArgs) -> Result<(Option<NewFile>, Reports), CommandError> {
    if let (Some(rows), Some(report)) = (&args.output, &args.report_file)
        && std::path::absolute(rows).ok() == std::path::absolute(report).ok()
    {
        return Err(CommandError::usage("--output and --report-file name one file").with_hint(Some("name two files")));
    }
    let file = match &args.output {
        Some(path) => Some(NewFile::create(path).map_err(|error| usage_of_output(&error))?),
        None => check_terminal(args.format).map(|()| None)?,
    };
    Ok((file, Reports::open(args.report, args.report_file.as_deref())?))
}

fn no_rows() -> CommandError {
    CommandError::usage("--output: no statement has rows, and no file is written").with_hint(Some("leave --output out"))
}

fn usage_of_output(error: &OutputError) -> CommandError {
    CommandError::usage(format!("--output: {error}")).with_hint(error.hint())
}

/// Refuses rows that would confuse a terminal.
fn check_terminal(format: OutputFormat) -> Result<(), CommandError> {
    match format == OutputFormat::Parquet && stdout().is_terminal() {
        true => Err(CommandError::usage("--format parquet: a Parquet file is not written to a terminal")
            .with_hint(Some("name its file with --output rows.parquet"))),
        false => Ok(()),
    }
}

/// Records a statement that was interrupted.
pub(crate) async fn interrupted(recorder: &Recorder) {
    if let Some(report) = recorder.interrupt().await {
        warn(report.history_not_recorded.as_deref());
    }
}

/// Runs all statements of a text, one after the other, until one fails. The file of their rows, if there are any, has its name
/// before the last statement counts as done.
pub(crate) async fn statements<W: Write + std::fmt::Debug + Send + 'static>(
    recorder: &Recorder,
    sql: &str,
    dry_run: bool,
    output: &RowOutput<W>,
    file: &mut Option<NewFile>,
    progress: &Progress,
    reports: &mut Reports,
) -> Result<(), CommandError> {
    let mut script = match recorder.script(sql, dry_run) {
        Ok(script) => script,
        Err(error) => {
            reports.write_refused(&Report::refused(&error))?;
            return Err(error.into());
        }
    };
    loop {
        let mut running = match script.next().await {
            Ok(Some(running)) => running,
            Ok(None) => return Ok(()),
            Err(refused) => {
                reports.write_refused(&refused.report)?;
                return Err(refused.error.into());
            }
        };
        let following = progress.follow(running.events().clone());
        let mut written = write_statement(&mut running, output).await;
        let is_whole = written.is_ok() && script.is_at_end() && !output.is_untouched();
        if let Some(file) = file.take_if(|_| is_whole)
            && let Err(error) = file.keep().await
        {
            running.not_written(&error);
            written = Err(error.into());
        }
        drop(following);
        reports.write(&recorder.finish(running, &end_of(&written)).await)?;
        match written {
            Ok(_) => {}
            Err(StreamError::Output(OutputError::ReaderGone)) => return Ok(()),
            Err(StreamError::Output(error)) => return Err(error.into()),
            Err(StreamError::Query(error)) => return Err(error.into()),
        }
    }
}

/// Prints a warning where the history lacks a statement and no report says so.
fn warn(history_not_recorded: Option<&str>) {
    if let Some(why) = history_not_recorded {
        say!("warning: not recorded in the history: {why}");
    }
}

/// Warnings of a server's report.
#[derive(Default, serde::Deserialize)]
struct Warnings {
    history_not_recorded: Option<String>,
}

/// Destination of reports.
pub(crate) struct Reports {
    format: ReportFormat,
    file: Option<File>,
}

impl Reports {
    pub(crate) fn open(format: ReportFormat, path: Option<&Path>) -> Result<Self, CommandError> {
        let create = |path: &Path| {
            File::create(path).map_err(|e| CommandError::usage(format!("--report-file {}: {e}", path.display())))
        };
        Ok(Self { format, file: path.map(create).transpose()? })
    }

    /// Writes the report on a statement that did not begin to run. People read its error alone, unless it has read something.
    fn write_refused(&mut self, report: &Report) -> Result<(), CommandError> {
        let has_read = report.coordinator.requests.total() > 0;
        if self.format == ReportFormat::Text && self.file.is_none() && !has_read {
            warn(report.history_not_recorded.as_deref());
            return Ok(());
        }
        self.write(report)
    }

    /// Writes the report on a statement of a setup file.
    fn write_setup(&mut self, report: &Report) -> Result<(), CommandError> {
        if report.failed.is_some() && report.coordinator.requests.total() == 0 {
            return self.write_refused(report);
        }
        if self.format == ReportFormat::Text && self.file.is_none() {
            say!("of a statement of --setup:");
        }
        self.write(report)
    }

    fn write(&mut self, report: &Report) -> Result<(), CommandError> {
        match self.format {
            ReportFormat::None => {
                warn(report.history_not_recorded.as_deref());
                Ok(())
            }
            ReportFormat::Text => self.write_text(&format!("{report}\n\n")),
            ReportFormat::Json => {
                self.write_text(&(serde_json::to_string(report).map_err(CommandError::usage)? + "\n"))
            }
        }
    }

    /// Writes the report of a server.
    fn write_told(&mut self, text: &str, json: &str) -> Result<(), CommandError> {
        match self.format {
            ReportFormat::None => {
                // A report of another version has at least what is asked for here.
                let told = serde_json::from_str::<Warnings>(json).unwrap_or_default();
                warn(told.history_not_recorded.as_deref());
                Ok(())
            }
            ReportFormat::Text => self.write_text(&format!("{text}\n\n")),
            ReportFormat::Json => self.write_text(&format!("{json}\n")),
        }
    }

    fn write_text(&mut self, text: &str) -> Result<(), CommandError> {
        let written = match &mut self.file {
            Some(file) => file.write_all(text.as_bytes()),
            None => {
                say::dropped(std::io::stderr().write_all(text.as_bytes()));
                Ok(())
            }
        };
        written.map_err(|error| CommandError::usage(format!("cannot write the report: {error}")))
    }
}
