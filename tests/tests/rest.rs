//! Catalogs that speak Iceberg's REST protocol: names, tokens, faults, lent credentials. The server is the harness's own.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
use arrow::util::display::array_value_to_string;
use gust_catalog::{Catalog, CatalogStores, DataFile, Field, Schema, Type};
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
    let columns = [("id", Type::Long, DataType::Int64), ("name", Type::String, DataType::Utf8)];
    let fields = columns.iter().zip(1..).map(|((name, ty, _), id)| Field {
        id,
        name: (*name).to_owned(),
        required: false,
        ty: ty.clone(),
        initial_default: None,
    });
    let schema = Schema { fields: fields.collect() };
    let arrow = columns.iter().zip(1..).map(|((name, _, ty), id)| {
        let id = HashMap::from([("PARQUET:field_id".to_owned(), id.to_string())]);
        ArrowField::new(*name, ty.clone(), true).with_metadata(id)
    });
    let arrow = Arc::new(ArrowSchema::new(arrow.collect::<Vec<_>>()));
    let mut table = catalog.create_table(namespace, name, &schema, &[], &[]).await.expect("a table");
    let mut files = Vec::new();
    for file in 0..FILES {
        let ids = Int64Array::from_iter_values(first + file * ROWS..first + (file + 1) * ROWS);
        let names = StringArray::from_iter_values(ids.values().iter().map(|id| format!("row {id}")));
        let rows = RecordBatch::try_new(Arc::clone(&arrow), vec![Arc::new(ids), Arc::new(names)]).expect("rows");
        let bytes = parquet_files::file(&[rows], WriterProperties::builder().build());
        let path = format!("{}/data/{file}.parquet", table.location());
        let (_, key) = path.trim_start_matches("s3://").split_once('/').expect("a key");
        let size_bytes = bytes.len() as u64;
        store.put(&Key::from(key), bytes.into()).await.expect("put");
        files.push(DataFile { path, size_bytes, record_count: ROWS as u64, ..DataFile::default() });
    }
    table = catalog.append(&table, &files).await.expect("appended");
    table.metadata_location().to_owned()
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

