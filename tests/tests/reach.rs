//! A server's queries read the places that it lists, and nothing else: whatever names a place, wherever the query runs. The judge
//! is the log of the S3 server.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
use gust_catalog::{Catalog, CatalogStores, DataFile, Field, Schema, Type};
use gust_engine::config::{CatalogConfig, Config, Target};
use gust_engine::error::ErrorKind;
use gust_engine::session::{Engine, EngineOptions, Session, SessionOptions};
use gust_engine::storage::Reach;
use gust_tests::query::{assert_remote, run};
use gust_tests::s3::S3Server;
use gust_tests::{cloud, parquet_files};
use object_store::ObjectStoreExt;
use object_store::path::Path as Key;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

fn numbers() -> RecordBatch {
    let id = HashMap::from([("PARQUET:field_id".to_owned(), "1".to_owned())]);
    let field = ArrowField::new("id", DataType::Int64, true).with_metadata(id);
    let column = Arc::new(Int64Array::from_iter_values(0..1000));
    RecordBatch::try_new(Arc::new(ArrowSchema::new(vec![field])), vec![column]).expect("rows")
}

/// Bucket with an open table, a secret one, and Iceberg tables whose files are in either place.
struct Lake {
    server: S3Server,
    folder: TempDir,
}

impl Lake {
    async fn new() -> Self {
        let server = S3Server::start().expect("a server");
        let store = server.store().expect("a client");
        let folder = TempDir::new().expect("a temporary folder");
        let bytes = parquet_files::file(&[numbers()], WriterProperties::builder().build());
        for key in ["lake/open/a.parquet", "lake/exchange/q/0.parquet", "secret/a.parquet", "lake2/a.parquet"] {
            store.put(&Key::from(key), bytes.clone().into()).await.expect("put");
        }
        let stores = {
            let store = Arc::clone(&store);
            CatalogStores::new(move |_| Ok(Arc::clone(&store)))
        };
        let database = folder.path().join("catalog.db");
        let catalog =
            Catalog::create_sqlite(&database, "lake", &server.url("lake/tables"), stores).await.expect("a catalog");
        let id = Field { id: 1, name: "id".to_owned(), required: false, ty: Type::Long, initial_default: None };
        let schema = Schema { fields: vec![id] };
        for (name, key) in [("fair", "lake/open/a.parquet"), ("sly", "secret/a.parquet")] {
            let table = catalog.create_table("demo", name, &schema, &[], &[]).await.expect("a table");
            let (path, size_bytes) = (server.url(key), bytes.len() as u64);
            let file = DataFile { path, size_bytes, record_count: 1000, ..DataFile::default() };
            catalog.append(&table, &[file]).await.expect("appended");
        }
        Self { server, folder }
    }

    async fn session(&self, on: Target) -> Session {
        let exchange = Some(self.server.url("lake/exchange"));
        let config = Config { on, functions_max: 2, exchange, ..Config::default() };
        let mut config = cloud::config(&self.server, config, env!("CARGO_BIN_EXE_bootstrap_under_test").as_ref());
        let (path, warehouse) = (self.folder.path().join("catalog.db"), self.server.url("lake/tables"));
        config.catalogs.insert("lake".to_owned(), CatalogConfig::sqlite(path, warehouse));
        let reach = Reach::of([self.server.url("lake/").as_str()]).expect("a place");
        let options = EngineOptions { reach, ..EngineOptions::default() };
        let session = Engine::open(config, options).expect("an engine").session(SessionOptions::default());
        let session = session.expect("a session");
        session.use_catalog("lake").await.expect("the catalog");
        session
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_is_read_whatever_names_it() {
    let lake = Lake::new().await;
    let url = |key: &str| lake.server.url(key);
    let bucket = url("");
    let external = |format: &str, place: &str| {
        format!("CREATE EXTERNAL TABLE datafusion.public.t STORED AS {format} LOCATION '{place}'")
    };
    let from = |place: &str| format!("SELECT count(*) FROM '{place}'");
    for on in [Target::Local, Target::Processes] {
        let session = lake.session(on).await;
        for sql in [
            "SELECT sum(id) FROM demo.fair".to_owned(),
            format!("SELECT sum(id) FROM '{}'", url("lake/open/")),
            format!("SELECT sum(id) FROM '{}'", url("lake/open/a.parquet").replacen("s3:", "S3:", 1)),
        ] {
            let (rows, report) = run(&session, &sql).await.unwrap_or_else(|error| panic!("{on:?}: {sql}: {error}"));
            assert_eq!(rows[0].column(0).as_ref(), &Int64Array::from(vec![499_500]) as &dyn arrow::array::Array);
            if on == Target::Processes {
                assert_remote(&report, &sql);
            }
        }
        lake.server.take_requests();
        for sql in [
            from(&url("secret/a.parquet")),
            from(&url("secret/")),
            from(&url("secret/*.parquet")),
            from(&url("lake2/a.parquet")),
            from(&url("lake2")),
            from(&format!("{bucket}*/a.parquet")),
            from(&bucket),
            from(&url("lake/exchange/q/0.parquet")),
            from(&url("lake/exchange/")),
            from(&url("lake%2fopen/a.parquet")),
            from("s3://another-bucket/a.parquet"),
            from("s3a://another-bucket/lake/a.parquet"),
            from("/etc/passwd"),
            from("file:///etc/passwd"),
            from("FILE:///etc/"),
            from("file:/etc/passwd"),
            from("~/x.parquet"),
            from("../Cargo.toml"),
            from("./nothing.csv"),
            from("nothing.csv"),
            external("CSV", "/etc/passwd"),
            external("PARQUET", &url("secret/")),
            external("ICEBERG", &url("secret/t")),
            external("ICEBERG", "/etc"),
            "SELECT count(*), max(id) FROM demo.sly WHERE id >= 0".to_owned(),
        ] {
            let error = run(&session, &sql).await.map(drop).expect_err(&sql);
            assert!(error.message().contains("outside of what this server reads"), "{on:?}: {sql}: {error}");
            assert_eq!(error.sqlstate(), "42501", "{on:?}: {sql}");
        }
        // `..` is a name that no key has.
        let error = run(&session, &from(&url("lake/../secret/a.parquet"))).await.map(drop).expect_err("no such name");
        assert_ne!(error.kind(), ErrorKind::Setup);
        // A listing above the exchange shows none of its objects.
        run(&session, &from(&url("lake/e*/q/*.parquet"))).await.map(drop).expect_err("there is no such file");
        let is_outside = |key: &str| !key.starts_with("lake/") || key.starts_with("lake/exchange/q/0");
        let asked = lake.server.take_requests().into_iter().filter(|request| is_outside(&request.key));
        assert_eq!(asked.map(|request| request.key).collect::<Vec<_>>(), Vec::<String>::new(), "{on:?}");
        session.close().await;
    }
}

/// The tests run in a folder that has the folder `src`.
#[tokio::test]
async fn a_bare_name_is_not_looked_up_on_the_disk() {
    for (reach, expect) in [
        (Reach::default(), "it does not end as Parquet does"),
        (Reach::of(["s3://lake/"]).expect("a place"), "there is no table `src`"),
    ] {
        let config = Config { on: Target::Local, ..Config::default() };
        let options = EngineOptions { reach, ..EngineOptions::default() };
        let session = Engine::open(config, options).expect("an engine").session(SessionOptions::default());
        let error = run(&session.expect("a session"), "SELECT * FROM src").await.map(drop).expect_err("no table");
        assert!(error.message().contains(expect), "{error}");
    }
}
