//! Shape of the command line: commands, flags, their bounds, and the settings that flags override.
//!
//! Non-goals: nothing is opened, run or printed here. Help and usage errors are clap's own.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use chrono::NaiveDate;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, value_parser};
use clap_complete::Shell;
use gust_engine::config::{FUNCTIONS_MAX, Label, Overrides, Prefer, Target};
use gust_engine::money::Money;
use gust_output::OutputFormat;

mod examples;
mod serve;
mod values;

use super::exit::Exit;
use examples::{
    CALIBRATE_EXAMPLES, COMPLETIONS_EXAMPLES, COST_EXAMPLES, DEMO_EXAMPLES, DOCTOR_EXAMPLES, EXPLAIN_EXAMPLES,
    GC_EXAMPLES, PRICES_EXAMPLES, QUERY_EXAMPLES, SERVE_EXAMPLES,
};
pub use serve::{ServeArgs, TokenArgs, TokenCommand};
use values::{
    formats, parse_deadline, parse_dollars, parse_label, parse_label_key, parse_scale_factor, parse_since,
    parse_timeout, preferences, targets,
};

/// Longest text of statements, in bytes. A longer one is refused and not held in memory.
pub const SQL_BYTES_MAX: u64 = 16 << 20;

/// SQL over a data lake, run by functions that exist only while the query runs
#[derive(Debug, Parser)]
#[command(name = "gust", version, after_help = Exit::HELP)]
pub struct Cli {
    /// Say more on stderr: -v what is done, -vv every event. The variable GUST_LOG sets a finer filter
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run statements; rows go to stdout, progress and report to stderr
    #[command(after_help = format!("{QUERY_EXAMPLES}\n\n{}", Exit::HELP))]
    Query(QueryArgs),
    /// Show the plan of a statement and the reasons for it, without running it
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(SourceArgs),
    /// Make TPC-H data as Iceberg tables, if it is not there yet, and run queries over it through functions
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Check credentials, buckets, functions and catalogs, and say what to do
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Show the prices of a region that reports are made with
    #[command(after_help = PRICES_EXAMPLES)]
    Prices(PricesArgs),
    /// Measure functions, network and cores here, so that estimates and decisions fit this installation
    #[command(after_help = CALIBRATE_EXAMPLES)]
    Calibrate(CalibrateArgs),
    /// Show the cost of the recorded queries, by day, user, label, table or outcome
    #[command(after_help = COST_EXAMPLES)]
    Cost(CostArgs),
    /// Answer queries of many people over HTTP, Flight SQL and PostgreSQL's protocol
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Make tokens of a server's users
    #[command(subcommand)]
    Token(TokenCommand),
    /// Look after the store in which functions leave large results
    #[command(subcommand)]
    Exchange(ExchangeCommand),
    /// Print the completions of a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Be a function: serve the Lambda Runtime API that the environment names
    #[command(hide = true)]
    Bootstrap,
}

#[derive(Debug, Subcommand)]
pub enum ExchangeCommand {
    /// Remove objects of queries whose coordinator could not clean up after itself
    #[command(after_help = GC_EXAMPLES)]
    Gc(GcArgs),
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell to complete in
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct GcArgs {
    /// Remove only objects of queries that began, and last wrote, longer ago than this; give more than the longest query takes
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub older_than: Duration,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Configuration file, which names the exchange [default: gust.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// Functions to measure [default: those that `auto` uses]
    #[arg(long, value_parser = targets(), value_name = "TARGET")]
    pub on: Option<Target>,
    /// Most functions at a time, as queries have them [default: 4]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(FUNCTIONS_MAX)))]
    pub functions: Option<u32>,
    /// MB that the network is measured with; they are written to the exchange, read some twenty times, and removed
    #[arg(long, value_name = "MB", default_value_t = 64, value_parser = value_parser!(u64).range(1..=4096))]
    pub megabytes: u64,
    /// Show the figures without keeping them
    #[arg(long)]
    pub dry_run: bool,
    /// Configuration file [default: gust.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PricesArgs {
    /// Region [default: the one that reports are made with]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    #[arg(long, value_parser = formats(), default_value = OutputFormat::Table.name(), value_name = "FORMAT")]
    pub format: OutputFormat,
    /// Configuration file, which may name a price book [default: gust.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CostArgs {
    /// Key that queries are grouped by [default: day]
    #[arg(long, value_enum, value_name = "KEY")]
    pub by: Option<GroupKey>,
    /// Group by the value of this label, so that each query counts once
    #[arg(long, value_name = "LABEL", value_parser = parse_label_key)]
    pub label_key: Option<String>,
    /// Only queries that began since then: a time ago, e.g. 12h or 7d, or a day, e.g. 2026-11-01
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    pub since: Option<StartedSince>,
    #[arg(long, value_parser = formats(), default_value = OutputFormat::Table.name(), value_name = "FORMAT")]
    pub format: OutputFormat,
    /// Configuration file, which may name the history [default: gust.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Keys of `--by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GroupKey {
    Day,
    User,
    Label,
    Table,
    Outcome,
}

/// Key that queries are grouped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    Day,
    User,
    /// All labels of a query.
    Label,
    /// Value of one label.
    LabelKey(String),
    Table,
    Outcome,
}

/// Beginning of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedSince {
    Ago(Duration),
    Day(NaiveDate),
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Functions to check [default: those that `auto` uses]
    #[arg(long, value_parser = targets(), value_name = "TARGET")]
    pub on: Option<Target>,
    /// Configuration file [default: gust.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct QueryArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Format of the rows on stdout
    ///
    /// Several statements follow each other: tables and CSV with an empty line between them, JSON as one array a line,
    /// Arrow as one stream each. A table of more than 10,000 rows comes in several blocks, each with its header. A Parquet file has the
    /// rows of one statement, and is never written to a terminal.
    #[arg(long, value_parser = formats(), default_value = OutputFormat::Table.name(), value_name = "FORMAT")]
    pub format: OutputFormat,
    /// Write the rows to this new file instead of stdout: it has the rows of all statements, or is not there
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Say what each statement would cost instead of running it; statements that only change the session, such as SET and
    /// CREATE EXTERNAL TABLE, do run
    #[arg(long)]
    pub dry_run: bool,
    /// Report on each statement after its rows
    #[arg(long, value_enum, default_value_t = ReportFormat::Text, value_name = "FORMAT")]
    pub report: ReportFormat,
    /// Write the report to this file instead of stderr
    #[arg(long, value_name = "PATH")]
    pub report_file: Option<PathBuf>,
    /// Label that finds the query in the history; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<Label>,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Server that runs the statements.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Let this server run the statements, e.g. `https://gust.example:8123`. Places, settings and tables are the server's own
    #[arg(long = "server", value_name = "URL")]
    pub url: Option<String>,
    /// File with the token for the server [default: the variable GUST_TOKEN]
    #[arg(long, value_name = "FILE", requires = "url")]
    pub token_file: Option<PathBuf>,
    /// File with the certificate of the authority that has signed the server's, in PEM [default: the system's authorities]
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
}