#[tokio::test(flavor = "multi_thread")]
async fn names_of_several_catalogs_and_nested_namespaces_are_found() {
    let rules = Rules { page_names: 1, ..oauth2(Duration::from_secs(600)) };
    let lake = Lake::new(rules).await;
    for on in [Target::Local, Target::InProcess, Target::Processes] {
        let session = lake.session(on, OAUTH2);
        let sum = |first: i64| (first..first + FILES * ROWS).sum::<i64>().to_string();
        for (name, number) in [
            ("lake.sales.orders", 0),
            ("lake.sales.customers", 1),
            ("lake.sales.eu.orders", 2),
            ("lake.\"sales.eu\".orders", 2),
            ("lake.sales.eu.north.orders", 3),
            ("lake.\"Ünï \"\"q\"\" %2F/\".\"t t\"", 4),
            ("lake.\"dotted.name\".t", 5),
            ("own.n3.t3", 3),
        ] {
            let sql = format!("SELECT sum(id) AS s FROM {name} WHERE name <> 'x'");
            let (found, report) = run(&session, &sql).await.unwrap_or_else(|error| panic!("{on:?}: {sql}: {error}"));
            assert_eq!(texts(&found), [sum(number * 1000)], "{on:?}: {name}");
            if on != Target::Local {
                assert_remote(&report, name);
            }
        }
        let joined = "SELECT count(*) FROM lake.sales.orders a JOIN own.n0.t0 b ON a.id = b.id";
        assert_eq!(rows(&session, joined).await, [(FILES * ROWS).to_string()]);
        session.close().await;
    }
    assert_eq!(lake.server.fired(), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_loads_no_table_and_a_query_lists_none() {
    let lake = Lake::new(Rules { page_names: 1, ..Rules::default() }).await;
    let session = lake.session(Target::Local, "");
    assert_eq!(rows(&session, "SHOW CATALOGS").await, ["datafusion", "lake", "own"]);
    assert_eq!(lake.server.take_asked(), [], "the configuration has the names of catalogs");
    session.use_catalog("lake").await.expect("the catalog");
    lake.server.take_asked();
    assert_eq!(rows(&session, "SELECT count(*) FROM sales.orders").await, [(FILES * ROWS).to_string()]);
    let asked = lake.server.take_asked();
    assert_eq!(
        asked.iter().map(|asked| asked.path.as_str()).collect::<Vec<_>>(),
        ["/v1/namespaces/sales/tables/orders"]
    );
    let all = [
        "dotted.name|t",
        "sales|customers",
        "sales|orders",
        "sales.eu|orders",
        "sales.eu.north|orders",
        "Ünï \"q\" %2F/|t t",
    ];
    let listed = "SELECT table_schema, table_name FROM information_schema.tables
         WHERE table_catalog = 'lake' AND table_schema NOT IN ('gust', 'information_schema') ORDER BY 1, 2";
    assert_eq!(rows(&session, listed).await, all);
    let shown = rows(&session, "SHOW TABLES").await;
    assert!(all.iter().all(|name| shown.contains(&format!("lake|{name}|BASE TABLE"))), "{shown:?}");
    assert_eq!(
        rows(&session, "SHOW TABLES IN lake.sales").await,
        ["lake|sales|customers|BASE TABLE", "lake|sales|orders|BASE TABLE"]
    );
    assert_eq!(rows(&session, "SHOW TABLES IN sales.eu").await, ["lake|sales.eu|orders|BASE TABLE"]);
    let schemas = rows(&session, "SHOW SCHEMAS IN lake LIKE 's%'").await;
    assert_eq!(schemas, ["sales", "sales.eu", "sales.eu.north"]);
    let asked = lake.server.take_asked();
    assert_eq!(loads(&asked), 0, "{asked:?}");
    assert!(asked.iter().any(|asked| asked.query.contains("pageToken=1")), "there were pages: {asked:?}");
    // A description loads the table that it describes.
    for sql in ["DESCRIBE sales.eu.orders", "SHOW COLUMNS FROM lake.sales.orders"] {
        let described = rows(&session, sql).await;
        assert!(described.len() == 2 && described[0].contains("id") && described[1].contains("name"), "{described:?}");
        let asked = lake.server.take_asked();
        let is_its_own = |asked: &Asked| asked.path.ends_with("/tables/orders");
        assert!(!asked.is_empty() && asked.iter().all(is_its_own), "{sql}: {asked:?}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tables_are_listed_without_loading_one() {
    const NAMESPACES: usize = 100;
    const TABLES_OF_EACH: usize = 100;
    let lake = Lake::new(Rules::default()).await;
    let tables = (0..NAMESPACES).flat_map(|namespace| {
        (0..TABLES_OF_EACH).map(move |table| (vec![format!("many{namespace}")], format!("table{table}")))
    });
    let tables: Vec<_> = tables.map(|(namespace, table)| (namespace, table, lake.metadata.clone())).collect();
    lake.server.register(&tables).await.expect("registered");
    let session = lake.session(Target::Local, "");
    rows(&session, "USE lake").await;
    lake.server.take_asked();
    let count = "SELECT count(*) FROM information_schema.tables WHERE table_schema LIKE 'many%'";
    assert_eq!(rows(&session, count).await, [(NAMESPACES * TABLES_OF_EACH).to_string()]);
    let asked = lake.server.take_asked();
    assert_eq!(loads(&asked), 0);
    // The namespaces, those below each, and the tables of each.
    let namespaces = NAMESPACES + TABLES.len();
    assert!((2 * NAMESPACES..2 * namespaces + 8).contains(&asked.len()), "{} requests", asked.len());
    assert_eq!(rows(&session, "SELECT min(id) FROM many99.table99").await, ["0"]);
    let asked = lake.server.take_asked();
    assert_eq!((asked.len(), loads(&asked)), (1, 1), "{asked:?}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn use_changes_the_place_of_bare_names() {
    let lake = Lake::new(Rules::default()).await;
    let session = lake.session(Target::Local, "");
    let first = async |name: &str| rows(&session, &format!("SELECT min(id) FROM {name}")).await[0].clone();
    rows(&session, "USE lake.sales").await;
    assert_eq!(first("customers").await, "1000");
    rows(&session, "USE sales.eu").await;
    assert_eq!(first("orders").await, "2000");
    rows(&session, "USE own.n3").await;
    assert_eq!(first("t3").await, "3000");
    rows(&session, "USE datafusion.public").await;
    assert_eq!(first("lake.sales.eu.north.orders").await, "3000");
    rows(&session, "USE lake").await;
    for (sql, message, hint) in [
        ("USE sals", "there is no catalog and no namespace `sals` in catalog `lake`", "did you mean `sales`?"),
        ("USE own.n33", "there is no catalog and no namespace `n33` in catalog `own`", "did you mean `n3`?"),
        ("SELECT * FROM sales.ordrs", "there is no table `sales.ordrs`", "did you mean `sales.orders`?"),
        ("SELECT * FROM customers", "there is no table `customers`", "did you mean `lake.sales.customers`?"),
        ("SELECT * FROM lake.eu.t3", "there is no table `lake.eu.t3`", "did you mean `own.n3.t3`?"),
        ("CREATE TABLE lake.sales.x AS SELECT 1", "in an Iceberg catalog, which is only read", "datafusion.public.x"),
        ("DROP TABLE lake.sales.orders", "is in an Iceberg catalog", "gust reads"),
    ] {
        let error = failure(&session, sql).await;
        assert!(error.message().contains(message), "{sql}: {error}");
        assert!(error.hint().is_some_and(|given| given.contains(hint)), "{sql}: {error}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed_before_their_end_and_after_a_refusal() {
    let lake = Lake::new(oauth2(Duration::from_secs(600))).await;
    let session = lake.session(Target::Local, OAUTH2);
    let sql = "SELECT count(*) FROM lake.sales.orders";
    rows(&session, sql).await;
    rows(&session, sql).await;
    assert_eq!(lake.server.tokens_given(), 1);
    lake.server.expire_tokens();
    lake.server.take_asked();
    rows(&session, sql).await;
    let statuses: Vec<u16> = lake.server.take_asked().iter().map(|asked| asked.status).collect();
    assert_eq!((lake.server.tokens_given(), statuses), (2, vec![419, 200, 304]), "419, a token, and once more");
    // A token of a second is renewed at three quarters of its life, before anybody refuses it.
    lake.server.set(|rules| rules.access = oauth2(Duration::from_secs(1)).access);
    lake.server.expire_tokens();
    rows(&session, sql).await;
    lake.server.take_asked();
    tokio::time::sleep(Duration::from_millis(850)).await;
    rows(&session, sql).await;
    assert!(lake.server.take_asked().iter().all(|asked| asked.status != 419), "it was renewed in time");
    // A catalog that refuses the new token, too, is asked no third time.
    lake.server.set(|rules| rules.faults = vec![Fault::new("/tables/orders", 401, 9)]);
    let error = failure(&session, sql).await;
    assert!(error.message().contains("does not accept the credentials (401): told to fail"), "{error}");
    assert_eq!(lake.server.fired().get(&401), Some(&2));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_busy_is_asked_again() {
    let lake = Lake::new(Rules::default()).await;
    let session = lake.session(Target::Local, "");
    let sql = "SELECT count(*) FROM lake.sales.orders";
    for (status, retry_after, least) in [(503, Some(1), 1.0), (429, None, 0.1), (502, None, 0.1)] {
        let fault = Fault::new("/tables/orders", status, 1);
        let fault = retry_after.map_or(fault.clone(), |seconds| fault.clone().retry_after(seconds));
        lake.server.set(|rules| rules.faults = vec![fault]);
        let started = Instant::now();
        assert_eq!(rows(&session, sql).await, [(FILES * ROWS).to_string()]);
        assert!(started.elapsed().as_secs_f64() >= least, "{status}: it waited {:?}", started.elapsed());
        assert_eq!(lake.server.fired().get(&status), Some(&1));
    }
    // A pause that no query waits for, and a catalog that never recovers.
    lake.server.set(|rules| rules.faults = vec![Fault::new("/tables/orders", 503, 9).retry_after(3600)]);
    let error = failure(&session, sql).await;
    assert!(error.message().contains("(it asks to come back in 3600 s)"), "{error}");
    assert_eq!(lake.server.fired().get(&503), Some(&2), "it is not asked again");
    lake.server.set(|rules| rules.faults = vec![Fault::new("/tables/orders", 500, 99)]);
    let error = failure(&session, sql).await;
    assert!(error.message().contains("answers with status 500: told to fail"), "{error}");
    assert_eq!(lake.server.fired().get(&500), Some(&5), "once, and four more times");
    // A slow answer is waited for.
    lake.server.set(|rules| (rules.faults, rules.delay) = (Vec::new(), Duration::from_millis(300)));
    assert_eq!(rows(&session, sql).await, [(FILES * ROWS).to_string()]);
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_to_change_and_shows_no_secret() {
    const SQL: &str = "SELECT count(*) FROM lake.sales.orders";
    let lake = Lake::new(Rules { access: Access::Token("right".to_owned()), ..Rules::default() }).await;
    let check = async |rules: Rules, keys: &str, expect: &str, sqlstate: &str| {
        lake.server.set(|current| *current = rules);
        let session = lake.session(Target::Local, keys);
        let error = failure(&session, SQL).await;
        let text = format!("{error} {error:?}");
        assert!(error.message().contains(expect), "{expect}: {error}");
        assert!(error.hint().is_some(), "{error}");
        assert!(!text.contains("s3cret-42"), "{text}");
        if !sqlstate.is_empty() {
            assert_eq!(error.sqlstate(), sqlstate, "{error}");
        }
        session.close().await;
    };
    let token = || Rules { access: Access::Token("right".to_owned()), ..Rules::default() };
    let open = |faults: Vec<Fault>| Rules { faults, ..Rules::default() };
    check(token(), "token = 's3cret-42'", "(401): the token (hidden) is wrong", "28000").await;
    check(token(), "", "does not accept the credentials (401)", "28000").await;
    let wrong_client = "oauth2_client_id = 'gust'\noauth2_client_secret = 's3cret-42'";
    check(
        oauth2(Duration::from_secs(9)),
        wrong_client,
        "(401): no token: invalid_client: no client with (hidden)",
        "28000",
    )
    .await;
    let forbidden = vec![Fault::new("/tables/orders", 403, 9)];
    check(open(forbidden), "", "forbids to read table sales.orders (403): told to fail", "42501").await;
    check(open(vec![]), "warehouse = 'wrong'", "status 404: Warehouse wrong does not exist", "").await;
    let html = Fault { body: "<html>hello</html>".to_owned(), ..Fault::new("/v1/config", 200, 9) };
    check(open(vec![html]), "", "it is no answer of Iceberg's REST protocol", "").await;
    let hive = r#"{"error": {"message": "Not an iceberg table: sales.orders", "type": "NoSuchIcebergTableException"}}"#;
    let hive = Fault { body: hive.to_owned(), ..Fault::new("/tables/orders", 404, 9) };
    check(open(vec![hive]), "", "table sales.orders has another format than Iceberg", "").await;
    let signs = BTreeMap::from([("s3.remote-signing-enabled".to_owned(), "true".to_owned())]);
    check(Rules { table_config: signs, ..Rules::default() }, "", "(remote signing), which is not supported", "").await;
    let file = lake.folder.path().join("token");
    check(token(), "token_file = 'token'", "secret file", "").await;
    std::fs::write(&file, "right\n").expect("written");
    lake.server.set(|current| *current = token());
    let session = lake.session(Target::Local, "token_file = 'token'");
    assert_eq!(rows(&session, SQL).await, [(FILES * ROWS).to_string()]);
    assert!(!format!("{:?}", session.config()).contains("right"));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_signed_as_aws_checks_them() {
    let signed = |service: &str| Rules {
        access: Access::SigV4 {
            service: service.to_owned(),
            region: "eu-central-1".to_owned(),
            key_id: cloud_key(),
            secret: SECRET_ACCESS_KEY.to_owned(),
        },
        prefix: "catalogs/012345678901".to_owned(),
        page_names: 2,
        ..Rules::default()
    };
    let lake = Lake::new(signed("glue")).await;
    let uri = format!("uri = '{}'\nallow_http = true", lake.server.endpoint());
    let arn = "arn:aws:s3tables:eu-central-1:012345678901:bucket/lake";
    for (service, catalog, warehouse) in [
        ("glue", format!("type = 'glue'\nregion = 'eu-central-1'\naccount = '012345678901'\n{uri}"), "012345678901"),
        ("s3tables", format!("type = 's3tables'\nbucket_arn = '{arn}'\n{uri}"), "bucket%2Flake"),
        ("other", format!("type = 'rest'\nsigv4_name = 'other'\nsigv4_region = 'eu-central-1'\n{uri}"), ""),
    ] {
        lake.server.set(|rules| *rules = signed(service));
        let file = ConfigFile { path: "gust.toml".into(), text: format!("[catalogs.aws]\n{catalog}") };
        let overrides = Overrides { on: Some(Target::Local), ..Overrides::default() };
        let config = Config::load(Some(&file), [], &overrides).unwrap_or_else(|error| panic!("{error}"));
        let config = cloud::config(&lake.s3, config, env!("CARGO_BIN_EXE_bootstrap_under_test").as_ref());
        let session = Session::new(config).expect("a session");
        lake.server.take_asked();
        for (name, first) in
            [("sales.orders", "0"), ("\"Ünï \"\"q\"\" %2F/\".\"t t\"", "4000"), ("sales.eu.orders", "2000")]
        {
            assert_eq!(rows(&session, &format!("SELECT min(id) FROM aws.{name}")).await, [first], "{service}: {name}");
        }
        assert_eq!(rows(&session, "SHOW SCHEMAS IN aws LIKE 'sales.%'").await, ["sales.eu", "sales.eu.north"]);
        let asked = lake.server.take_asked();
        assert!(asked[0].path == "/v1/config" && asked[0].query.contains(warehouse), "{asked:?}");
        // Another service's name is another signature.
        lake.server.set(|rules| *rules = signed("else"));
        let error = failure(&session, "SELECT * FROM aws.sales.customers").await;
        assert!(
            error.message().contains("forbids to read table sales.customers (403): the request is signed for"),
            "{error}"
        );
        session.close().await;
    }
}

/// Key with which the coordinator signs.
fn cloud_key() -> String {
    gust_tests::s3::identity::access_key(gust_tests::s3::identity::COORDINATOR)
}

#[tokio::test(flavor = "multi_thread")]
async fn lent_credentials_read_their_table_alone() {
    let lake = Lake::new(Rules::default()).await;
    let lending = |life: u64| Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(life), prefix: None };
    let sql = "SELECT sum(id) FROM lake.sales.orders WHERE name <> 'x'";
    let join = "SELECT count(*), min(a.id), max(b.id) FROM lake.sales.orders a JOIN lake.sales.customers b ON a.id + 1000 = b.id
         WHERE a.name <> b.name";
    for on in [Target::Local, Target::InProcess, Target::Processes] {
        let session = lake.without_own_keys(on, "");
        let error = failure(&session, sql).await;
        assert!(
            error.to_string().contains("forbid")
                || error.to_string().contains("denied")
                || error.to_string().contains("403"),
            "{error}"
        );
        session.close().await;
        lake.server.set(|rules| rules.lends = Some(lending(600)));
        let session = lake.without_own_keys(on, "");
        let (before, refused) = (lake.s3.lent().count(), lake.s3.lent().refused());
        lake.s3.take_requests();
        for (sql, expect) in [(sql, "44850"), (join, "300|0|1299")] {
            let (found, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{on:?}: {sql}: {error}"));
            assert_eq!(texts(&found), [expect], "{on:?}");
            if on != Target::Local {
                assert_remote(&report, sql);
            }
            let shown = format!("{report:?}");
            assert!(!shown.contains(SECRET_ACCESS_KEY) && !shown.contains("lent-session-token"), "{shown}");
        }
        let explained = rows(&session, &format!("EXPLAIN {join}")).await.join("\n");
        assert!(!explained.contains(SECRET_ACCESS_KEY) && !explained.contains("-lent-"), "{explained}");
        assert!(lake.s3.lent().count() > before, "keys were lent");
        assert_eq!(lake.s3.lent().refused(), refused, "no key was used for another table's files");
        let mut of_tables = lake.s3.requests();
        // The catalog itself reads metadata files, with keys of its own.
        of_tables.retain(|request| request.key.starts_with("lake/") && !request.key.ends_with(".metadata.json"));
        let is_lent = |request: &Request| request.identity.contains("-lent-");
        assert!(!of_tables.is_empty() && of_tables.iter().all(is_lent), "{on:?}: {of_tables:?}");
        // The grant of a table is nobody's to name.
        for url in ["s3://id@gust-test/lake/", "s3://a:b@gust-test/lake/x.parquet"] {
            let error = failure(&session, &format!("SELECT * FROM '{url}'")).await;
            assert!(error.message().contains('@'), "{error}");
        }
        lake.server.set(|rules| rules.lends = None);
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lent_credentials_are_renewed_before_their_end() {
    let lake = Lake::new(Rules::default()).await;
    let lending = Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(2), prefix: None };
    lake.server.set(|rules| rules.lends = Some(lending));
    for on in [Target::Local, Target::Processes] {
        let session = lake.without_own_keys(on, "");
        let sql = "SELECT sum(id) FROM lake.sales.orders WHERE name <> 'x'";
        let refused = lake.s3.lent().refused();
        // The table is described by the first statement, and read again once its keys have ended.
        run(&session, "PREPARE q AS SELECT sum(id) FROM lake.sales.orders WHERE name <> 'x'").await.expect("prepared");
        run(&session, sql).await.expect("rows");
        tokio::time::sleep(Duration::from_millis(2200)).await;
        lake.server.take_asked();
        let (found, report) = run(&session, "EXECUTE q").await.unwrap_or_else(|error| panic!("{on:?}: {error}"));
        assert_eq!(texts(&found), ["44850"]);
        if on == Target::Processes {
            assert_remote(&report, sql);
        }
        let asked = lake.server.take_asked();
        assert!(asked.iter().any(|asked| asked.path.ends_with("/credentials") && asked.status == 200), "{asked:?}");
        assert_eq!(lake.s3.lent().refused(), refused, "no key was used after its end");
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tries_a_table_of_each_catalog() {
    let lake = Lake::new(Rules::default()).await;
    let found = async |keys: &str| {
        let session = lake.without_own_keys(Target::Local, keys);
        let findings = session.examine().await;
        session.close().await;
        let finding = findings.into_iter().find(|finding| finding.subject == "catalog lake").expect("a finding");
        finding.outcome.map_err(|error| error.message().to_owned())
    };
    let denied = found("").await.expect_err("the keys open nothing");
    assert!(denied.contains("catalog `lake`: cannot reach s3://gust-test/lake/"), "{denied}");
    let lending = Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(600), prefix: None };
    lake.server.set(|rules| rules.lends = Some(lending));
    let told = found("").await.expect("a healthy catalog");
    let expect = "3 namespaces at the top, dotted.name.t can be read, lends credentials for s3://gust-test/lake/n5/t5/";
    assert_eq!(told, expect);
    lake.server.set(|rules| rules.access = Access::Token("right".to_owned()));
    let refused = found("token = 'wrong'").await.expect_err("a wrong token");
    assert!(refused.contains("catalog lake does not accept the credentials (401)"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_for_another_place_are_not_used() {
    let lake = Lake::new(Rules::default()).await;
    let prefix = Some("s3://gust-test/elsewhere/".to_owned());
    let lending = Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(600), prefix };
    lake.server.set(|rules| rules.lends = Some(lending));
    let session = lake.session(Target::Local, "");
    let error = failure(&session, "SELECT sum(id) FROM lake.sales.orders").await;
    assert!(
        error
            .message()
            .contains("its catalog lends credentials for s3://gust-test/elsewhere/, not for s3://gust-test/lake/"),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Data);
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pyiceberg_reads_and_writes_the_same_catalog() {
    let folder = TempDir::new().expect("a temporary folder");
    let place = Place::folder(&folder.path().join("warehouse"));
    let server = RestServer::start(folder.path(), place, oauth2(Duration::from_secs(600))).expect("a server");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let arguments = [server.endpoint().to_owned(), folder.path().join("answers").display().to_string()];
    match python::run(cache, "rest_catalog.py", &arguments).unwrap_or_else(|error| panic!("{error}")) {
        Run::Done { .. } => {}
        Run::Skipped { reason } => return eprintln!("skipped: {reason}"),
    }
    let mut config = Config { on: Target::Processes, functions_max: 2, ..Config::default() };
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    let text = format!("[catalogs.lake]\ntype = 'rest'\nuri = '{}'\nallow_http = true\n{OAUTH2}", server.endpoint());
    let file = ConfigFile { path: folder.path().join("gust.toml"), text };
    let loaded = Config::load(Some(&file), [], &Overrides::default()).unwrap_or_else(|error| panic!("{error}"));
    config.catalogs = loaded.catalogs;
    assert!(matches!(config.catalogs["lake"], CatalogConfig::Rest(_)));
    let session = Session::new(config).expect("a session");
    let answers = std::fs::read_to_string(folder.path().join("answers")).expect("answers");
    let mut compared = 0;
    for line in answers.lines() {
        let (sql, expect) = line.split_once('\t').expect("a statement and its rows");
        if let Some(message) = expect.strip_prefix('!') {
            let error = failure(&session, sql).await;
            assert!(error.message().contains(message) && error.hint().is_some(), "{sql}: {error}");
            continue;
        }
        let (found, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(texts(&found).join(";"), expect, "{sql}");
        if sql.contains("<> 'x'") {
            assert_remote(&report, sql);
        }
        compared += 1;
    }
    assert!(compared >= 40, "{answers}");
    session.close().await;
}

/// A catalog brings a table's metadata in its answer: no store is asked, and yet nothing of a table outside of the reach is told.
#[tokio::test(flavor = "multi_thread")]
async fn facts_about_a_table_outside_of_the_reach_are_not_told() {
    let lake = Lake::new(Rules::default()).await;
    let config = lake.session(Target::Local, "").config().clone();
    let own = lake.metadata.split_once("/metadata/").expect("a table's folder").0;
    let options = EngineOptions { reach: Reach::of([own]).expect("a place"), ..EngineOptions::default() };
    let session = Engine::open(config, options).expect("an engine").session(SessionOptions::default());
    let session = session.expect("a session");
    assert_eq!(rows(&session, "SELECT count(*) FROM lake.sales.orders").await, ["300"]);
    for sql in [
        "DESCRIBE lake.sales.customers",
        "SELECT * FROM lake.sales.\"customers$properties\"",
        "SELECT * FROM lake.sales.\"customers$snapshots\"",
        "SELECT * FROM lake.sales.customers.refs",
        "SELECT count(*) FROM lake.sales.customers",
    ] {
        let error = failure(&session, sql).await;
        assert_eq!(error.sqlstate(), "42501", "{sql}: {error}");
    }
}
