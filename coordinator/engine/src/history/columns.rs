//! Columns of the three tables. Each is listed once, for SQLite and for SQL alike.
//!
//! To add one, add a line here and raise [`super::store::VERSION`]. A file of an earlier version gets the column with its next
//! record; it is NULL in the rows that it has. In the file, moments are whole microseconds (`started_us`) and dollars are
//! whole nano-dollars (`nano_dollars`). In SQL they are timestamps and decimals.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListBuilder, MapBuilder, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use gust_protocol::AheadUsage;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::record::{AttemptEndRecord, AttemptRecord, LineRecord, QueryRecord};
use crate::attempt::Billing;
use crate::cost::{Basis, Item};
use crate::events::AttemptCause;
use crate::money::Money;
use crate::report::CostReport;

/// Kind of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnKind {
    Text,
    Whole,
    Real,
    Flag,
    /// A point in time, in UTC.
    Moment,
    /// Dollars with all nine digits.
    Dollars,
    /// A list of texts, which is JSON in the file.
    Names,
    /// Texts by text, which are JSON in the file.
    Labels,
}

/// A value on its way into the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StoredValue {
    Null,
    Text(String),
    Whole(i64),
    Real(f64),
}

/// A column of rows that are made from `R`s.
pub(super) struct Column<R> {
    pub name: &'static str,
    pub kind: ColumnKind,
    pub value: fn(&R) -> StoredValue,
}

const fn column<R>(name: &'static str, kind: ColumnKind, value: fn(&R) -> StoredValue) -> Column<R> {
    Column { name, kind, value }
}

