//! The seam between catalogs: a file of SQLite, or a service that speaks Iceberg's REST protocol.

use std::path::Path;

use futures::future::BoxFuture;

use crate::error::{Error, Result};
use crate::rest::{RestCatalog, RestSettings};
use crate::room::NamesRoom;
use crate::scan::DataFile;
use crate::sql::SqliteCatalog;
use crate::storage::CatalogStores;
use crate::table::Table;
use crate::types::{PartitionField, Schema, SortField};

/// Tables by name. Namespaces are dotted: `a.b` is the namespace `b` in `a`. Clones share connections.
#[derive(Debug, Clone)]
pub enum Catalog {
    /// Tables under one catalog name of an SQLite file.
    Sqlite(SqliteCatalog),
    /// Tables of a service. They are read only.
    Rest(RestCatalog),
}

impl Catalog {
    /// Opens the catalog `name` in an existing database. New tables go below `warehouse`.
    ///
    /// # Errors
    /// Not found, unreachable (no database, or not readable), invalid (not a catalog).
    pub fn sqlite<'a>(
        database: &'a Path,
        name: &'a str,
        warehouse: &'a str,
        stores: CatalogStores,
    ) -> BoxFuture<'a, Result<Catalog>> {
        Box::pin(async move { Ok(Catalog::Sqlite(SqliteCatalog::open(database, name, warehouse, stores).await?)) })
    }

    /// Opens the catalog as `sqlite` does, and creates the database and its tables where they are missing.
    ///
    /// # Errors
    /// Unreachable, invalid.
    pub async fn create_sqlite(database: &Path, name: &str, warehouse: &str, stores: CatalogStores) -> Result<Catalog> {
        Ok(Catalog::Sqlite(SqliteCatalog::create(database, name, warehouse, stores).await?))
    }

    /// Makes the client of a REST catalog. It sends no request before it is asked something.
    ///
    /// # Errors
    /// Invalid: settings that make no client.
    pub fn rest(settings: RestSettings, stores: CatalogStores) -> Result<Catalog> {
        Ok(Catalog::Rest(RestCatalog::new(settings, stores)?))
    }

    /// Makes the same catalog, whose tables are read through other stores.
    #[must_use]
    pub fn with_stores(&self, stores: CatalogStores) -> Catalog {
        match self {
            Catalog::Sqlite(catalog) => Catalog::Sqlite(catalog.with_stores(stores)),
            Catalog::Rest(catalog) => Catalog::Rest(catalog.with_stores(stores)),
        }
    }

    /// Lists all namespaces, those in other namespaces too.
    ///
    /// # Errors
    /// Those of reaching the catalog.
    pub async fn namespaces(&self) -> Result<Vec<String>> {
        self.namespaces_within(&NamesRoom::default()).await
    }

    /// Lists all namespaces as [`Self::namespaces`] does, within the room that a larger listing has left.
    ///
    /// # Errors
    /// Those of reaching the catalog; invalid: too many names.
    pub fn namespaces_within<'a>(&'a self, room: &'a NamesRoom) -> BoxFuture<'a, Result<Vec<String>>> {
        Box::pin(async move {
            match self {
                Catalog::Sqlite(catalog) => counted(catalog.namespaces().await?, room),
                Catalog::Rest(catalog) => catalog.namespaces(room).await,
            }
        })
    }

    /// Lists the namespaces that a first answer of the catalog has: those in other namespaces may be missing.
    ///
    /// # Errors
    /// Those of reaching the catalog.
    pub fn first_namespaces(&self) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(async move {
            match self {
                Catalog::Sqlite(catalog) => catalog.namespaces().await,
                Catalog::Rest(catalog) => catalog.top_namespaces().await,
            }
        })
    }

    /// Returns the seconds by which a service's clock is ahead of ours, by its last answer. None for a file.
    pub fn clock_skew_seconds(&self) -> Option<i64> {
        match self {
            Catalog::Sqlite(_) => None,
            Catalog::Rest(catalog) => catalog.skew_seconds(),
        }
    }

    /// Tells if there is such a namespace.
    ///
    /// # Errors
    /// Those of reaching the catalog.
    pub fn has_namespace<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            match self {
                Catalog::Sqlite(catalog) => Ok(catalog.namespaces().await?.iter().any(|known| known == namespace)),
                Catalog::Rest(catalog) => catalog.has_namespace(namespace).await,
            }
        })
    }

    /// Lists the names of a namespace's tables, and loads none. A namespace that does not exist has none.
    ///
    /// # Errors
    /// Those of reaching the catalog.
    pub async fn tables(&self, namespace: &str) -> Result<Vec<String>> {
        self.tables_within(namespace, &NamesRoom::default()).await
    }

    /// Lists the tables of a namespace as [`Self::tables`] does, within the room that a larger listing has left.
    ///
    /// # Errors
    /// Those of reaching the catalog; invalid: too many names.
    pub fn tables_within<'a>(&'a self, namespace: &'a str, room: &'a NamesRoom) -> BoxFuture<'a, Result<Vec<String>>> {
        Box::pin(async move {
            match self {
                Catalog::Sqlite(catalog) => counted(catalog.tables(namespace).await?, room),
                Catalog::Rest(catalog) => catalog.tables(namespace, room).await,
            }
        })
    }

    /// Loads a table.
    ///
    /// # Errors
    /// Not found, those of reaching the catalog, and those of a table's metadata.
    pub fn load<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Table>> {
        Box::pin(async move {
            match self {
                Catalog::Sqlite(catalog) => catalog.load(namespace, name).await,
                Catalog::Rest(catalog) => catalog.load(namespace, name).await,
            }
        })
    }

    /// Creates a namespace.
    ///
    /// # Errors
    /// Exists already; read only.
    pub async fn create_namespace(&self, namespace: &str) -> Result<()> {
        self.written()?.create_namespace(namespace).await
    }

    /// Creates an empty table in format version 2, below the warehouse. The namespace need not exist.
    /// Field ids need only be unique: the table assigns its own, found in its `schema()`.
    ///
    /// # Errors
    /// Exists already, invalid (a bad schema, an unknown column, a transform that does not take the
    /// column's type), unreachable; read only.
    pub async fn create_table(
        &self,
        namespace: &str,
        name: &str,
        schema: &Schema,
        partition: &[PartitionField],
        sort: &[SortField],
    ) -> Result<Table> {
        self.written()?.create_table(namespace, name, schema, partition, sort).await
    }

    /// Commits the files as one snapshot on top of the table's, and returns the table at it.
    /// Partition values are given by name, and all of `partition_fields()` are needed.
    ///
    /// # Errors
    /// Conflict, commit unknown, invalid (a value that does not fit its column), unreachable; read only.
    pub async fn append(&self, table: &Table, files: &[DataFile]) -> Result<Table> {
        self.written()?.append(table, files).await
    }

    /// Returns the catalog that can be written.
    fn written(&self) -> Result<&SqliteCatalog> {
        match self {
            Catalog::Sqlite(catalog) => Ok(catalog),
            Catalog::Rest(catalog) => {
                Err(Error::Invalid(format!("catalog {} is a REST catalog, which is only read", catalog.name())))
            }
        }
    }
}

fn counted(names: Vec<String>, room: &NamesRoom) -> Result<Vec<String>> {
    room.take(names.len())?;
    Ok(names)
}
