//! Catalogs that speak Iceberg's REST protocol: names, tokens, faults, lent credentials. The server is the harness's own.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
use arrow::util::display::array_value_to_string;
use gust_catalog::{
    Catalog, CatalogStores, DataFile, Field, Grants, NamesRoom, RestAuth, RestSettings, Schema, Table, Type,
};
use gust_engine::config::{CatalogConfig, Config, ConfigFile, Overrides, Target};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::session::{Engine, EngineOptions, Session, SessionOptions};
use gust_engine::storage::Reach;
use gust_tests::cloud;
use gust_tests::parquet_files;
use gust_tests::python::{self, Run};
use gust_tests::query::{assert_remote, run};
use gust_tests::rest::{Access, Asked, Fault, Lending, Place, RestServer, Rules};
use gust_tests::s3::{ACCESS_KEY_ID, Request, S3Server, SECRET_ACCESS_KEY};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

mod access;
mod lent;
mod names;
mod secrets;
mod statistics;
mod suites;
mod versions;

const FILES: i64 = 3;
const ROWS: i64 = 100;
/// Tables by namespace and name. Ids of the n-th begin at 1,000 n.
const TABLES: &[(&[&str], &str)] = &[
    (&["sales"], "orders"),
    (&["sales"], "customers"),
    (&["sales", "eu"], "orders"),
    (&["sales", "eu", "north"], "orders"),
    (&["Ünï \"q\" %2F/"], "t t"),
    (&["dotted.name"], "t"),
];

/// A REST catalog with tables on S3, and a SQLite catalog of the same tables.
struct Lake {
    s3: S3Server,
    server: RestServer,
    folder: TempDir,
    /// Location of the first table's metadata.
    metadata: String,
}

impl Lake {
    async fn new(rules: Rules) -> Self {
        let s3 = S3Server::start().expect("a server");
        let folder = TempDir::new().expect("a temporary folder");
        let store = s3.store().expect("a client");
        let place = Place { warehouse: s3.url("lake"), store: Arc::clone(&store) };
        let server = RestServer::start(folder.path(), place, rules).expect("a server");
        let stores = {
            let store = Arc::clone(&store);
            CatalogStores::new(move |_| Ok(Arc::clone(&store)))
        };
        let database = folder.path().join("own.db");
        let catalog = Catalog::create_sqlite(&database, "own", &s3.url("lake"), stores).await.expect("a catalog");
        let mut registered = Vec::new();
        for (number, (namespace, name)) in TABLES.iter().enumerate() {
            let namespace: Vec<String> = namespace.iter().map(|level| (*level).to_owned()).collect();
            let own = (format!("n{number}"), format!("t{number}"));
            let location = table(&catalog, &own, number as i64 * 1000, store.as_ref()).await;
            registered.push((namespace, (*name).to_owned(), location));
        }
        server.register(&registered).await.expect("registered");
        let metadata = registered[0].2.clone();
        Self { s3, server, folder, metadata }
    }

    /// Opens a session whose catalog `lake` is set up by these keys.
    fn session(&self, on: Target, keys: &str) -> Session {
        let text = format!(
            "[catalogs.lake]\ntype = 'rest'\nuri = '{}'\nallow_http = true\n{keys}\n\
             [catalogs.own]\ntype = 'sqlite'\npath = 'own.db'\nwarehouse = '{}'\n",
            self.server.endpoint(),
            self.s3.url("lake")
        );
        let file = ConfigFile { path: self.folder.path().join("gust.toml"), text };
        let overrides = Overrides { on: Some(on), functions_max: Some(2), ..Overrides::default() };
        let mut config = Config::load(Some(&file), [], &overrides).unwrap_or_else(|error| panic!("{error}"));
        config.exchange = Some(self.s3.url("exchange"));
        let config = cloud::config(&self.s3, config, env!("CARGO_BIN_EXE_bootstrap_under_test").as_ref());
        Session::new(config).expect("a session")
    }

