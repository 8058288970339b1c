//! OPTIONS of tables over CSV and JSON, as DataFusion parses them. An option that would change nothing is refused by its name.

use std::collections::HashMap;

use arrow::csv::reader::Format;
use datafusion::catalog::Session;
use datafusion::common::config::{ConfigFileType, CsvOptions, JsonOptions};
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::{DataFusionError, Result};
use regex::Regex;

use super::fault::TextFault;
use super::unpack::Packing;
use super::values::Shape;

/// Options that only writers follow.
const OF_WRITERS: &[&str] = &[
    "compression_level",
    "date_format",
    "datetime_format",
    "double_quote",
    "ignore_leading_whitespace",
    "ignore_trailing_whitespace",
    "quote_style",
    "time_format",
    "timestamp_format",
    "timestamp_tz_format",
];

/// Options of either format.
#[derive(Debug, Clone)]
pub(super) struct TextOptions {
    pub(super) dialect: Dialect,
    /// Packing of all files. None where each file's name tells it.
    pub(super) packing_of_all: Option<CompressionTypeVariant>,
    /// Rows from which columns are inferred; None for the default.
    pub(super) sample_rows: Option<usize>,
    /// True where the table says that each line is a row, so that a file may be read in parts.
    pub(super) has_rows_of_lines: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Dialect {
    Csv(Csv),
    Json(Shape),
}

/// Form of CSV.
#[derive(Debug, Clone)]
pub(super) struct Csv {
    pub(super) has_header: bool,
    pub(super) terminator: Option<u8>,
    format: Format,
}

impl Csv {
    /// Returns the form for a text that begins with a header or without one.
    pub(super) fn format(&self, has_header: bool) -> Format {
        self.format.clone().with_header(has_header)
    }
}

impl TextOptions {
    /// Returns the packing of a file.
    pub(super) fn packing(&self, file: &str) -> CompressionTypeVariant {
        self.packing_of_all.unwrap_or_else(|| Packing::of_file(file))
    }

    /// Parses the options of CSV.
    ///
    /// # Errors
    /// The engine's for an option or a value that there is not, and [`TextFault`] for one that is not followed.
    pub(super) fn csv(state: &dyn Session, options: &HashMap<String, String>) -> Result<Self> {
        refuse_writers(options)?;
        let mut table = state.default_table_options();
        table.set_config_format(ConfigFileType::CSV);
        table.alter_with_string_hash_map(&with_characters(options))?;
        let CsvOptions { delimiter, quote, terminator, escape, comment, truncated_rows, .. } = table.csv;
        let defaults = &state.config_options().catalog;
        let mut format = Format::default()
            .with_delimiter(delimiter)
            .with_quote(quote)
            .with_truncated_rows(truncated_rows.unwrap_or_default());
        if let Some(byte) = terminator {
            format = format.with_terminator(byte);
        }
        if let Some(byte) = escape {
            format = format.with_escape(byte);
        }
        if let Some(byte) = comment {
            format = format.with_comment(byte);
        }
        if let Some(nulls) = nulls(&table.csv)? {
            format = format.with_null_regex(nulls);
        }
        let has_header = table.csv.has_header.unwrap_or(defaults.has_header);
        Ok(Self {
            dialect: Dialect::Csv(Csv { has_header, terminator, format }),
            packing_of_all: packing(options, table.csv.compression),
            sample_rows: table.csv.schema_infer_max_rec,
            has_rows_of_lines: !table.csv.newlines_in_values.unwrap_or(defaults.newlines_in_values),
        })
    }

    /// Parses the options of JSON.
    ///
    /// # Errors
    /// Those of [`Self::csv`].
    pub(super) fn json(state: &dyn Session, options: &HashMap<String, String>) -> Result<Self> {
        refuse_writers(options)?;
        let mut table = state.default_table_options();
        table.set_config_format(ConfigFileType::JSON);
        table.alter_with_string_hash_map(options)?;
        let JsonOptions { compression, schema_infer_max_rec, newline_delimited, .. } = table.json;
        let shape = match (given(options, "newline_delimited"), newline_delimited) {
            (None, _) => Shape::Any,
            (Some(_), true) => Shape::Lines,
            (Some(_), false) => Shape::Array,
        };
        Ok(Self {
            dialect: Dialect::Json(shape),
            packing_of_all: packing(options, compression),
            sample_rows: schema_infer_max_rec,
            has_rows_of_lines: shape == Shape::Lines,
        })
    }
}

/// Returns the value of an option, with `format.` before its name or not.
fn given<'a>(options: &'a HashMap<String, String>, option: &str) -> Option<&'a String> {
    let is = |key: &str| {
        let key = key.to_ascii_lowercase();
        key.strip_prefix("format.").unwrap_or(&key) == option
    };
    options.iter().find(|(key, _)| is(key)).map(|(_, value)| value)
}

fn refuse_writers(options: &HashMap<String, String>) -> Result<()> {
    match OF_WRITERS.iter().find(|option| given(options, option).is_some()) {
        Some(option) => Err(TextFault::Option {
            option: format!("format.{option}"),
            reason: "is for writing".to_owned(),
            hint: "leave it out; declare a column as VARCHAR, and read other forms of values with a function",
        }
        .into()),
        None => Ok(()),
    }
}

/// Writes `\t` and `\n` as the characters that they stand for. An option of the engine is one character.
fn with_characters(options: &HashMap<String, String>) -> HashMap<String, String> {
    let character = |value: &String| match value.as_str() {
        "\\t" => "\t".to_owned(),
        "\\n" => "\n".to_owned(),
        "\\\\" => "\\".to_owned(),
        _ => value.clone(),
    };
    options.iter().map(|(key, value)| (key.clone(), character(value))).collect()
}

fn packing(options: &HashMap<String, String>, parsed: CompressionTypeVariant) -> Option<CompressionTypeVariant> {
    given(options, "compression").map(|_| parsed)
}

/// Returns the pattern of texts that are NULL. None where only an empty text is. DataFusion 55.2 follows `null_regex` where it infers
/// columns and not where it reads them, and `null_value` in neither.
fn nulls(options: &CsvOptions) -> Result<Option<Regex>> {
    let pattern = match (&options.null_regex, &options.null_value) {
        (Some(pattern), _) => pattern.clone(),
        (None, Some(value)) if !value.is_empty() => format!("^(?:{})?$", regex::escape(value)),
        _ => return Ok(None),
    };
    let refused = |error: regex::Error| {
        DataFusionError::from(TextFault::Option {
            option: "format.null_regex".to_owned(),
            reason: format!("is no regular expression: {error}"),
            hint: "write it as for regexp_like, or give one text: 'format.null_value' 'NA'",
        })
    };
    Regex::new(&pattern).map(Some).map_err(refused)
}
