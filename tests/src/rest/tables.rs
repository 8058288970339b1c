//! Namespaces and tables of the server: a SQL catalog in SQLite, and metadata files in a folder or on S3.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use super::commit;

const CATALOG: &str = "rest";
const CREATE: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS iceberg_tables (catalog_name TEXT, table_namespace TEXT, table_name TEXT,
     metadata_location TEXT, previous_metadata_location TEXT, PRIMARY KEY (catalog_name, table_namespace, table_name))",
    "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (catalog_name TEXT, namespace TEXT, property_key TEXT,
     property_value TEXT, PRIMARY KEY (catalog_name, namespace, property_key))",
];

/// Place of tables and their metadata.
#[derive(Clone)]
pub struct Place {
    /// Location of the warehouse, `file:///…` or `s3://bucket/…`.
    pub warehouse: String,
    pub store: Arc<dyn ObjectStore>,
}

impl Place {
    /// Puts tables into a folder of this machine.
    pub fn folder(folder: &Path) -> Self {
        Self { warehouse: format!("file://{}", folder.display()), store: Arc::new(LocalFileSystem::new()) }
    }

    fn key(location: &str) -> anyhow::Result<Key> {
        let (_, rest) = location.split_once("://").context("a location has a scheme")?;
        // A file's path begins with a slash, a key behind the bucket.
        let (_, path) = rest.split_once('/').context("a location has a path")?;
        Ok(Key::parse(path)?)
    }

    async fn read(&self, location: &str) -> anyhow::Result<Value> {
        let bytes = self.store.get(&Self::key(location)?).await?.bytes().await?;
        Ok(match bytes.starts_with(&[0x1f, 0x8b]) {
            true => serde_json::from_reader(flate2::read::GzDecoder::new(&*bytes))?,
            false => serde_json::from_slice(&bytes)?,
        })
    }

    async fn write(&self, location: &str, json: &Value) -> anyhow::Result<()> {
        self.store.put(&Self::key(location)?, json.to_string().into_bytes().into()).await?;
        Ok(())
    }
}

/// Table with its metadata.
pub(super) struct FoundTable {
    pub(super) location: String,
    pub(super) metadata: Value,
}

pub(super) struct Tables {
    pool: SqlitePool,
    place: Place,
}

/// Key of a namespace: its levels, dotted. A dot in a level is escaped.
pub(super) fn key(levels: &[String]) -> String {
    levels.iter().map(|level| level.replace('%', "%25").replace('.', "%2E")).collect::<Vec<_>>().join(".")
}

fn levels(key: &str) -> Vec<String> {
    key.split('.').map(|level| level.replace("%2E", ".").replace("%25", "%")).collect()
}