    /// Opens the same session with keys for nothing: tables are read with lent ones, or not at all.
    fn without_own_keys(&self, on: Target, keys: &str) -> Session {
        let session = self.session(on, keys);
        let mut config = session.config().clone();
        config.s3.access_key_id = Some(self.s3.lent().lend(ACCESS_KEY_ID, &self.s3.url("nothing"), far()));
        config.exchange = Some(self.folder.path().join("exchange").display().to_string());
        Session::new(config).expect("a session")
    }
}

fn far() -> std::time::SystemTime {
    std::time::SystemTime::now() + Duration::from_secs(3600)
}

/// Writes a table of [`FILES`] files, and returns the location of its metadata.
async fn table(catalog: &Catalog, (namespace, name): &(String, String), first: i64, store: &dyn ObjectStore) -> String {
    let fields = [("id", Type::Long), ("name", Type::String)].into_iter().zip(1..).map(|((name, ty), id)| Field {
        id,
        name: name.to_owned(),
        required: false,
        ty,
        initial_default: None,
    });
    let schema = Schema { fields: fields.collect() };
    let table = catalog.create_table(namespace, name, &schema, &[], &[]).await.expect("a table");
    let mut files = Vec::new();
    for file in 0..FILES {
        files.push(data_file(&table, file, first, store).await);
    }
    let table = catalog.append(&table, &files).await.expect("appended");
    table.metadata_location().to_owned()
}

/// Writes the file of this number of a table whose ids begin at `first`.
async fn data_file(table: &Table, file: i64, first: i64, store: &dyn ObjectStore) -> DataFile {
    let arrow = [("id", DataType::Int64), ("name", DataType::Utf8)].into_iter().zip(1..).map(|((name, ty), id)| {
        let id = HashMap::from([("PARQUET:field_id".to_owned(), id.to_string())]);
        ArrowField::new(name, ty, true).with_metadata(id)
    });
    let arrow = Arc::new(ArrowSchema::new(arrow.collect::<Vec<_>>()));
    let ids = Int64Array::from_iter_values(first + file * ROWS..first + (file + 1) * ROWS);
    let names = StringArray::from_iter_values(ids.values().iter().map(|id| format!("row {id}")));
    let rows = RecordBatch::try_new(arrow, vec![Arc::new(ids), Arc::new(names)]).expect("rows");
    let bytes = parquet_files::file(&[rows], WriterProperties::builder().build());
    let path = format!("{}/data/{file}.parquet", table.location());
    let (_, key) = path.trim_start_matches("s3://").split_once('/').expect("a key");
    let size_bytes = bytes.len() as u64;
    store.put(&Key::from(key), bytes.into()).await.expect("put");
    DataFile { path, size_bytes, record_count: ROWS as u64, ..DataFile::default() }
}

/// Returns the rows as texts, with `|` between columns.
async fn rows(session: &Session, sql: &str) -> Vec<String> {
    let (rows, _) = run(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    texts(&rows)
}

fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let row = |batch: &RecordBatch, row: usize| {
        let cells = batch.columns().iter().map(|column| array_value_to_string(column, row).expect("a text"));
        cells.collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |number| row(batch, number))).collect()
}

async fn failure(session: &Session, sql: &str) -> QueryError {
    run(session, sql).await.map(drop).expect_err(sql)
}

/// Counts the requests for tables' metadata.
fn loads(asked: &[Asked]) -> usize {
    let is_load = |asked: &&Asked| asked.path.contains("/tables/") && !asked.path.ends_with("/credentials");
    asked.iter().filter(is_load).count()
}

fn oauth2(life: Duration) -> Rules {
    let (client_id, client_secret) = ("gust".to_owned(), "client-secret".to_owned());
    Rules {
        access: Access::OAuth2 { client_id, client_secret, life },
        prefix: "my/prefix".to_owned(),
        ..Rules::default()
    }
}

const OAUTH2: &str = "oauth2_client_id = 'gust'\noauth2_client_secret = 'client-secret'\nwarehouse = 'w'";
