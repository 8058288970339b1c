//! Names that mean something else in Trino, for sessions that ask for its meaning: `SET gust.dialect = 'trino'`.
//!
//! These rows come before the engine's own functions. Names whose meaning here is Trino's already are not in it. [`nulls_last`] writes
//! Trino's order of NULLs. Non-goals: the rules of types and of casts, which are the same in both dialects.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArgumentClause, FunctionArgumentList, FunctionArguments, NamedWindowDefinition,
    NamedWindowExpr, OrderByExpr, OrderByKind, OrderByOptions, Query, Select, Statement, Value, ValueWithSpan,
    VisitorMut, WindowType,
};

use super::chosen::{Call, Choice, bare, number, positional, text};
use super::names::Meaning::{Chosen, Written};
use super::names::{Row, by_name, row};
use crate::sql::Refusal;
use crate::sql::balance::paired;
use crate::sql::template::{filled, in_brackets, template};
use crate::sql::walk::walk_mut;

/// Names with Trino's meaning.
pub(super) static TRINO: &[Row] = &[
    row(&["regexp_replace"], 2..=2, Written("regexp_replace($1, $2, '', 'g')")),
    row(
        &["regexp_replace"],
        3..=3,
        Chosen { text: "`regexp_replace(a, b, c, 'g')`: all matches, and `$1` is a group", choose: regexp_replace },
    ),
    row(&["concat"], 2..=usize::MAX, Chosen { text: "`(a || b || ...)`: NULL where a text is", choose: concat }),
    row(
        &["greatest", "least"],
        2..=usize::MAX,
        Chosen { text: "NULL where an argument is", choose: unless_one_is_null },
    ),
    row(
        &["array_max"],
        1..=1,
        Written("CASE WHEN (array_sort($1, 'ASC', 'NULLS FIRST'))[1] IS NOT NULL THEN array_max($1) END"),
    ),
    row(
        &["array_min"],
        1..=1,
        Written("CASE WHEN (array_sort($1, 'ASC', 'NULLS FIRST'))[1] IS NOT NULL THEN array_min($1) END"),
    ),
    row(
        &["array_position"],
        2..=2,
        Written("CASE WHEN $1 IS NOT NULL AND $2 IS NOT NULL THEN coalesce(array_position($1, $2), 0) END"),
    ),
    row(&["md5"], 1..=1, Written("decode(md5($1), 'hex')")),
    row(&["repeat"], 2..=2, Written("array_repeat($1, $2)")),
];

/// Returns what a name is in Trino where that is something else; none where it is the same.
pub(super) fn trino(name: &str) -> &'static [&'static Row] {
    static ROWS: LazyLock<HashMap<&str, Vec<&Row>>> = LazyLock::new(|| by_name(TRINO));
    ROWS.get(name).map_or(&[], Vec::as_slice)
}

/// Writes NULLS LAST wherever an order does not say where its NULLs are. The engine has them first where the order falls.
pub(super) fn nulls_last(statement: &mut Statement) {
    let ControlFlow::Continue(()) = walk_mut(statement, &mut NullsLast);
}

struct NullsLast;

impl NullsLast {
    fn order(keys: &mut [OrderByExpr]) {
        keys.iter_mut().for_each(|key| Self::options(&mut key.options));
    }

    fn options(options: &mut OrderByOptions) {
        options.nulls_first.get_or_insert(false);
    }
}