/// Statements to run, their tables, and their place.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Statements, separated by `;`. `-` or none reads them from stdin
    pub sql: Option<String>,
    /// Read the statements from this file
    #[arg(short, long, value_name = "FILE.sql", conflicts_with = "sql")]
    pub file: Option<PathBuf>,
    /// Run this file's statements first, e.g. CREATE EXTERNAL TABLE; may be given several times
    #[arg(long, value_name = "FILE.sql")]
    pub setup: Vec<PathBuf>,
    /// Use the tables of this catalog from the configuration by their bare names
    #[arg(long, value_name = "NAME")]
    pub catalog: Option<String>,
    #[command(flatten)]
    pub run: RunArgs,
    /// Configuration file [default: gust.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags that override the configuration.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Run on this target [default: auto]
    #[arg(long, value_parser = targets(), value_name = "TARGET")]
    pub on: Option<Target>,
    /// Run locally when functions fail, although --on names them
    #[arg(long)]
    pub allow_fallback: bool,
    /// Most functions at a time [default: 4]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(FUNCTIONS_MAX)))]
    pub functions: Option<u32>,
    /// Stop each statement after this long, e.g. 500ms, 30s, 5min [default: 5min]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// Measure that picks the place, the number of functions and their size [default: latency with --on auto; cost with --deadline]
    #[arg(long, value_parser = preferences(), value_name = "WHAT")]
    pub prefer: Option<Prefer>,
    /// Pick a place that is expected to be done within this time even at most, e.g. 10s; nothing is stopped at it
    #[arg(long, value_name = "DURATION", value_parser = parse_deadline)]
    pub deadline: Option<Duration>,
    /// Stop each query before it costs more dollars than this, e.g. 0.05 [default: no limit]
    ///
    /// A query that surely costs more is not begun. A query is stopped where its functions at their worst case could cost more. Functions
    /// on this machine count as if they ran on Lambda, and local files cost nothing. Amounts without a known price are not counted: logs,
    /// and data transfer and the coordinator's own machine unless the configuration has their prices.
    #[arg(long, value_name = "DOLLARS", allow_negative_numbers = true, value_parser = parse_dollars)]
    pub max_cost: Option<Money>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Scale factor: 1 is about 1 GB as text
    #[arg(long = "sf", value_name = "FACTOR", default_value_t = 1.0, value_parser = parse_scale_factor)]
    pub scale_factor: f64,
    /// Folder that keeps the data, so that the next demo finds it
    #[arg(long, value_name = "DIR", default_value = "gust-demo")]
    pub home: PathBuf,
    /// Numbers of the TPC-H queries to run
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,3,6,12,18",
        value_parser = value_parser!(u8).range(1..=22))]
    pub queries: Vec<u8>,
    /// Most functions at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u32).range(1..=i64::from(FUNCTIONS_MAX)))]
    pub functions: u32,
    /// Run on this target
    #[arg(long, value_parser = targets(), value_name = "TARGET", default_value = Target::Processes.name())]
    pub on: Target,
    /// Label that finds the queries in the history; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<Label>,
}

