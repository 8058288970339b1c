//! Names of the functions and catalogs that a session has, and the dialect in which it means them.

use std::collections::BTreeSet;

use datafusion::execution::SessionState;

/// Meaning of names that engines use for different things.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Meaning of `docs/dialect.md`: PostgreSQL's and DuckDB's where both have the name.
    #[default]
    Gust,
    /// Meaning of Trino and Athena.
    Trino,
}

impl Dialect {
    pub(crate) const ALL: [Self; 2] = [Self::Gust, Self::Trino];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gust => "gust",
            Self::Trino => "trino",
        }
    }
}

/// Functions of a session, by name and alias, and its catalogs.
pub(crate) struct Known<'a> {
    state: &'a SessionState,
    catalogs: Vec<String>,
    dialect: Dialect,
}

impl<'a> Known<'a> {
    pub(crate) fn of(state: &'a SessionState) -> Self {
        Self { state, catalogs: Vec::new(), dialect: Dialect::default() }
    }

    /// Sets the dialect.
    pub(crate) fn with_dialect(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Adds the names of all catalogs.
    pub(crate) fn with_catalogs(self, catalogs: Vec<String>) -> Self {
        Self { catalogs, ..self }
    }

    /// Lists the names of all catalogs.
    pub(super) fn catalogs(&self) -> &[String] {
        &self.catalogs
    }

    /// Tells if a function is one of single rows, and not of many.
    pub(super) fn is_scalar(&self, name: &str) -> bool {
        self.state.scalar_functions().contains_key(name)
    }

    /// Returns the engine's own name of a function; `name` may be an alias of it.
    pub(super) fn own_name(&self, name: &str) -> Option<&'a str> {
        let state = self.state;
        let scalar = state.scalar_functions().get(name).map(|function| function.name());
        let higher_order = || state.higher_order_functions().get(name).map(|function| function.name());
        let aggregate = || state.aggregate_functions().get(name).map(|function| function.name());
        let window = || state.window_functions().get(name).map(|function| function.name());
        scalar.or_else(higher_order).or_else(aggregate).or_else(window)
    }

    /// Lists all names and aliases but those of the engine's own rewrites, in their order.
    pub(super) fn names(&self) -> BTreeSet<&'a str> {
        let state = self.state;
        let scalar = state.scalar_functions().keys();
        let all = scalar.chain(state.higher_order_functions().keys());
        let all = all.chain(state.aggregate_functions().keys()).chain(state.window_functions().keys());
        all.map(String::as_str).filter(|name| !name.starts_with("gust_")).collect()
    }
}