/// Columns of a table that has a row for each statement.
pub(super) const QUERIES: &[Column<QueryRecord>] = &[
    column("id", ColumnKind::Text, |q| q.meta.id.as_str().into()),
    column("started", ColumnKind::Moment, |q| StoredValue::Whole(q.meta.started.timestamp_micros())),
    column("user_name", ColumnKind::Text, |q| q.meta.user.as_deref().into()),
    column("statement", ColumnKind::Text, |q| q.statement.as_deref().into()),
    column("statement_hash", ColumnKind::Text, |q| q.statement_hash.as_str().into()),
    column("labels", ColumnKind::Labels, |q| json(&q.meta.labels)),
    column("tables", ColumnKind::Names, |q| json(&q.meta.tables)),
    column("place", ColumnKind::Text, |q| q.report.decision.as_ref().map(|decision| name_of(&decision.place)).into()),
    column("reason", ColumnKind::Text, |q| q.report.decision.as_ref().map(|decision| name_of(&decision.reason)).into()),
    column("fell_back", ColumnKind::Flag, |q| q.report.fell_back.is_some().into()),
    column("outcome", ColumnKind::Text, |q| q.ended.outcome.name().into()),
    column("message", ColumnKind::Text, |q| q.ended.message.as_deref().into()),
    column("stages", ColumnKind::Whole, |q| q.report.stages.into()),
    column("fragments", ColumnKind::Whole, |q| q.report.fragments.into()),
    column("attempts", ColumnKind::Whole, |q| q.report.attempts.into()),
    column("attempts_retried", ColumnKind::Whole, |q| q.report.attempts_retried.into()),
    column("attempts_speculative", ColumnKind::Whole, |q| q.report.attempts_speculative.into()),
    column("attempts_wasted", ColumnKind::Whole, |q| q.report.attempts_wasted.into()),
    column("cold_starts", ColumnKind::Whole, |q| q.report.cold_starts.into()),
    column("function_requests", ColumnKind::Whole, |q| q.report.functions.requests.total().into()),
    column("function_bytes_read", ColumnKind::Whole, |q| q.report.functions.bytes_read.into()),
    column("function_bytes_written", ColumnKind::Whole, |q| q.report.functions.bytes_written.into()),
    column("coordinator_requests", ColumnKind::Whole, |q| q.report.coordinator.requests.total().into()),
    column("coordinator_bytes_read", ColumnKind::Whole, |q| q.report.coordinator.bytes_read.into()),
    column("coordinator_bytes_written", ColumnKind::Whole, |q| q.report.coordinator.bytes_written.into()),
    // These columns are NULL for statements of a version that did not know them.
    column("ahead_bytes", ColumnKind::Whole, |q| ahead(q).bytes.into()),
    column("unused_bytes", ColumnKind::Whole, |q| ahead(q).unused_bytes().into()),
    column("gap_bytes", ColumnKind::Whole, |q| ahead(q).gap_bytes.into()),
    column("rows", ColumnKind::Whole, |q| q.report.rows.into()),
    column("result_bytes", ColumnKind::Whole, |q| q.report.result_bytes.into()),
    column("memory_peak_bytes", ColumnKind::Whole, |q| q.report.memory_peak_bytes.into()),
    column("spilled_bytes", ColumnKind::Whole, |q| q.report.spilled_bytes.into()),
    column("seconds", ColumnKind::Real, |q| StoredValue::Real(q.report.seconds.total)),
    column("seconds_plan", ColumnKind::Real, |q| StoredValue::Real(q.report.seconds.plan)),
    column("seconds_invoke", ColumnKind::Real, |q| StoredValue::Real(q.report.seconds.invoke)),
    column("seconds_read", ColumnKind::Real, |q| StoredValue::Real(q.report.seconds.read)),
    column("seconds_finish", ColumnKind::Real, |q| StoredValue::Real(q.report.seconds.finish)),
    column("seconds_wasted", ColumnKind::Real, |q| StoredValue::Real(q.report.wasted_seconds)),
    column("seconds_waited", ColumnKind::Real, |q| {
        StoredValue::Real(q.report.functions.waited_seconds + q.report.coordinator.waited_seconds)
    }),
    // These columns are NULL without prices.
    column("region", ColumnKind::Text, |q| cost(q, |cost| cost.region.as_str().into())),
    column("prices_date", ColumnKind::Text, |q| cost(q, |cost| cost.prices_date.as_str().into())),
    column("architecture", ColumnKind::Text, |q| cost(q, |cost| cost.architecture.name().into())),
    column("as_if", ColumnKind::Flag, |q| cost(q, |cost| cost.as_if.into())),
    column("is_complete", ColumnKind::Flag, |q| cost(q, |cost| cost.is_complete.into())),
    column("gb_seconds", ColumnKind::Real, |q| cost(q, |cost| StoredValue::Real(gb_seconds(cost)))),
    column("dollars", ColumnKind::Dollars, |q| cost(q, |cost| cost.known.into())),
    column("dollars_at_most", ColumnKind::Dollars, |q| cost(q, |cost| cost.at_most.into())),
    column("dollars_wasted", ColumnKind::Dollars, |q| cost(q, |cost| cost.waste.total.into())),
    column("dollars_athena", ColumnKind::Dollars, |q| cost(q, |cost| cost.athena.cost.into())),
    column("athena_bytes", ColumnKind::Whole, |q| cost(q, |cost| cost.athena.bytes.into())),
];

