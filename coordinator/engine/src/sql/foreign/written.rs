//! Messages about a call, in the name that was written and not in the engine's.
//!
//! ```text
//!  year(id) ─► date_part('year', id) ─► date_part takes a date or a time as argument 2, and bigint is given
//!                                   ─► year takes a date or a time, and bigint is given
//! ```

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{Expr, Visitor};
use gust_protocol::functions::{aggregate_named, scalar_named};

use super::names::{self, Meaning};
use super::{name_of, trino};
use crate::sql::inner;
use crate::sql::walk::walk;

/// Words that the parser knows, and functions that the engine's planner makes of them.
const WORDS: [(&str, &str); 6] = [
    ("extract", "date_part"),
    ("position", "strpos"),
    ("substring", "substr"),
    ("trim", "btrim"),
    ("trim", "ltrim"),
    ("trim", "rtrim"),
];

/// Most names that a message has in place of one.
const NAMES_MAX: usize = 3;

/// Names of a statement's calls, before they are written as the engine's.
#[derive(Debug, Default)]
pub(crate) struct WrittenCalls(BTreeSet<String>);

/// Message and hint of an error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Retold {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl WrittenCalls {
    pub(crate) fn of(statement: &EngineStatement) -> Self {
        let mut calls = Self::default();
        if let Some(statement) = inner(statement) {
            let ControlFlow::Continue(()) = walk(statement, &mut calls);
        }
        calls
    }

    /// Tells a call by the names that it was written by. None for another message, or if the statement has the engine's name.
    pub(crate) fn retold(&self, message: &str, hint: Option<&str>) -> Option<Retold> {
        let end = message.find(" takes ").or_else(|| message.find(" does not take "))?;
        let (engines, rest) = message.split_at(end);
        if self.0.contains(engines) {
            return None;
        }
        let found: Vec<(&str, bool)> =
            self.0.iter().filter_map(|name| Some((name.as_str(), is_moved(name, engines)?))).collect();
        if found.is_empty() || found.len() > NAMES_MAX {
            return None;
        }
        let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
        let rest = match rest.split_once(" as argument ") {
            // The place is that of the engine's call.
            Some((before, behind)) if found.iter().any(|(_, is_moved)| *is_moved) => {
                format!("{before}{}", behind.trim_start_matches(|sign: char| sign.is_ascii_digit()))
            }
            _ => rest.to_owned(),
        };
        let hint = hint.map(|hint| hint.replace(&format!("LIKE '{engines}'"), &format!("LIKE '{}'", names[0])));
        Some(Retold { message: format!("{}{rest}", names.join(" or ")), hint })
    }
}

impl Visitor for WrittenCalls {
    type Break = Infallible;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
        let name = match expr {
            Expr::Function(function) => name_of(&function.name),
            Expr::Extract { .. } => "extract".to_owned(),
            Expr::Position { .. } => "position".to_owned(),
            Expr::Substring { shorthand, .. } => if *shorthand { "substr" } else { "substring" }.to_owned(),
            Expr::Trim { .. } => "trim".to_owned(),
            _ => return ControlFlow::Continue(()),
        };
        self.0.insert(name);
        ControlFlow::Continue(())
    }
}

/// Tells if the arguments of a call are at other places in the engine's function. None if the call is not written as that function.
fn is_moved(name: &str, engines: &str) -> Option<bool> {
    if WORDS.contains(&(name, engines)) {
        return Some(name == "extract");
    }
    let is_alias = scalar_named(name).is_some_and(|function| function.name() == engines)
        || aggregate_named(name).is_some_and(|function| function.name() == engines);
    if is_alias {
        return Some(false);
    }
    let rows = names::foreign(name).iter().chain(names::forms(name)).chain(trino::trino(name));
    rows.filter_map(|row| match row.meaning {
        Meaning::Renamed(to) => (to == engines).then_some(false),
        Meaning::Written(text) | Meaning::Aggregated { text, .. } | Meaning::Chosen { text, .. } => {
            calls(text, engines).then_some(true)
        }
        Meaning::Refused(_) => None,
    })
    .next()
}

/// Tells if a text has a call of a function.
fn calls(text: &str, function: &str) -> bool {
    text.match_indices(&format!("{function}(")).any(|(place, _)| {
        let before = text[..place].chars().next_back();
        before.is_none_or(|sign| !sign.is_alphanumeric() && sign != '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parsed;

    #[test]
    fn a_message_has_the_name_that_was_written() {
        const TIME: &str = "date_part takes a date or a time as argument 2, and bigint is given";
        let lists = |name: &str| format!("SHOW FUNCTIONS LIKE '{name}' has its arguments");
        for (sql, engines, expect, hint) in [
            ("year(a)", TIME, Some("year takes a date or a time, and bigint is given"), "date_part"),
            ("year(a), MONTH(b)", TIME, Some("month or year takes a date or a time, and bigint is given"), "date_part"),
            ("extract(day FROM a)", TIME, Some("extract takes a date or a time, and bigint is given"), "date_part"),
            ("to_unixtime(a)", TIME, Some("to_unixtime takes a date or a time, and bigint is given"), "date_part"),
            ("year(a), date_part('year', a)", TIME, None, "date_part"),
            ("upper(a)", TIME, None, "date_part"),
            (
                "trim(a)",
                "btrim takes a text, and bigint is given",
                Some("trim takes a text, and bigint is given"),
                "btrim",
            ),
            (
                "substring(a FROM 1)",
                "substr takes a text as argument 1, and date is given",
                Some("substring takes a text as argument 1, and date is given"),
                "substr",
            ),
            (
                "ucase(a)",
                "upper takes a text, and bigint is given",
                Some("ucase takes a text, and bigint is given"),
                "upper",
            ),
            (
                "mean(a)",
                "avg takes a number, and varchar is given",
                Some("mean takes a number, and varchar is given"),
                "avg",
            ),
            (
                "approx_percentile(a, 0.5)",
                "approx_percentile_cont takes a number as argument 1, and varchar is given",
                Some("approx_percentile takes a number, and varchar is given"),
                "approx_percentile_cont",
            ),
            ("year(a)", "a message that takes no function", None, "date_part"),
        ] {
            let calls =
                WrittenCalls::of(&EngineStatement::Statement(Box::new(parsed(&format!("SELECT {sql} FROM t")))));
            let told = calls.retold(engines, Some(&lists(hint)));
            assert_eq!(told.as_ref().map(|told| told.message.as_str()), expect, "{sql}");
            assert!(
                told.is_none_or(|told| told.hint.is_some_and(|told| !told.contains(&format!("'{hint}'")))),
                "{sql}"
            );
        }
    }
}