impl VisitorMut for NullsLast {
    type Break = Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Infallible> {
        match query.order_by.as_mut().map(|order_by| &mut order_by.kind) {
            Some(OrderByKind::Expressions(keys)) => Self::order(keys),
            Some(OrderByKind::All(options)) => Self::options(options),
            None => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Infallible> {
        for NamedWindowDefinition(_, window) in &mut select.named_window {
            if let NamedWindowExpr::WindowSpec(window) = window {
                Self::order(&mut window.order_by);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        if let Some(WindowType::WindowSpec(window)) = &mut function.over {
            Self::order(&mut window.order_by);
        }
        Self::order(&mut function.within_group);
        if let FunctionArguments::List(list) = &mut function.args {
            for clause in &mut list.clauses {
                if let FunctionArgumentClause::OrderBy(keys) = clause {
                    Self::order(keys);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Writes a replacement of Trino's, in which `$1` is a group and a backslash makes the next sign a text.
fn regexp_replace(call: &Call<'_>) -> Result<Choice, Refusal> {
    call.without_clauses()?;
    let written = match bare(&call.arguments[2]) {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(written), .. }) => replacement_of(written),
        _ => None,
    };
    let Some(written) = written else {
        let hint = "a text with groups $0 to $9; SET gust.dialect = 'gust' has regexp_replace(a, b, c, 'g') with \\1";
        return Err(Refusal::new("a replacement like this is not supported in this dialect", hint));
    };
    let mut arguments = call.arguments.to_vec();
    arguments[2] = text(&written);
    arguments.push(text("g"));
    let list = FunctionArgumentList { args: positional(arguments), ..call.list.clone() };
    Ok(Choice::tree(Expr::Function(call.renamed("regexp_replace", list))))
}

/// Returns the replacement in the engine's words, where `\1` is a group. None for groups by name or of two digits, and for a
/// backslash before a digit.
fn replacement_of(written: &str) -> Option<String> {
    let (mut here, mut signs) = (String::new(), written.chars().peekable());
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => {
                let next = signs.next()?;
                here.push(next);
                if next == '\\' && signs.peek().is_some_and(char::is_ascii_digit) {
                    return None;
                }
            }
            '$' => {
                let group = signs.next_if(char::is_ascii_digit)?;
                if signs.peek().is_some_and(char::is_ascii_digit) {
                    return None;
                }
                here.extend(['\\', group]);
            }
            sign => here.push(sign),
        }
    }
    Some(here)
}

fn concat(call: &Call<'_>) -> Result<Choice, Refusal> {
    call.without_clauses()?;
    let parts = call.arguments.iter().cloned().map(in_brackets).collect();
    Ok(Choice::tree(in_brackets(paired(parts, |left, right| joined(left, BinaryOperator::StringConcat, right)))))
}

fn unless_one_is_null(call: &Call<'_>) -> Result<Choice, Refusal> {
    call.without_clauses()?;
    let known = call.arguments.iter().map(|argument| Expr::IsNotNull(Box::new(in_brackets(argument.clone()))));
    let known = paired(known.collect(), |left, right| joined(left, BinaryOperator::And, right));
    let itself = Expr::Function(call.function.clone());
    let tree = filled(template("CASE WHEN $1 THEN $2 END"), &[known, itself], None, call.at);
    Ok(Choice::Tree { tree: Box::new(tree), copied: call.arguments.to_vec(), times: 1 })
}

/// Returns what `substr(a, b)`, `substr(a, b, c)` and `substring(a FROM b FOR c)` are in Trino. None where it is the same.
pub(super) fn substring(expr: &Expr) -> Option<(&'static str, Vec<Expr>)> {
    let Expr::Substring { expr: of, substring_from: Some(from), substring_for, .. } = expr else { return None };
    let is_long = substring_for.as_ref().is_none_or(|length| number(length).is_some_and(|length| length >= 0.0));
    if is_long && number(from).is_some_and(|from| from >= 1.0) {
        return None;
    }
    let arguments = [of, from].into_iter().chain(substring_for).map(|argument| argument.as_ref().clone());
    let template = match substring_for {
        None => {
            "CASE WHEN $2 > 0 THEN substr($1, $2) WHEN $2 < 0 AND character_length($1) + $2 >= 0 \
             THEN substr($1, character_length($1) + $2 + 1) WHEN $1 IS NOT NULL AND $2 IS NOT NULL THEN '' END"
        }
        Some(_) => {
            "CASE WHEN $2 > 0 THEN substr($1, $2, greatest($3, 0)) WHEN $2 < 0 AND character_length($1) + $2 >= 0 \
             THEN substr($1, character_length($1) + $2 + 1, greatest($3, 0)) \
             WHEN $1 IS NOT NULL AND $2 IS NOT NULL AND $3 IS NOT NULL THEN '' END"
        }
    };
    Some((template, arguments.collect()))
}

fn joined(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_has_groups_and_dollars() {
        for (written, here) in [
            ("$1px", Some("\\1px")),
            ("$0-$9", Some("\\0-\\9")),
            ("\\$1", Some("$1")),
            ("\\\\x\\1", Some("\\x1")),
            ("plain", Some("plain")),
            ("$12", None),
            ("${name}", None),
            ("$", None),
            ("\\\\1", None),
            ("\\", None),
        ] {
            assert_eq!(replacement_of(written).as_deref(), here, "{written}");
        }
    }
}
