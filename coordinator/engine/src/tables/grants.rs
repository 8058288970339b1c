//! Grants of one user: the tables and paths that exist for the user, where a server has grants.
//!
//! ```text
//!  name ─▶ catalog ─▶ namespace ─▶ a granted table? ─▶ it is loaded, and its metadata says what is read
//!  path ─▶ below a granted path? ─▶ below the reach? ─▶ its files are listed, and each is below a granted path
//!                │ no
//!                └──▶ as if it were not there
//! ```
//!
//! [`Catalogs`](super::catalogs::Catalogs) asks for each name and each listing, and the session for tables of the set-up. Locations ask for each path. The stores ask nothing:
//! they hold the reach of all queries, within which a table's metadata names its files.

use datafusion::common::Result;
use gust_catalog::Location;
use object_store::path::Path;

use crate::config::{GrantConfig, TablePattern};
use crate::error::QueryError;
use crate::storage::Reach;

/// Next step after a path that is not granted.
const HINT: &str = "use a table that SHOW TABLES lists, or have the place added to `paths` of a grant";

/// Tables and paths of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableGrants {
    /// Name for the log.
    user: String,
    tables: Vec<TablePattern>,
    paths: Reach,
}

impl TableGrants {
    /// Adds the grants of a user up.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] for a path that is no place.
    pub fn new<'a>(
        user: &str,
        grants: impl IntoIterator<Item = &'a GrantConfig>,
    ) -> std::result::Result<Self, QueryError> {
        let grants: Vec<&GrantConfig> = grants.into_iter().collect();
        let tables = grants.iter().flat_map(|grant| &grant.tables).cloned().collect();
        let paths = Reach::of(grants.iter().flat_map(|grant| &grant.paths).map(String::as_str))?;
        Ok(Self { user: user.to_owned(), tables, paths })
    }

    /// Tells if the user may read a table.
    pub fn give(&self, catalog: &str, namespace: &str, table: &str) -> bool {
        self.tables.iter().any(|pattern| pattern.has(catalog, namespace, table))
    }

    /// Tells if a namespace exists for the user: some table of it may be granted.
    pub fn show_namespace(&self, catalog: &str, namespace: &str) -> bool {
        self.tables.iter().any(|pattern| pattern.has_some_of(catalog, namespace))
    }

    /// Tells if a catalog exists for the user.
    pub fn show_catalog(&self, catalog: &str) -> bool {
        self.tables.iter().any(|pattern| pattern.has_some_in(catalog))
    }

    /// Returns the places that the user's statements may name.
    pub fn paths(&self) -> &Reach {
        &self.paths
    }

    /// Checks the text of a path, before anything is asked about it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] if it can only be a place that is not granted.
    pub fn check_text(&self, text: &str) -> std::result::Result<(), QueryError> {
        self.paths.check_text(text).map_err(|refused| self.refused(refused))
    }

    /// Checks a key, or a prefix of keys, of the store of a URL.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] if it is not granted.
    pub fn check(&self, store: &str, key: &Path) -> std::result::Result<(), QueryError> {
        self.paths.check(store, key).map_err(|refused| self.refused(refused))
    }

    /// Checks the location of a table that a statement names.
    ///
    /// # Errors
    /// Those of [`Self::check`], and a location that is none.
    pub fn check_location(&self, location: &str) -> Result<()> {
        self.check_text(location)?;
        let place = Location::parse(location).map_err(|error| QueryError::sql(error.to_string()))?;
        Ok(self.check(place.store.as_str(), &place.path)?)
    }

    /// Returns the refusal of an Iceberg table by its place: its metadata may name files of any table.
    pub fn refused_iceberg(&self) -> QueryError {
        tracing::warn!(user = ?self.user, "no grant gives an Iceberg table by its place");
        QueryError::sql(
            "where tables are granted, an Iceberg table has no LOCATION: its metadata may name files that are not",
        )
        .with_hint("name it by its catalog, or ask for a grant of it")
    }

    /// Tells the log of a table that a statement named and no grant gives.
    pub fn note(&self, catalog: &str, namespace: &str, table: &str) {
        let table = format!("{catalog}.{namespace}.{table}");
        tracing::warn!(user = ?self.user, ?table, "no grant gives this table");
    }

    /// Tells the log of a path, whether it exists or not.
    fn refused(&self, refused: QueryError) -> QueryError {
        tracing::warn!(user = ?self.user, refused = ?refused.message(), "no grant gives this path");
        refused.with_hint(HINT)
    }
}
