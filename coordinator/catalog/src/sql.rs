//! A SQL catalog in a SQLite file, in the tables that every Iceberg implementation shares.
//!
//! The SQL is our own. iceberg's SQL catalog cannot read files from before the column
//! `iceberg_type`, and it moves a commit to a newer snapshot than the one it was made for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use crate::error::{Error, Result};
use crate::storage::CatalogStores;
use crate::table::Table;

const CONNECTIONS_MAX: u32 = 4;
/// Time that a statement waits for another process's lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);

const CREATE_TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS iceberg_tables (
        catalog_name VARCHAR(255) NOT NULL,
        table_namespace VARCHAR(255) NOT NULL,
        table_name VARCHAR(255) NOT NULL,
        metadata_location VARCHAR(1000),
        previous_metadata_location VARCHAR(1000),
        iceberg_type VARCHAR(5),
        PRIMARY KEY (catalog_name, table_namespace, table_name))",
    "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
        catalog_name VARCHAR(255) NOT NULL,
        namespace VARCHAR(255) NOT NULL,
        property_key VARCHAR(255) NOT NULL,
        property_value VARCHAR(1000) NOT NULL,
        PRIMARY KEY (catalog_name, namespace, property_key))",
];

/// Tables under one catalog name of a database. Namespaces are dotted: `a.b`.
#[derive(Debug, Clone)]
pub struct SqliteCatalog {
    name: String,
    warehouse: String,
    database: PathBuf,
    pool: SqlitePool,
    /// Condition that leaves out views. Empty for a database that cannot hold any.
    tables_only: &'static str,
    stores: CatalogStores,
}

impl SqliteCatalog {
    /// Opens the catalog `name` in an existing database. New tables go below `warehouse`.
    ///
    /// # Errors
    /// Not found, unreachable (no database, or not readable), invalid (not a catalog).
    pub(crate) async fn open(
        database: &Path,
        name: &str,
        warehouse: &str,
        stores: CatalogStores,
    ) -> Result<SqliteCatalog> {
        if !database.exists() {
            let database = database.display();
            let hint = Some("check the catalog's path in the configuration".to_string());
            return Err(Error::NotFound { what: format!("catalog database {database}"), hint });
        }
        SqliteCatalog::connect(database, name, warehouse, stores, false).await
    }

    /// Opens the catalog as `open` does, and creates the database and its tables where they are missing.
    pub(crate) async fn create(
        database: &Path,
        name: &str,
        warehouse: &str,
        stores: CatalogStores,
    ) -> Result<SqliteCatalog> {
        SqliteCatalog::connect(database, name, warehouse, stores, true).await
    }

