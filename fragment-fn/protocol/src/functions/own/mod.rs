//! Functions that DataFusion does not have, under the names and with the meaning that Trino gives them.
//!
//! ```text
//!  rows.rs    a function of single rows is a line in a table: name, arguments, result, body
//!  json       JSON in texts: paths, values, parts
//!  dates      parts of time added and counted, texts of MySQL's, Joda's and ISO's forms
//!  texts      split, regular expressions, URLs
//!  typed.rs   functions that are another one for each type: element_at, contains, sequence, typeof
//!  keyed.rs   aggregates of keys: histogram, map_agg, multimap_agg, mode
//! ```
//!
//! NULL goes in and NULL comes out, unless a function says otherwise. Non-goals: names that only stand for another function.
//! The coordinator's `sql::foreign` writes those.

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

mod dates;
mod json;
mod keyed;
mod rows;
mod texts;
mod time_format;
mod typed;

/// Lists the scalar functions. They follow DataFusion's, whose aliases they may take.
pub(super) fn scalar() -> impl Iterator<Item = Arc<ScalarUDF>> {
    let tables = [json::TABLE, dates::TABLE, texts::TABLE];
    let of_rows = tables.into_iter().flatten().map(|row| ScalarUDF::from(rows::RowFunction::new(row)));
    of_rows.chain(typed::all()).map(Arc::new)
}

/// Lists the aggregate functions.
pub(super) fn aggregate() -> impl Iterator<Item = Arc<AggregateUDF>> {
    keyed::all().map(|function| Arc::new(AggregateUDF::from(function)))
}

/// Returns ours in place of a function of DataFusion's that knows fewer types.
pub(super) fn widened(stock: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match stock.name() {
        "contains" => Arc::new(ScalarUDF::from(typed::Contains::new(stock))),
        _ => stock,
    }
}
