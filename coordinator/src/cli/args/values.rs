//! Values of flags: their names, bounds and words.

use std::time::Duration;

use chrono::NaiveDate;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use gust_engine::config::{Label, LabelError, Prefer, TIMEOUT_MAX, Target, is_label_key, is_timeout};
use gust_engine::money::{Money, MoneyError};
use gust_output::OutputFormat;
use gust_protocol::with_hint_line;

use super::StartedSince;

/// Largest scale factor of the demo's data: about a terabyte as text.
const SCALE_FACTOR_MAX: f64 = 1000.0;

/// Places of a statement, with their words in `--help`.
pub(super) fn targets() -> impl TypedValueParser<Value = Target> {
    named(Target::ALL, Target::name, |target| match target {
        Target::Auto => "Functions where the numbers say that they pay, else locally",
        Target::Local => "In the coordinator alone",
        Target::InProcess => "Functions inside the coordinator's process, for tests",
        Target::Processes => "Functions as child processes of the coordinator",
        Target::Lambda => "Functions deployed on AWS Lambda",
    })
}

/// Measures of `--prefer`, with their words in `--help`.
pub(super) fn preferences() -> impl TypedValueParser<Value = Prefer> {
    named(Prefer::ALL, Prefer::name, |prefer| match prefer {
        Prefer::Cost => "Dollars",
        Prefer::Latency => "Seconds",
        Prefer::Balanced => "Dollars times seconds",
    })
}

/// Formats of rows, with their words in `--help`.
pub(super) fn formats() -> impl TypedValueParser<Value = OutputFormat> {
    named(OutputFormat::ALL, OutputFormat::name, |format| match format {
        OutputFormat::Table => "A drawn table, for people; NULL is written as NULL",
        OutputFormat::Csv => "RFC 4180 with a header; NULL is empty, nested values are JSON text",
        OutputFormat::Json => "One array of objects",
        OutputFormat::Ndjson => "One object a line",
        OutputFormat::Arrow => "Arrow IPC stream",
        OutputFormat::Parquet => "One Parquet file, compressed with zstd",
    })
}

/// Takes one of the values by its name. clap's own derive needs its trait on the type, which is the engine's.
fn named<T: Copy + Send + Sync + 'static, const N: usize>(
    values: [T; N],
    name: fn(T) -> &'static str,
    help: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let possible = values.map(|value| PossibleValue::new(name(value)).help(help(value)));
    PossibleValuesParser::new(possible)
        .map(move |text| values.into_iter().find(|value| name(*value) == text).expect("one of the possible values"))
}

pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_time(text, "a time-out")
}

pub(super) fn parse_deadline(text: &str) -> Result<Duration, String> {
    parse_time(text, "a deadline")
}

fn parse_time(text: &str, what: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write e.g. 500ms, 30s or 5min"))?;
    if is_timeout(time) {
        Ok(time)
    } else {
        Err(format!("{what} is above zero and at most {}", humantime::format_duration(TIMEOUT_MAX)))
    }
}

/// clap shows an error's words alone, so they have the next step.
pub(super) fn parse_dollars(text: &str) -> Result<Money, String> {
    text.parse().map_err(|bad: MoneyError| with_hint_line(&bad, Some(bad.hint())))
}

pub(super) fn parse_label(text: &str) -> Result<Label, String> {
    text.parse().map_err(|bad| format!("expected {bad}"))
}

pub(super) fn parse_label_key(text: &str) -> Result<String, String> {
    if is_label_key(text) { Ok(text.to_owned()) } else { Err(format!("expected {}", LabelError::Key)) }
}

pub(super) fn parse_since(text: &str) -> Result<StartedSince, String> {
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(StartedSince::Day(day));
    }
    let time = humantime::parse_duration(text);
    time.map(StartedSince::Ago).map_err(|_| "write a time such as 12h or 7d, or a day such as 2026-11-01".to_owned())
}

pub(super) fn parse_scale_factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if factor > 0.0 && factor <= SCALE_FACTOR_MAX {
        Ok(factor)
    } else {
        Err(format!("a scale factor is above zero and at most {SCALE_FACTOR_MAX}"))
    }
}
