//! Names of queries in WITH, as a walk over a statement comes to know them.

use datafusion::sql::sqlparser::ast::{ObjectName, Query};

use super::limits::folded_name;

/// Queries in WITH, by whose names tables are hidden: from those behind them, and from the query that has the clause.
#[derive(Default)]
pub(super) struct WithScopes(Vec<WithScope>);

struct WithScope {
    names: Vec<String>,
    /// Number of these queries that the walk has left.
    passed: usize,
    is_recursive: bool,
}

impl WithScopes {
    pub(super) fn enter(&mut self, query: &Query) {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        let names = named.map(|cte| folded_name(&cte.alias.name)).collect();
        let is_recursive = query.with.as_ref().is_some_and(|with| with.recursive);
        self.0.push(WithScope { names, passed: 0, is_recursive });
    }

    /// Leaves a query. The walk comes through the queries of a WITH clause before all others of its query.
    pub(super) fn leave(&mut self) {
        self.0.pop();
        if let Some(around) = self.0.last_mut() {
            around.passed = (around.passed + 1).min(around.names.len());
        }
    }

    /// Tells if a query in WITH has this name.
    pub(super) fn hides(&self, name: &ObjectName) -> bool {
        let [part] = name.0.as_slice() else { return false };
        let Some(name) = part.as_ident().map(folded_name) else { return false };
        self.0.iter().any(|WithScope { names, passed, is_recursive }| {
            let known = names.iter().take(passed + usize::from(*is_recursive));
            known.into_iter().any(|known| *known == name)
        })
    }
}