impl Tables {
    pub(super) async fn open(database: &Path, place: Place) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new().filename(database).create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        for statement in CREATE {
            sqlx::query(statement).execute(&pool).await?;
        }
        Ok(Self { pool, place })
    }

    /// Lists all namespaces, sorted.
    pub(super) async fn namespaces(&self) -> anyhow::Result<Vec<Vec<String>>> {
        let rows = sqlx::query("SELECT DISTINCT namespace FROM iceberg_namespace_properties ORDER BY 1");
        let rows = rows.fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(levels(row.try_get(0)?))).collect()
    }

    pub(super) async fn has_namespace(&self, namespace: &[String]) -> anyhow::Result<bool> {
        Ok(self.namespaces().await?.iter().any(|known| known == namespace))
    }

    pub(super) async fn create_namespace(&self, namespace: &[String]) -> anyhow::Result<()> {
        // Parents are there, too.
        for length in 1..=namespace.len() {
            let statement = "INSERT OR IGNORE INTO iceberg_namespace_properties VALUES (?, ?, 'exists', 'true')";
            sqlx::query(statement).bind(CATALOG).bind(key(&namespace[..length])).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Lists the tables of a namespace, sorted.
    pub(super) async fn tables(&self, namespace: &[String]) -> anyhow::Result<Vec<String>> {
        let rows = sqlx::query("SELECT table_name FROM iceberg_tables WHERE table_namespace = ? ORDER BY 1");
        let rows = rows.bind(key(namespace)).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    pub(super) async fn table(&self, namespace: &[String], name: &str) -> anyhow::Result<Option<FoundTable>> {
        let row =
            sqlx::query("SELECT metadata_location FROM iceberg_tables WHERE table_namespace = ? AND table_name = ?");
        let row = row.bind(key(namespace)).bind(name).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let location: String = row.try_get(0)?;
        let metadata = self.place.read(&location).await?;
        Ok(Some(FoundTable { location, metadata }))
    }

    pub(super) async fn drop_table(&self, namespace: &[String], name: &str) -> anyhow::Result<bool> {
        let dropped = sqlx::query("DELETE FROM iceberg_tables WHERE table_namespace = ? AND table_name = ?");
        Ok(dropped.bind(key(namespace)).bind(name).execute(&self.pool).await?.rows_affected() == 1)
    }

    pub(super) async fn register(&self, tables: &[(Vec<String>, String, String)]) -> anyhow::Result<()> {
        let mut seen: Vec<&Vec<String>> = tables.iter().map(|(namespace, _, _)| namespace).collect();
        seen.sort();
        seen.dedup();
        for namespace in seen {
            self.create_namespace(namespace).await?;
        }
        let mut transaction = self.pool.begin().await?;
        for (namespace, name, location) in tables {
            let statement = "INSERT INTO iceberg_tables VALUES (?, ?, ?, ?, NULL)";
            let row = sqlx::query(statement).bind(CATALOG).bind(key(namespace)).bind(name).bind(location);
            row.execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    pub(super) async fn point(&self, namespace: &[String], name: &str, location: &str) -> anyhow::Result<()> {
        let statement = "UPDATE iceberg_tables SET metadata_location = ? WHERE table_namespace = ? AND table_name = ?";
        let pointed = sqlx::query(statement).bind(location).bind(key(namespace)).bind(name).execute(&self.pool).await?;
        ensure!(pointed.rows_affected() == 1, "there is no table {name}");
        Ok(())
    }

    /// Creates a table of a request's schema, spec and order.
    pub(super) async fn create(&self, namespace: &[String], request: &Value) -> anyhow::Result<FoundTable> {
        let name = request["name"].as_str().context("a table has a name")?;
        let folder = format!("{}/{}/{name}", self.place.warehouse, namespace.join("/"));
        let location = request["location"].as_str().map_or(folder, |told| told.trim_end_matches('/').to_owned());
        let metadata = commit::new_metadata(&location, request)?;
        if request["stage-create"].as_bool() == Some(true) {
            return Ok(FoundTable { location: String::new(), metadata });
        }
        let location = self.put(&metadata, 0).await?;
        self.register(&[(namespace.to_vec(), name.to_owned(), location.clone())]).await?;
        Ok(FoundTable { location, metadata })
    }

    /// Commits updates to a table. None is a conflict.
    pub(super) async fn commit(
        &self,
        namespace: &[String],
        name: &str,
        request: &Value,
    ) -> anyhow::Result<Option<FoundTable>> {
        let found = self.table(namespace, name).await?;
        let (before, mut metadata) = match found {
            Some(FoundTable { location, metadata }) => (Some(location), metadata),
            None => (None, json!({})),
        };
        let is_there = before.is_some();
        let requirements = request["requirements"].as_array().cloned().unwrap_or_default();
        if !requirements.iter().all(|wanted| commit::holds(wanted, &metadata, is_there)) {
            return Ok(None);
        }
        for update in request["updates"].as_array().context("a commit has updates")? {
            commit::apply(&mut metadata, update)?;
        }
        let version = before.as_deref().and_then(version_of).map_or(0, |version| version + 1);
        if let Some(before) = &before {
            commit::log(&mut metadata, before)?;
        }
        let location = self.put(&metadata, version).await?;
        match before {
            None => self.register(&[(namespace.to_vec(), name.to_owned(), location.clone())]).await?,
            Some(before) => {
                let swap = "UPDATE iceberg_tables SET metadata_location = ?, previous_metadata_location = ?
                     WHERE table_namespace = ? AND table_name = ? AND metadata_location = ?";
                let swap =
                    sqlx::query(swap).bind(&location).bind(&before).bind(key(namespace)).bind(name).bind(&before);
                if swap.execute(&self.pool).await?.rows_affected() == 0 {
                    return Ok(None);
                }
            }
        }
        Ok(Some(FoundTable { location, metadata }))
    }

    async fn put(&self, metadata: &Value, version: u64) -> anyhow::Result<String> {
        let Some(location) = metadata["location"].as_str() else { bail!("a table has a location") };
        let uuid = metadata["table-uuid"].as_str().context("a table has a UUID")?;
        ensure!(uuid.len() == 36, "{uuid} is no UUID");
        // The first four letters tell versions apart; names stay UUIDs.
        let unique = format!("{version:04x}{}", &uuid[4..]);
        let location = format!("{location}/metadata/{version:05}-{unique}.metadata.json");
        self.place.write(&location, metadata).await?;
        Ok(location)
    }
}

fn version_of(location: &str) -> Option<u64> {
    location.rsplit('/').next()?.split('-').next()?.parse().ok()
}
