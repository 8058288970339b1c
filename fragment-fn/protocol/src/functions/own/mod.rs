//! Functions that DataFusion does not have, under the names and with the meaning that Trino gives them.
//!
//! ```text
//!  rows.rs    a function of single rows is a line in a table: name, arguments, result, body
//!  json       JSON in texts: paths, values, parts
//!  dates      parts of time added and counted, texts of MySQL's, Joda's and ISO's forms
//!  texts      split, regular expressions, URLs
//!  typed.rs   functions that are another one for each type: element_at, contains, typeof
//!   lists.rs   parts of lists: slice, arrays_overlap
//!   sequence   integers and times from one to another
//!  keyed.rs   aggregates of keys: histogram, map_agg, multimap_agg, mode
//!  unixtime   from_unixtime of a fraction
//!  checksum   an aggregate that compares tables
//!  lambdas    functions of lambdas: reduce, zip_with, map_filter, transform_values
//! ```
//!
//! NULL goes in and NULL comes out, unless a function says otherwise. Non-goals: names that only stand for another function.
//! The coordinator's `sql::foreign` writes those.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{AggregateUDF, ColumnarValue, HigherOrderUDF, ScalarUDF};

mod checksum;
mod dates;
mod json;
mod keyed;
mod lambdas;
mod lists;
mod rows;
mod sequence;
mod texts;
mod time_format;
mod typed;
mod unixtime;
mod widened;

/// Lists the scalar functions. They follow DataFusion's, whose aliases they may take.
pub(super) fn scalar() -> impl Iterator<Item = Arc<ScalarUDF>> {
    let tables = [json::TABLE, dates::TABLE, texts::TABLE];
    let of_rows = tables.into_iter().flatten().map(|row| ScalarUDF::from(rows::RowFunction::new(row)));
    of_rows.chain(typed::all()).map(Arc::new)
}

/// Names of functions that fail for some values of a row.
const TRIED: [&str; 12] = [
    "date_add",
    "date_diff",
    "date_parse",
    "element_at",
    "from_iso8601_date",
    "from_iso8601_timestamp",
    "json_extract",
    "json_extract_scalar",
    "json_parse",
    "parse_datetime",
    "regexp_extract",
    "url_decode",
];

/// Tells if a function has a form that is NULL where it fails: `gust_try_` and its name.
pub(super) fn is_tried(name: &str) -> bool {
    TRIED.contains(&name)
}

/// Lists these forms.
pub(super) fn tried() -> impl Iterator<Item = Arc<ScalarUDF>> {
    let rows = [json::TABLE, dates::TABLE, texts::TABLE].into_iter().flatten().filter(|row| is_tried(row.name));
    rows.map(|row| ScalarUDF::from(rows::RowFunction::tried(row))).chain(typed::tried()).map(Arc::new)
}

/// Lists the aggregate functions.
pub(super) fn aggregate() -> impl Iterator<Item = Arc<AggregateUDF>> {
    let keyed = keyed::all().map(AggregateUDF::from);
    keyed.chain([AggregateUDF::from(checksum::Checksum::default())]).map(Arc::new)
}

/// Lists the functions of lambdas.
pub(super) fn higher_order() -> impl Iterator<Item = Arc<HigherOrderUDF>> {
    lambdas::all().map(Arc::new)
}

/// Returns ours in place of a function of DataFusion's that knows fewer types.
pub(super) fn widened(stock: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match stock.name() {
        "from_unixtime" => Arc::new(ScalarUDF::from(unixtime::FromUnixtime::new(stock))),
        "contains" => Arc::new(ScalarUDF::from(typed::Contains::new(stock))),
        name => match widened::Other::of(name) {
            Some(other) => Arc::new(ScalarUDF::from(widened::Widened::new(stock, other))),
            None => stock,
        },
    }
}

/// Leaves the NULLs out of the first of two lists: a NULL is no element that both have.
pub(super) fn known_elements(mut lists: Vec<ColumnarValue>) -> Result<Vec<ColumnarValue>> {
    let Some(first) = lists.first_mut().filter(|list| typed::is_list(&list.data_type())) else { return Ok(lists) };
    *first = match &*first {
        ColumnarValue::Array(array) => ColumnarValue::Array(lists::without_nulls(array)?),
        ColumnarValue::Scalar(scalar) => {
            let array = lists::without_nulls(&scalar.to_array()?)?;
            ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)
        }
    };
    Ok(lists)
}

/// Doubles the dollars of a replacement, so that each stands for itself.
pub(super) fn with_plain_dollars(mut args: Vec<ColumnarValue>) -> Result<Vec<ColumnarValue>> {
    let Some(replacement) = args.get_mut(2) else { return Ok(args) };
    let doubled = |array: &ArrayRef| {
        let texts = cast(array, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>().iter().map(|text| text.map(|text| text.replace('$', "$$")));
        Ok::<ArrayRef, DataFusionError>(cast(&texts.collect::<StringArray>(), array.data_type())?)
    };
    *replacement = match &*replacement {
        ColumnarValue::Scalar(scalar) => match scalar.try_as_str() {
            Some(Some(text)) if text.contains('$') => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&doubled(&scalar.to_array()?)?, 0)?)
            }
            _ => return Ok(args),
        },
        ColumnarValue::Array(array) => ColumnarValue::Array(doubled(array)?),
    };
    Ok(args)
}
