//! `TABLESAMPLE BERNOULLI (p)` takes each row with a chance of p percent. The engine parses it and reads all rows.
//!
//! A sampled table is `(SELECT * FROM table WHERE random() < p / 100)`. SYSTEM is sampled by rows, too: the standard
//! leaves its choice to the implementation. Non-goals: a number of rows, and samples that can be repeated. Both are
//! refused.

use datafusion::sql::sqlparser::ast::{
    Expr, SetExpr, TableAlias, TableFactor, TableSample, TableSampleKind, TableSampleMethod, TableSampleQuantity,
    TableSampleUnit, Value,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::Refusal;

/// Writes a table that has a TABLESAMPLE as a subquery that filters the table's rows at random.
///
/// # Errors
/// A refusal of a sample that is no share of the rows.
pub(super) fn sample(factor: &mut TableFactor) -> Result<(), Refusal> {
    let (sample, alias, name) = match factor {
        TableFactor::Table { sample, alias, args, name, .. } => {
            let last = name.0.last().and_then(|part| part.as_ident()).cloned();
            (sample.take(), alias, last.filter(|_| args.is_none()))
        }
        TableFactor::Derived { sample, alias, .. } => (sample.take(), alias, None),
        _ => return Ok(()),
    };
    let Some(TableSampleKind::BeforeTableAlias(sample) | TableSampleKind::AfterTableAlias(sample)) = sample else {
        return Ok(());
    };
    let share = share_of(&sample)?;
    let outside =
        alias.take().or_else(|| name.map(|name| TableAlias { explicit: true, name, columns: Vec::new(), at: None }));
    let text = format!("SELECT * FROM sampled WHERE random() < {share}");
    let parsed = Parser::new(&GenericDialect {}).try_with_sql(&text).and_then(|mut parser| parser.parse_query());
    let mut subquery = parsed?;
    let SetExpr::Select(select) = subquery.body.as_mut() else { unreachable!("a SELECT, as written above") };
    let table = &mut select.from[0].relation;
    std::mem::swap(table, factor);
    *factor = TableFactor::Derived { lateral: false, subquery, alias: outside, sample: None };
    Ok(())
}

/// Returns the chance of a row, from 0 to 1.
fn share_of(sample: &TableSample) -> Result<f64, Refusal> {
    let refused = || {
        let hint = "give the share of the rows: TABLESAMPLE BERNOULLI (10); for a number of rows, use LIMIT";
        Err(Refusal::new(format!("{} is not supported", sample.to_string().trim()), hint))
    };
    let TableSample { name, quantity: Some(quantity), seed: None, bucket: None, offset: None, .. } = sample else {
        return refused();
    };
    let TableSampleQuantity { value: Expr::Value(value), unit, parenthesized: true } = quantity else {
        return refused();
    };
    let is_share = match name {
        Some(TableSampleMethod::Bernoulli | TableSampleMethod::System) => *unit != Some(TableSampleUnit::Rows),
        Some(_) => false,
        None => *unit == Some(TableSampleUnit::Percent),
    };
    match &value.value {
        Value::Number(percent, _) if is_share => match percent.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
            _ => Err(Refusal::new(format!("TABLESAMPLE: {percent} is no percentage"), "give a number from 0 to 100")),
        },
        _ => refused(),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use crate::sql::rewrites::MeaningRewriter;
    use crate::sql::{parsed, walk_mut};

    #[test]
    fn a_sampled_table_is_a_filtered_subquery() {
        for (text, expect) in [
            (
                "SELECT t.a FROM t TABLESAMPLE BERNOULLI (10)",
                "SELECT t.a FROM (SELECT * FROM t WHERE random() < 0.1) AS t",
            ),
            (
                "SELECT a FROM f(1) AS x TABLESAMPLE SYSTEM (0.5 PERCENT), u",
                "SELECT a FROM (SELECT * FROM f(1) WHERE random() < 0.005) AS x, u",
            ),
            (
                "SELECT a FROM (SELECT 1 AS a) x TABLESAMPLE (100 PERCENT)",
                "SELECT a FROM (SELECT * FROM (SELECT 1 AS a) WHERE random() < 1) x",
            ),
        ] {
            let mut statement = parsed(text);
            assert_eq!(walk_mut(&mut statement, &mut MeaningRewriter::default()), ControlFlow::Continue(()), "{text}");
            assert_eq!(statement.to_string(), expect);
        }
        for text in [
            "SELECT 1 FROM t TABLESAMPLE (10 ROWS)",
            "SELECT 1 FROM t TABLESAMPLE (10)",
            "SELECT 1 FROM t SAMPLE 10",
            "SELECT 1 FROM t TABLESAMPLE BERNOULLI (10) REPEATABLE (3)",
            "SELECT 1 FROM t TABLESAMPLE BERNOULLI (101)",
        ] {
            let ControlFlow::Break(refused) = walk_mut(&mut parsed(text), &mut MeaningRewriter::default()) else {
                panic!("{text}")
            };
            assert!(refused.message.contains("SAMPLE") && refused.hint.is_some(), "{refused:?}");
        }
    }
}