/// Columns of a table that has a row for each attempt. A fragment has the attempt that was used, and all that were not.
pub(super) const FRAGMENTS: &[Column<AttemptRecord>] = &[
    column("query_id", ColumnKind::Text, |a| a.id.query.as_str().into()),
    column("stage", ColumnKind::Whole, |a| a.id.stage.into()),
    column("fragment", ColumnKind::Whole, |a| a.id.index.into()),
    column("attempt", ColumnKind::Whole, |a| a.attempt.into()),
    column("cause", ColumnKind::Text, |a| cause(a.cause).into()),
    // The columns of its end are NULL for an attempt that still ran.
    column("outcome", ColumnKind::Text, |a| end(a, |end| end.outcome.as_str().into())),
    column("adopted", ColumnKind::Flag, |a| a.adopted_bytes.is_some().into()),
    column("cold", ColumnKind::Flag, |a| end(a, |end| end.cold.into())),
    column("seconds_started", ColumnKind::Real, |a| a.started.into()),
    column("seconds_ended", ColumnKind::Real, |a| end(a, |end| end.at.into())),
    column("seconds_wall", ColumnKind::Real, |a| end(a, |end| end.wall.into())),
    column("seconds_waited", ColumnKind::Real, |a| {
        end(a, |end| end.usage.map(|usage| Duration::from_micros(usage.spans.waited_us)).into())
    }),
    column("billed_ms", ColumnKind::Whole, |a| end(a, |end| billed_ms(end.billing).into())),
    column("billing", ColumnKind::Text, |a| end(a, |end| name_of(&basis(end.billing)).into())),
    column("requests", ColumnKind::Whole, |a| end(a, |end| end.usage.map(|usage| usage.requests.total()).into())),
    column("bytes_read", ColumnKind::Whole, |a| end(a, |end| end.usage.map(|usage| usage.bytes_read).into())),
    column("bytes_written", ColumnKind::Whole, |a| end(a, |end| end.usage.map(|usage| usage.bytes_written).into())),
    column("ahead_bytes", ColumnKind::Whole, |a| end(a, |end| end.usage.map(|usage| usage.ahead.bytes).into())),
    column("unused_bytes", ColumnKind::Whole, |a| {
        end(a, |end| end.usage.map(|usage| usage.ahead.unused_bytes()).into())
    }),
    column("gap_bytes", ColumnKind::Whole, |a| end(a, |end| end.usage.map(|usage| usage.ahead.gap_bytes).into())),
    column("rows", ColumnKind::Whole, |a| end(a, |end| end.usage.map(|usage| usage.rows_out).into())),
    column("memory_peak_bytes", ColumnKind::Whole, |a| {
        end(a, |end| end.usage.map(|usage| usage.memory_peak_bytes).into())
    }),
    column("result_bytes", ColumnKind::Whole, |a| a.adopted_bytes.into()),
    column("dollars", ColumnKind::Dollars, |a| end(a, |end| end.cost.into())),
];

/// Columns of a table that has a row for each kind of spending of a statement, as in its report.
pub(super) const COST_LINES: &[Column<LineRecord>] = &[
    column("query_id", ColumnKind::Text, |l| l.query.as_str().into()),
    column("item", ColumnKind::Text, |l| item(l.line.item).into()),
    column("memory_mb", ColumnKind::Whole, |l| memory_mb(l.line.item).into()),
    column("basis", ColumnKind::Text, |l| name_of(&l.line.basis).into()),
    column("quantity", ColumnKind::Real, |l| StoredValue::Real(l.line.quantity)),
    column("unit", ColumnKind::Text, |l| l.line.unit.into()),
    column("dollars", ColumnKind::Dollars, |l| l.line.cost.into()),
];

/// Name of a column, and the kind of its values.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredColumn {
    pub name: &'static str,
    pub kind: ColumnKind,
}

/// Name of a table, and its columns.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub name: &'static str,
    pub columns: Vec<StoredColumn>,
}

impl Table {
    /// Lists all three. The table that others refer to is the first.
    pub fn all() -> [Self; 3] {
        [Self::of("queries", QUERIES), Self::of("fragments", FRAGMENTS), Self::of("cost_lines", COST_LINES)]
    }

    fn of<R>(name: &'static str, columns: &[Column<R>]) -> Self {
        Self {
            name,
            columns: columns.iter().map(|column| StoredColumn { name: column.name, kind: column.kind }).collect(),
        }
    }

    /// Returns the SQL that creates it in the file.
    pub fn ddl(&self) -> String {
        let columns = self.columns.iter().map(|StoredColumn { name, kind }| {
            let constraint = match *name {
                "id" => " PRIMARY KEY",
                "query_id" => " NOT NULL REFERENCES queries (id) ON DELETE CASCADE",
                _ => "",
            };
            format!("{}{constraint}", kind.definition(name))
        });
        format!("CREATE TABLE {} ({}) STRICT", self.name, columns.collect::<Vec<_>>().join(", "))
    }

