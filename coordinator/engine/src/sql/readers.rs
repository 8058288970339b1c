//! Calls of DuckDB's readers: `read_csv('a.csv', header = true)` is the table of its path.
//!
//! An option that says what is done anyway is left out. Any other is refused with the statement that has it.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Statement, TableAlias, TableFactor, Value,
    ValueWithSpan, VisitorMut,
};

use super::Refusal;
use super::limits::folded_name;
use super::walk::walk_mut;

/// Readers, and the formats that they read.
const READERS: [(&str, &str); 8] = [
    ("read_parquet", "PARQUET"),
    ("parquet_scan", "PARQUET"),
    ("read_csv", "CSV"),
    ("read_csv_auto", "CSV"),
    ("read_json", "JSON"),
    ("read_json_auto", "JSON"),
    ("read_ndjson", "JSON"),
    ("read_ndjson_auto", "JSON"),
];

/// Option of a reader.
struct ReaderOption {
    name: &'static str,
    /// Value that is Gust's, too.
    usual: &'static str,
    /// Option of CREATE EXTERNAL TABLE with the same meaning; empty if there is none.
    declared: &'static str,
}

const fn option(name: &'static str, usual: &'static str, declared: &'static str) -> ReaderOption {
    ReaderOption { name, usual, declared }
}

const OPTIONS: &[ReaderOption] = &[
    option("header", "true", "format.has_header"),
    option("delim", ",", "format.delimiter"),
    option("sep", ",", "format.delimiter"),
    option("delimiter", ",", "format.delimiter"),
    option("quote", "\"", "format.quote"),
    option("escape", "\"", "format.escape"),
    option("comment", "", "format.comment"),
    option("auto_detect", "true", ""),
    option("hive_partitioning", "true", ""),
    option("union_by_name", "true", ""),
    option("ignore_errors", "false", ""),
    option("all_varchar", "false", ""),
];

const DECLARES: &str = "CREATE EXTERNAL TABLE declares columns and OPTIONS";

/// Writes the calls of a statement as the tables of their paths, where they are no others.
pub(super) fn write(statement: &mut Statement) {
    let ControlFlow::Continue(()) = walk_mut(statement, &mut Readers);
}

struct Readers;

impl VisitorMut for Readers {
    type Break = Infallible;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Infallible> {
        // A refusal leaves the call as it is.
        let _refused = as_path(factor).is_err();
        ControlFlow::Continue(())
    }
}

/// Writes a call of a reader as the path's table.
///
/// # Errors
/// A refusal of several paths, and of an option that changes how files are read.
pub(super) fn as_path(factor: &mut TableFactor) -> Result<(), Refusal> {
    let TableFactor::Table { name, alias, args: given @ Some(_), .. } = factor else { return Ok(()) };
    let [part] = name.0.as_slice() else { return Ok(()) };
    let Some(reader) = part.as_ident().map(folded_name) else { return Ok(()) };
    let Some((_, format)) = READERS.iter().find(|(name, _)| *name == reader) else { return Ok(()) };
    let arguments = given.as_ref().map_or(&[][..], |given| given.args.as_slice());
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(path)), options @ ..] = arguments else {
        return Err(Refusal::new(format!("{reader} without a path is not supported"), "FROM 'data/*.csv' names one"));
    };
    let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(path), .. }) = path else {
        let hint = "FROM 'data/*.csv' reads all that match; UNION ALL joins others";
        return Err(Refusal::new(format!("{reader} of anything but one path is not supported"), hint));
    };
    let mut declared = Vec::new();
    let mut refused = None;
    for given in options {
        let Some((name, value)) = named(given) else {
            return Err(Refusal::new(format!("{reader}: `{given}` is no option with a value"), DECLARES));
        };
        let known = OPTIONS.iter().find(|option| option.name == name);
        let is_usual =
            known.is_some_and(|known| value.as_deref().is_some_and(|value| value.eq_ignore_ascii_case(known.usual)));
        if !is_usual
            && let Some((ReaderOption { declared: option, .. }, value)) =
                known.filter(|known| !known.declared.is_empty()).zip(value)
        {
            declared.push(format!("'{option}' '{}'", value.replace('\'', "''")));
        }
        refused = refused.or_else(|| (!is_usual).then_some(name));
    }
    if let Some(option) = refused {
        let hint = match declared.is_empty() {
            true if option == "filename" => "\"$path\" in SELECT is the file of a row".to_owned(),
            true => DECLARES.to_owned(),
            false => format!(
                "CREATE EXTERNAL TABLE t STORED AS {format} LOCATION '{}' OPTIONS ({})",
                path.replace('\'', "''"),
                declared.join(", ")
            ),
        };
        return Err(Refusal::new(format!("{reader}: option `{option}` is not supported"), hint));
    }
    *name = ObjectName::from(Ident::with_quote('"', path.clone()));
    *given = None;
    alias.get_or_insert_with(|| TableAlias { explicit: true, name: Ident::new(reader), columns: Vec::new(), at: None });
    Ok(())
}

/// Returns the name of an option in small letters, and its value if that is written out.
fn named(given: &FunctionArg) -> Option<(String, Option<String>)> {
    let (name, value) = match given {
        FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => (name, value),
        FunctionArg::ExprNamed { name: Expr::Identifier(name), arg: FunctionArgExpr::Expr(value), .. } => (name, value),
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::BinaryOp { left, op: BinaryOperator::Eq, right })) => {
            let Expr::Identifier(name) = left.as_ref() else { return None };
            (name, right.as_ref())
        }
        _ => return None,
    };
    let value = match value {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text) | Value::Number(text, _), .. }) => {
            Some(text.clone())
        }
        Expr::Value(ValueWithSpan { value: Value::Boolean(value), .. }) => Some(value.to_string()),
        _ => None,
    };
    Some((name.value.to_lowercase(), value))
}