/// Format of the report on a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A few lines for people
    Text,
    /// One JSON object a line and statement
    Json,
    /// No report
    None,
}

impl Cli {
    /// Reads the arguments, the program's name first. On an error call [`clap::Error::exit`]; help is one of the errors.
    pub fn read(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(arguments)?;
        if let Command::Query(QueryArgs { report: ReportFormat::None, report_file: Some(_), .. }) = cli.command {
            let message = "--report-file needs a report: use --report text or --report json";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        if let Command::Cost(CostArgs { by: Some(by), label_key: Some(_), .. }) = &cli.command
            && *by != GroupKey::Label
        {
            let message = "--label-key groups by a label: leave --by out, or use --by label";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        if let Command::Query(query) = &cli.command
            && query.server.url.is_some()
            && let Some(flag) = query.source.of_this_machine()
        {
            let message = format!("{flag} is about this machine, and the server runs the statements: leave it out");
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        Ok(cli)
    }

    /// Returns the filter of the log on stderr where GUST_LOG sets none.
    pub fn log_filter(&self) -> &'static str {
        match self.verbose {
            // A server's reasons for cut responses are told nowhere else.
            0 if matches!(self.command, Command::Serve(_)) => "warn",
            0 => "error",
            1 => "warn,gust=info,gust_engine=info,gust_server=info,fragment_fn=info",
            _ => {
                "info,gust=debug,gust_engine=debug,gust_server=debug,gust_catalog=debug,gust_protocol=debug,fragment_fn=debug"
            }
        }
    }
}

impl SourceArgs {
    /// Returns the first given flag that a server does not take.
    fn of_this_machine(&self) -> Option<&'static str> {
        let RunArgs { on, allow_fallback, functions, prefer, deadline, timeout: _, max_cost: _ } = &self.run;
        let flags = [
            ("--setup", !self.setup.is_empty()),
            ("--config", self.config.is_some()),
            ("--on", on.is_some()),
            ("--allow-fallback", *allow_fallback),
            ("--functions", functions.is_some()),
            ("--prefer", prefer.is_some()),
            ("--deadline", deadline.is_some()),
        ];
        flags.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }

    /// Reads the statements' text. Only an omitted SQL on a terminal is an error: the user would not know that the program waits.
    pub fn read_sql(&self, stdin: impl Read, stdin_is_terminal: bool) -> Result<String, SqlError> {
        if let Some(path) = &self.file {
            let place = path.display().to_string();
            return match std::fs::File::open(path) {
                Ok(file) => read_whole(file, place),
                Err(error) => Err(SqlError::Unreadable { place, error }),
            };
        }
        match self.sql.as_deref() {
            Some(sql) if sql != "-" => return Ok(sql.to_owned()),
            None if stdin_is_terminal => return Err(SqlError::Missing),
            _ => {}
        }
        read_whole(stdin, "stdin".to_owned())
    }
}

fn read_whole(from: impl Read, place: String) -> Result<String, SqlError> {
    let mut sql = String::new();
    match from.take(SQL_BYTES_MAX + 1).read_to_string(&mut sql) {
        Err(error) => Err(SqlError::Unreadable { place, error }),
        Ok(_) if sql.len() as u64 > SQL_BYTES_MAX => Err(SqlError::TooLong { place }),
        Ok(_) => Ok(sql),
    }
}

/// Reason why there is no SQL to run.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("no SQL was given")]
    Missing,
    #[error("the SQL on {place} is longer than {SQL_BYTES_MAX} bytes")]
    TooLong { place: String },
    #[error("cannot read the SQL from {place}: {error}")]
    Unreadable { place: String, error: std::io::Error },
}

impl SqlError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing => Some("pass it as an argument, or pipe it in; see `gust query --help`"),
            Self::TooLong { .. } | Self::Unreadable { .. } => None,
        }
    }
}

impl RunArgs {
    pub fn overrides(&self) -> Overrides {
        Overrides {
            on: self.on,
            functions_max: self.functions,
            // The flag can only allow: its absence leaves the setting alone.
            allow_fallback: self.allow_fallback.then_some(true),
            timeout: self.timeout,
            prefer: self.prefer,
            deadline: self.deadline,
            cap: self.max_cost,
        }
    }
}

impl CostArgs {
    pub fn group_by(&self) -> GroupBy {
        match (&self.label_key, self.by) {
            (Some(key), _) => GroupBy::LabelKey(key.clone()),
            (None, None | Some(GroupKey::Day)) => GroupBy::Day,
            (None, Some(GroupKey::User)) => GroupBy::User,
            (None, Some(GroupKey::Label)) => GroupBy::Label,
            (None, Some(GroupKey::Table)) => GroupBy::Table,
            (None, Some(GroupKey::Outcome)) => GroupBy::Outcome,
        }
    }
}

impl DemoArgs {
    pub fn overrides(&self) -> Overrides {
        Overrides { on: Some(self.on), functions_max: Some(self.functions), ..Overrides::default() }
    }
}

#[cfg(test)]
mod tests;