    /// Lists its columns' names in the file, in quotes, with their definitions.
    pub fn stored(&self) -> impl Iterator<Item = (String, String)> {
        self.columns.iter().map(|StoredColumn { name, kind }| (kind.stored_name(name), kind.definition(name)))
    }

    /// Returns its columns as SQL sees them.
    pub fn schema(&self) -> SchemaRef {
        let fields = self.columns.iter().map(|column| Field::new(column.name, column.kind.data_type(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

impl ColumnKind {
    pub fn stored_name(self, name: &str) -> String {
        match self {
            Self::Moment => format!("\"{name}_us\""),
            Self::Dollars => format!("\"nano_{name}\""),
            _ => format!("\"{name}\""),
        }
    }

    fn definition(self, name: &str) -> String {
        format!("{} {}", self.stored_name(name), self.stored_type())
    }

    const fn stored_type(self) -> &'static str {
        match self {
            Self::Text | Self::Names | Self::Labels => "TEXT",
            Self::Whole | Self::Flag | Self::Moment | Self::Dollars => "INTEGER",
            Self::Real => "REAL",
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Whole => DataType::Int64,
            Self::Real => DataType::Float64,
            Self::Flag => DataType::Boolean,
            Self::Moment => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            Self::Dollars => DataType::Decimal128(DOLLARS_PRECISION, DOLLARS_SCALE),
            Self::Names => DataType::new_list(DataType::Utf8, true),
            Self::Labels => {
                let pair = vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Utf8, true)];
                DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair.into()), false)), false)
            }
        }
    }

    /// Makes a column from rows that were read from the file.
    ///
    /// # Errors
    /// An error for a value in the file of another kind.
    pub fn array(self, rows: &[SqliteRow], column: usize) -> sqlx::Result<ArrayRef> {
        let texts = || rows.iter().map(move |row| row.try_get::<Option<String>, _>(column));
        let numbers = || rows.iter().map(move |row| row.try_get::<Option<i64>, _>(column));
        Ok(match self {
            Self::Text => Arc::new(texts().collect::<sqlx::Result<StringArray>>()?),
            Self::Whole => Arc::new(numbers().collect::<sqlx::Result<Int64Array>>()?),
            Self::Real => {
                let reals = rows.iter().map(|row| row.try_get::<Option<f64>, _>(column));
                Arc::new(reals.collect::<sqlx::Result<Float64Array>>()?)
            }
            Self::Flag => {
                let flags = numbers().map(|number| Ok(number?.map(|number| number != 0)));
                Arc::new(flags.collect::<sqlx::Result<BooleanArray>>()?)
            }
            Self::Moment => {
                Arc::new(numbers().collect::<sqlx::Result<TimestampMicrosecondArray>>()?.with_timezone(UTC))
            }
            Self::Dollars => {
                let nano = numbers().map(|number| Ok(number?.map(i128::from)));
                let nano = nano.collect::<sqlx::Result<Decimal128Array>>()?;
                Arc::new(nano.with_data_type(self.data_type()))
            }
            Self::Names => {
                let mut lists = ListBuilder::new(StringBuilder::new());
                for text in texts() {
                    let names = text?.map(|text| parsed::<Vec<String>>(&text, column)).transpose()?;
                    lists.append_option(names.map(|names| names.into_iter().map(Some)));
                }
                Arc::new(lists.finish())
            }
            Self::Labels => {
                let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
                for text in texts() {
                    let text = text?;
                    for (key, value) in parsed::<BTreeMap<String, String>>(text.as_deref().unwrap_or("{}"), column)? {
                        maps.keys().append_value(key);
                        maps.values().append_value(value);
                    }
                    let appended = maps.append(text.is_some());
                    appended.map_err(|error| undecodable(column, error))?;
                }
                Arc::new(maps.finish())
            }
        })
    }
}

const UTC: &str = "UTC";
/// Digits of dollars: the most that there are, so that sums fit.
const DOLLARS_PRECISION: u8 = 38;
/// Digits after the point: dollars are counted in nano-dollars.
const DOLLARS_SCALE: i8 = 9;