    async fn connect(
        database: &Path,
        name: &str,
        warehouse: &str,
        stores: CatalogStores,
        create: bool,
    ) -> Result<SqliteCatalog> {
        let options = SqliteConnectOptions::new().filename(database).create_if_missing(create).busy_timeout(LOCK_WAIT);
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS_MAX);
        let failed = |error| Error::unreachable(database.display().to_string(), error);
        let mut catalog = SqliteCatalog {
            name: name.to_string(),
            warehouse: warehouse.trim_end_matches('/').to_string(),
            database: database.to_path_buf(),
            pool: pool.connect_with(options).await.map_err(failed)?,
            tables_only: "",
            stores,
        };
        if create {
            for statement in CREATE_TABLES {
                sqlx::query(statement).execute(&catalog.pool).await.map_err(failed)?;
            }
        }
        let columns = catalog.strings("SELECT name FROM pragma_table_info('iceberg_tables')", &[]).await?;
        if columns.is_empty() {
            return Err(Error::NotACatalog { database: database.display().to_string() });
        }
        if columns.iter().any(|column| column == "iceberg_type") {
            catalog.tables_only = " AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)";
        }
        Ok(catalog)
    }

    /// Makes the same catalog, whose tables are read through other stores.
    #[must_use]
    pub(crate) fn with_stores(&self, stores: CatalogStores) -> SqliteCatalog {
        SqliteCatalog { stores, ..self.clone() }
    }

    pub(crate) async fn namespaces(&self) -> Result<Vec<String>> {
        self.strings(
            "SELECT table_namespace FROM iceberg_tables WHERE catalog_name = ?
             UNION SELECT namespace FROM iceberg_namespace_properties WHERE catalog_name = ?
             ORDER BY 1",
            &[&self.name, &self.name],
        )
        .await
    }

    /// Lists the names of a namespace's tables. A namespace that does not exist has none.
    pub(crate) async fn tables(&self, namespace: &str) -> Result<Vec<String>> {
        let statement = format!(
            "SELECT table_name FROM iceberg_tables
             WHERE catalog_name = ? AND table_namespace = ?{} ORDER BY 1",
            self.tables_only
        );
        self.strings(&statement, &[&self.name, namespace]).await
    }

    /// Loads a table.
    ///
    /// # Errors
    /// Not found (with the names of the catalogs in the database, if this one has none), and those of
    /// `Table::open`.
    pub(crate) async fn load(&self, namespace: &str, name: &str) -> Result<Table> {
        let full_name = format!("{namespace}.{name}");
        match self.metadata_location(namespace, name).await? {
            Some(location) => {
                let table = Table::load(&full_name, &location, &self.stores).await?;
                Ok(table.register(namespace, name))
            }
            None => Err(Error::NotFound { what: format!("table {full_name}"), hint: self.other_catalogs().await? }),
        }
    }

    /// Creates a namespace.
    ///
    /// # Errors
    /// Exists already.
    pub(crate) async fn create_namespace(&self, namespace: &str) -> Result<()> {
        if self.namespaces().await?.iter().any(|name| name == namespace) {
            let what = format!("namespace {namespace}");
            return Err(Error::AlreadyExists { what });
        }
        let statement = "INSERT INTO iceberg_namespace_properties
             (catalog_name, namespace, property_key, property_value) VALUES (?, ?, 'exists', 'true')";
        self.execute(statement, &[&self.name, namespace]).await?;
        Ok(())
    }

    async fn metadata_location(&self, namespace: &str, name: &str) -> Result<Option<String>> {
        let statement = format!(
            "SELECT metadata_location FROM iceberg_tables
             WHERE catalog_name = ? AND table_namespace = ? AND table_name = ?{}",
            self.tables_only
        );
        let found = self.strings(&statement, &[&self.name, namespace, name]).await?;
        Ok(found.into_iter().next())
    }

    /// Enters a new table.
    ///
    /// # Errors
    /// Exists already.
    pub(crate) async fn insert(&self, namespace: &str, name: &str, metadata: &str) -> Result<()> {
        let (column, value) = match self.tables_only {
            "" => ("", ""),
            _ => (", iceberg_type", ", 'TABLE'"),
        };
        let statement = format!(
            "INSERT INTO iceberg_tables
             (catalog_name, table_namespace, table_name, metadata_location{column})
             VALUES (?, ?, ?, ?{value}) ON CONFLICT DO NOTHING"
        );
        let binds = [&self.name, namespace, name, metadata];
        match self.execute(&statement, &binds).await? {
            0 => Err(Error::AlreadyExists { what: format!("table {namespace}.{name}") }),
            _ => Ok(()),
        }
    }

    /// Moves a table from one version of its metadata to the next: the commit.
    ///
    /// # Errors
    /// Conflict (it is no longer at `from`, and nothing changed), commit unknown.
    pub(crate) async fn swap(&self, namespace: &str, name: &str, from: &str, to: &str) -> Result<()> {
        let statement = format!(
            "UPDATE iceberg_tables SET metadata_location = ?, previous_metadata_location = ?
             WHERE catalog_name = ? AND table_namespace = ? AND table_name = ?
             AND metadata_location = ?{}",
            self.tables_only
        );
        let binds = [to, from, &self.name, namespace, name, from];
        let table = || format!("{namespace}.{name}");
        match self.try_execute(&statement, &binds).await {
            Ok(0) => Err(Error::Conflict { table: table() }),
            Ok(_) => Ok(()),
            // SQLite itself refused (a lock, a full disk), and rolled the statement back.
            Err(error @ sqlx::Error::Database(_)) => Err(self.failed(error)),
            Err(error) => Err(Error::CommitUnknown { table: table(), source: error.into() }),
        }
    }

    pub(crate) fn warehouse(&self) -> &str {
        &self.warehouse
    }

    pub(crate) fn stores(&self) -> &CatalogStores {
        &self.stores
    }

    /// Lists the database's other catalogs: a wrong catalog name is the usual reason for finding nothing.
    async fn other_catalogs(&self) -> Result<Option<String>> {
        let names = self
            .strings(
                "SELECT catalog_name FROM iceberg_tables
                 UNION SELECT catalog_name FROM iceberg_namespace_properties ORDER BY 1",
                &[],
            )
            .await?;
        let (database, name) = (self.database.display(), &self.name);
        let known = names.is_empty() || names.contains(name);
        Ok((!known).then(|| {
            let names = names.join(", ");
            format!("{database} has no catalog {name}, only {names}")
        }))
    }

    async fn strings(&self, statement: &str, binds: &[&str]) -> Result<Vec<String>> {
        let mut query = sqlx::query(statement);
        for bind in binds {
            query = query.bind(*bind);
        }
        let rows = query.fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        rows.iter().map(|row| row.try_get(0).map_err(|error| self.failed(error))).collect()
    }

    async fn execute(&self, statement: &str, binds: &[&str]) -> Result<u64> {
        let done = self.try_execute(statement, binds).await;
        done.map_err(|error| self.failed(error))
    }

    async fn try_execute(&self, statement: &str, binds: &[&str]) -> Result<u64, sqlx::Error> {
        let mut query = sqlx::query(statement);
        for bind in binds {
            query = query.bind(*bind);
        }
        Ok(query.execute(&self.pool).await?.rows_affected())
    }

    fn failed(&self, error: sqlx::Error) -> Error {
        Error::unreachable(self.database.display().to_string(), error)
    }
}
