//! UNNEST of a map into its keys and values: `UNNEST(m) AS u(k, v)` is `UNNEST(map_keys(m), map_values(m)) AS u(k, v)`.
//!
//! The text does not tell a map from a list. A statement that the planner has refused for its UNNEST comes here, with two
//! columns for one argument; with three where WITH ORDINALITY has added its numbers ([`super::syntax`]).

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{Expr, Spanned, TableFactor, VisitorMut};

use super::inner_mut;
use super::template::{filled, template};
use super::walk::walk_mut;

/// Returns the statement with such maps as lists; None if it has none.
pub(crate) fn as_lists(statement: &EngineStatement) -> Option<EngineStatement> {
    let mut written = statement.clone();
    let mut maps = Maps { is_any_written: false };
    let ControlFlow::Continue(()) = walk_mut(inner_mut(&mut written)?, &mut maps);
    maps.is_any_written.then_some(written)
}

struct Maps {
    is_any_written: bool,
}

impl VisitorMut for Maps {
    type Break = Infallible;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Infallible> {
        let TableFactor::UNNEST { alias: Some(alias), array_exprs, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let numbered =
            |numbers: &Expr| matches!(numbers, Expr::Function(call) if call.name.to_string() == "generate_series");
        let templates: &[&'static str] = match (array_exprs.as_slice(), alias.columns.len()) {
            ([_], 2) => &["map_keys($1)", "map_values($1)"],
            ([_, numbers], 3) if numbered(numbers) => {
                &["map_keys($1)", "map_values($1)", "generate_series(1, CAST(cardinality($1) AS BIGINT))"]
            }
            _ => return ControlFlow::Continue(()),
        };
        let map = array_exprs[..1].to_vec();
        *array_exprs = templates.iter().map(|text| filled(template(text), &map, None, map[0].span())).collect();
        self.is_any_written = true;
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parsed;

    #[test]
    fn two_columns_of_one_argument_are_keys_and_values() {
        let written = |text: &str| {
            as_lists(&EngineStatement::Statement(Box::new(parsed(text)))).map(|statement| statement.to_string())
        };
        assert_eq!(
            written("SELECT k FROM t CROSS JOIN UNNEST(t.m) AS u(k, v)").as_deref(),
            Some("SELECT k FROM t CROSS JOIN UNNEST(map_keys(t.m), map_values(t.m)) AS u (k, v)")
        );
        assert_eq!(
            written("SELECT k FROM t, UNNEST(m, generate_series(1, array_length(m))) u(k, v, n)").as_deref(),
            Some(
                "SELECT k FROM t, UNNEST(map_keys(m), map_values(m), generate_series(1, CAST(cardinality(m) AS BIGINT))) u (k, v, n)"
            )
        );
        for text in ["SELECT x FROM UNNEST(a) AS u(x)", "SELECT x FROM UNNEST(a, b) AS u(x, y)", "SELECT unnest(m)"] {
            assert_eq!(written(text), None, "{text}");
        }
    }
}