fn parsed<T: DeserializeOwned>(text: &str, column: usize) -> sqlx::Result<T> {
    serde_json::from_str(text).map_err(|error| undecodable(column, error))
}

fn undecodable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_string(), source: Box::new(error) }
}

fn cost(query: &QueryRecord, of: impl Fn(&CostReport) -> StoredValue) -> StoredValue {
    query.report.cost.as_ref().map_or(StoredValue::Null, of)
}

/// Sums up what functions and the coordinator read ahead.
fn ahead(query: &QueryRecord) -> AheadUsage {
    let mut sum = query.report.functions.ahead;
    sum += query.report.coordinator.ahead;
    sum
}

fn end(attempt: &AttemptRecord, of: impl Fn(&AttemptEndRecord) -> StoredValue) -> StoredValue {
    attempt.ended.as_ref().map_or(StoredValue::Null, of)
}

/// Sums the GB-seconds of functions, starts included, without those that are only bounded.
fn gb_seconds(cost: &CostReport) -> f64 {
    let is_function = |item| matches!(item, Item::Compute { .. } | Item::StartUp { .. });
    let known = cost.lines.iter().filter(|line| is_function(line.item) && line.basis != Basis::Bounded);
    known.map(|line| line.quantity).sum()
}

const fn cause(cause: AttemptCause) -> &'static str {
    match cause {
        AttemptCause::First => "first",
        AttemptCause::Retry => "retry",
        AttemptCause::Speculative => "speculative",
    }
}

const fn basis(billing: Billing) -> Basis {
    match billing {
        Billing::Reported { .. } => Basis::Reported,
        Billing::Metered { .. } => Basis::Metered,
        Billing::Bounded { .. } => Basis::Bounded,
    }
}

/// Counts billed milliseconds. Each that has begun counts.
fn billed_ms(billing: Billing) -> u64 {
    let total = match billing {
        Billing::Reported { duration, .. } => duration,
        Billing::Metered { duration, init } => duration + init,
        Billing::Bounded { at_most } => at_most,
    };
    u64::try_from(total.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

const fn memory_mb(item: Item) -> Option<u32> {
    match item {
        Item::Compute { memory_mb } | Item::StartUp { memory_mb } => Some(memory_mb),
        _ => None,
    }
}

/// Returns an item's name as reports in JSON write it.
fn item(item: Item) -> Option<String> {
    serde_json::to_value(item).ok()?.get("item")?.as_str().map(str::to_owned)
}

/// Returns a variant's name as reports in JSON write it, without its content.
fn name_of(variant: &impl Serialize) -> Option<String> {
    match serde_json::to_value(variant).ok()? {
        serde_json::Value::String(name) => Some(name),
        serde_json::Value::Object(fields) => fields.keys().next().cloned(),
        _ => None,
    }
}

fn json(value: &impl Serialize) -> StoredValue {
    serde_json::to_string(value).ok().into()
}

impl From<&str> for StoredValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for StoredValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A number above 2^63 - 1, SQLite's greatest, becomes that. Nothing that is counted here comes near.
impl From<u64> for StoredValue {
    fn from(number: u64) -> Self {
        Self::Whole(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for StoredValue {
    fn from(number: u32) -> Self {
        Self::Whole(number.into())
    }
}

impl From<usize> for StoredValue {
    fn from(number: usize) -> Self {
        (number as u64).into()
    }
}

impl From<bool> for StoredValue {
    fn from(flag: bool) -> Self {
        Self::Whole(flag.into())
    }
}

impl From<Money> for StoredValue {
    fn from(amount: Money) -> Self {
        amount.nano_dollars().into()
    }
}

/// The number is in seconds.
impl From<Duration> for StoredValue {
    fn from(time: Duration) -> Self {
        Self::Real(time.as_secs_f64())
    }
}

impl<T: Into<Self>> From<Option<T>> for StoredValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
