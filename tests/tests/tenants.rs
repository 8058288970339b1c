//! Many queries of many sessions in one process: each pays for its own reads, and none sees or starves another.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
use gust::demo::queries;
use gust_catalog::{Catalog, DataFile, Field, Schema, Type};
use gust_engine::config::{CatalogConfig, Config, Target};
use gust_engine::cost::Item;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::money::Money;
use gust_engine::report::Report;
use gust_engine::session::{Allowed, Engine, EngineOptions, Session, SessionOptions, SettingsPolicy};
use gust_tests::query::{assert_remote, run, run_with_events};
use gust_tests::s3::identity::{COORDINATOR, FUNCTION, access_key};
use gust_tests::s3::{Account, Operation, S3Server, accounts};
use gust_tests::{cloud, parquet_files, tpch};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

use crate::bad_input::{Place, check};

const QUERIES: usize = 50;

/// Tables in a bucket: TPC-H as Parquet, one more as Iceberg.
struct Bucket {
    server: S3Server,
    create: Vec<String>,
    folder: TempDir,
}

impl Bucket {
    async fn new() -> Self {
        let server = S3Server::start().expect("a server");
        let store = server.store().expect("a client");
        let tables = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
        let url = server.url("");
        let create = tables.upload(store.as_ref(), url.trim_end_matches('/')).await.expect("uploaded");
        let folder = TempDir::new().expect("a temporary folder");
        points(&server, store, &folder.path().join("catalog.db")).await;
        Self { server, create, folder }
    }

    fn engine(&self, on: Target, queries_max: usize) -> Engine {
        let config = Config { on, functions_max: 4, exchange: Some(self.server.url("exchange")), ..Config::default() };
        let bootstrap = env!("CARGO_BIN_EXE_bootstrap_under_test");
        let mut config = cloud::config(&self.server, config, bootstrap.as_ref());
        config.cost.region = Some("us-east-1".to_owned());
        let (path, warehouse) = (self.folder.path().join("catalog.db"), self.server.url("warehouse"));
        let catalog = CatalogConfig::sqlite(path, warehouse);
        config.catalogs.insert("lake".to_owned(), catalog);
        let options = EngineOptions { queries_max, ..EngineOptions::default() };
        Engine::open(config, options).expect("an engine")
    }

    async fn session(&self, engine: &Engine, options: SessionOptions) -> Session {
        let session = engine.session(options).expect("a session");
        for statement in &self.create {
            run(&session, statement).await.expect("a table");
        }
        session.use_catalog("lake").await.expect("the catalog");
        session.use_schema("datafusion", "public");
        session
    }

    /// Returns kinds of queries whose reads do not depend on the moment.
    fn kinds(&self) -> [String; 5] {
        [
            queries::query(1).to_owned(),
            queries::query(6).to_owned(),
            "SELECT l_orderkey, l_partkey, l_suppkey, l_extendedprice, l_comment FROM lineitem".to_owned(),
            "SELECT count(*), sum(id), max(name) FROM lake.demo.points".to_owned(),
            format!("SELECT count(*), max(o_comment) FROM '{}'", self.server.url("orders/")),
        ]
    }
}

/// Makes an Iceberg table of four files.
async fn points(server: &S3Server, store: Arc<dyn ObjectStore>, database: &Path) {
    let columns = [("id", Type::Long, DataType::Int64), ("name", Type::String, DataType::Utf8)];
    let fields = columns.iter().zip(1..).map(|((name, ty, _), id)| Field {
        id,
        name: (*name).to_owned(),
        required: false,
        ty: ty.clone(),
        initial_default: None,
    });
    let schema = Schema { fields: fields.collect() };
    let stores = {
        let store = Arc::clone(&store);
        gust_catalog::CatalogStores::new(move |_| Ok(Arc::clone(&store)))
    };
    let catalog = Catalog::create_sqlite(database, "lake", &server.url("warehouse"), stores).await.expect("a catalog");
    let mut table = catalog.create_table("demo", "points", &schema, &[], &[]).await.expect("a table");
    let arrow = columns.iter().zip(1..).map(|((name, _, ty), id)| {
        let id = HashMap::from([("PARQUET:field_id".to_owned(), id.to_string())]);
        ArrowField::new(*name, ty.clone(), true).with_metadata(id)
    });
    let arrow = Arc::new(ArrowSchema::new(arrow.collect::<Vec<_>>()));
    for file in 0..4 {
        let ids = Int64Array::from_iter_values(file * 1000..(file + 1) * 1000);
        let names = StringArray::from_iter_values(ids.values().iter().map(|id| format!("point {id}")));
        let rows = RecordBatch::try_new(Arc::clone(&arrow), vec![Arc::new(ids), Arc::new(names)]).expect("rows");
        let bytes = parquet_files::file(&[rows], WriterProperties::builder().build());
        let key = format!("points/{file}.parquet");
        let data = DataFile {
            path: server.url(&key),
            size_bytes: bytes.len() as u64,
            record_count: 1000,
            ..DataFile::default()
        };
        store.put(&Key::from(key), bytes.into()).await.expect("put");
        table = catalog.append(&table, &[data]).await.expect("appended");
    }
}

/// Returns the coordinator's first requests and its bytes. A late read is sent again, and the moment decides which: such
/// requests do not count.
fn asked(report: &Report) -> (u64, u64) {
    let asked = report.coordinator;
    (asked.requests.total() - asked.requests.hedged, asked.bytes_read)
}

/// Returns the dollars of a bill, in billionths, that do not depend on the moment. Late reads that were sent again are left out. Of a query on
/// functions these are the coordinator's lines: its functions' seconds grow with their neighbours, and chance decides which of them has kept
/// a footer. [`FunctionRequests`] has the others.
fn billed(on: Target, report: &Report) -> u64 {
    const GET: u64 = 400;
    let is_own = |item| matches!(item, Item::CoordinatorReads | Item::CoordinatorWrites | Item::ExchangeReads);
    let counts = |item| on == Target::Local || is_own(item);
    let lines = &report.cost.as_ref().expect("prices").lines;
    let known = lines.iter().filter(|line| counts(line.item)).filter_map(|line| line.cost);
    known.map(Money::nano_dollars).sum::<u64>() - report.coordinator.requests.hedged * GET
}

/// Returns the quantity of a bill's lines for an item, whatever their basis.
fn quantity(report: &Report, item: Item) -> u64 {
    let lines = &report.cost.as_ref().expect("prices").lines;
    lines.iter().filter(|line| line.item == item).map(|line| line.quantity).sum::<f64>() as u64
}

/// Requests of functions to storage.
#[derive(Debug, Default)]
struct FunctionRequests {
    reads: u64,
    writes: u64,
}

impl FunctionRequests {
    fn add_billed(&mut self, report: &Report) {
        self.reads += quantity(report, Item::TableReads);
        self.writes += quantity(report, Item::TableLists) + quantity(report, Item::ExchangeWrites);
    }

    /// Sums up the requests that the server counted and AWS has a price for.
    fn counted(accounts: &BTreeMap<String, Account>) -> Self {
        let mut counted = Self::default();
        let functions = accounts.iter().filter(|(who, _)| who.starts_with(&access_key(FUNCTION)));
        for (operation, requests) in functions.flat_map(|(_, account)| &account.requests) {
            match operation {
                Operation::Get | Operation::Head => counted.reads += requests,
                Operation::Delete | Operation::DeleteMany | Operation::AbortMultipart => {}
                _ => counted.writes += requests,
            }
        }
        counted
    }
}

/// Runs a query, and returns its rows and its report with prices.
async fn priced(session: &Session, sql: &str) -> Result<(Vec<RecordBatch>, Report), QueryError> {
    let (rows, _, events) = run_with_events(session, sql).await?;
    let tariff = session.tariff().await.expect("prices");
    Ok((rows, Report::priced(&events, Ok(&tariff))))
}

/// Result of a query without neighbours.
struct Alone {
    rows: usize,
    report: Report,
}

async fn fifty_at_once(on: Target) {
    let bucket = Bucket::new().await;
    let engine = bucket.engine(on, QUERIES);
    let kinds = bucket.kinds();
    let first = bucket.session(&engine, SessionOptions::default()).await;
    let mut alone = Vec::new();
    for kind in &kinds {
        // Footers belong to the process: the first query reads them, and is not measured.
        run(&first, kind).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
        let (rows, report) = priced(&first, kind).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
        alone.push(Alone { rows: rows.iter().map(RecordBatch::num_rows).sum(), report });
    }
    // A local query is capped at twice its cost alone, far less than the cost of all. Functions' attempts are booked above that.
    let mut sessions = Vec::new();
    for number in 0..QUERIES {
        let cost = alone[number % kinds.len()].report.cost.as_ref().expect("prices").known;
        let session = bucket.session(&engine, SessionOptions::default()).await;
        if on == Target::Local {
            // From here on: the reads for a new table are under the cap, too.
            let cap = (cost + cost).nano_dollars();
            let cap = format!("{}.{:09}", cap / 1_000_000_000, cap % 1_000_000_000);
            run(&session, &format!("SET gust.max_cost = '{cap}'")).await.expect("a cap");
        }
        sessions.push(session);
    }
    bucket.server.take_requests();
    let running = sessions.into_iter().enumerate().map(|(number, session)| {
        let kind = kinds[number % kinds.len()].clone();
        tokio::spawn(async move {
            let ended = priced(&session, &kind).await;
            ended.unwrap_or_else(|error| panic!("{kind}: {error}"))
        })
    });
    let (mut sum, mut of_functions) = ((0, 0), FunctionRequests::default());
    for (number, ended) in futures::future::join_all(running).await.into_iter().enumerate() {
        let (rows, report) = ended.expect("it ran");
        let alone = &alone[number % kinds.len()];
        let (requests, bytes) = asked(&alone.report);
        let what = format!("{on:?}: query {number} of {QUERIES}, {}", kinds[number % kinds.len()]);
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), alone.rows, "{what}");
        if on != Target::Local {
            assert_remote(&report, &what);
        }
        let seen = asked(&report);
        assert!(within_two_percent(seen.0, requests), "{what}: {} requests, {requests} alone", seen.0);
        let hedged = report.coordinator.requests.hedged * (1 << 20);
        assert!(seen.1 >= bytes && seen.1 <= bytes + bytes / 50 + hedged, "{what}: {} bytes, {bytes} alone", seen.1);
        let (dollars, dollars_alone) = (billed(on, &report), billed(on, &alone.report));
        // The process has Iceberg's metadata and the footers from the first query, and functions read the data.
        assert!(dollars_alone > 0 || requests == 0, "{what}: {:?}", alone.report.cost);
        assert!(
            within_two_percent(dollars, dollars_alone),
            "{what}: {dollars} billionths of a dollar, {dollars_alone} alone: {:?}",
            report.cost
        );
        // Chance decides which attempts are slow.
        let planned = |report: &Report| {
            let speculative = report.attempts_speculative + report.attempts_retried;
            quantity(report, Item::Invocations) - speculative as u64
        };
        assert_eq!(planned(&report), planned(&alone.report), "{what}: {:?}", report.cost);
        of_functions.add_billed(&report);
        sum.0 += report.coordinator.requests.total();
        sum.1 += report.coordinator.bytes_read;
    }
    let mut accounts = accounts(&bucket.server.take_requests());
    let counted = FunctionRequests::counted(&accounts);
    assert_eq!(counted.reads > 0, on != Target::Local, "{counted:?}");
    assert!(
        within_two_percent(of_functions.reads, counted.reads)
            && within_two_percent(of_functions.writes, counted.writes),
        "{on:?}: {of_functions:?} billed, the server counted {counted:?}"
    );
    let account = accounts.remove(&access_key(COORDINATOR)).expect("it asked");
    let counted: BTreeMap<Operation, u64> = account.requests;
    let total: u64 = counted.values().sum();
    assert!(within_two_percent(sum.0, total), "{on:?}: {} requests billed, the server counted {counted:?}", sum.0);
    assert!(within_two_percent(sum.1, account.bytes_read), "{on:?}: {} of {} bytes", sum.1, account.bytes_read);
    engine.close().await;
}

fn within_two_percent(seen: u64, expected: u64) -> bool {
    seen.abs_diff(expected) * 50 <= expected
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_queries_pay_for_their_own_reads_locally() {
    fifty_at_once(Target::Local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_queries_pay_for_their_own_reads_through_processes() {
    fifty_at_once(Target::Processes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_see_nothing_of_each_other() {
    let config = Config { on: Target::Local, ..Config::default() };
    let engine = Engine::open(config, EngineOptions::default()).expect("an engine");
    let [one, other] = [(); 2].map(|()| engine.session(SessionOptions::default()).expect("a session"));
    let value = async |session: &Session, sql: &str| {
        let (rows, _) = run(session, sql).await.map_err(|error| error.to_string())?;
        let shown = arrow::util::pretty::pretty_format_batches(&rows).expect("rows").to_string();
        Ok::<_, String>(shown.lines().nth(3).unwrap_or_default().to_owned())
    };
    let name = "SHOW datafusion.execution.batch_size";
    let before = value(&other, name).await.expect("a setting");
    for statement in [
        "SET datafusion.execution.batch_size = 77",
        "SET gust.max_cost = '0.07'",
        "CREATE TABLE t AS SELECT 1 AS a",
        "CREATE VIEW v AS SELECT 2 AS b",
        "CREATE SCHEMA s",
        "PREPARE p AS SELECT 3 AS c",
    ] {
        run(&one, statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    one.use_schema("datafusion", "s");
    assert!(value(&one, name).await.expect("a setting").contains("77"));
    assert_eq!(value(&other, name).await.expect("a setting"), before);
    assert!(!value(&other, "SHOW gust.max_cost").await.expect("a setting").contains("0.07"));
    for (own, told) in [
        ("SELECT * FROM public.t", "there is no table `public.t`"),
        ("SELECT * FROM public.v", "there is no table `public.v`"),
        ("EXECUTE p", "there is no prepared statement `p`"),
    ] {
        value(&one, own).await.unwrap_or_else(|error| panic!("{own}: {error}"));
        let error = value(&other, own).await.expect_err("it is another session's");
        assert!(error.contains(told), "{own}: {error}");
    }
    run(&other, "CREATE TABLE t AS SELECT 9 AS a").await.expect("the name is free here");
    assert!(value(&one, "SELECT a FROM public.t").await.expect("a row").contains(" 1 "));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_process_are_refused() {
    const LISTED: &[Allowed] = &[Allowed { name: "datafusion.execution.batch_size", bounds: Some((128, 65_536)) }];
    let [own, listed] = [SettingsPolicy::OwnSession, SettingsPolicy::Listed(LISTED)].map(|settings| {
        let config = Config { on: Target::Local, ..Config::default() };
        let options = EngineOptions { settings, ..EngineOptions::default() };
        let session = SessionOptions { cap: Some("1".parse().expect("a dollar")), ..SessionOptions::default() };
        Engine::open(config, options).expect("an engine").session(session).expect("a session")
    });
    for (session, statement, refused) in [
        (&own, "SET datafusion.runtime.memory_limit = '1G'", Some("is a setting of the whole process")),
        (&own, "SET DataFusion.Runtime.Temp_Directory = '/tmp'", Some("is a setting of the whole process")),
        (&own, "RESET datafusion.runtime.memory_limit", Some("is a setting of the whole process")),
        (&own, "SET datafusion.execution.batch_size = 1", None),
        (&own, "SET TIME ZONE = '+02:00'", None),
        (&listed, "SET datafusion.execution.batch_size = 1", Some("no number from 128 to 65536")),
        (&listed, "SET datafusion.execution.batch_size = 1000", None),
        (&listed, "SET datafusion.execution.target_partitions = 9", Some("may not change")),
        (&listed, "SET gust.max_cost = '0.5'", None),
        (&listed, "SET gust.max_cost = '1000'", Some("is above this session's cap of $1")),
    ] {
        match (run(session, statement).await, refused) {
            (Ok(_), None) => {}
            (Err(error), Some(words)) => {
                assert!(error.to_string().contains(words), "{statement}: {error}");
                assert_eq!(error.kind(), ErrorKind::Sql, "{statement}");
            }
            (ended, _) => panic!("{statement}: {:?}", ended.map(drop)),
        }
    }
    own.close().await;
    listed.close().await;
}

/// Returns a cross join. Its left side of `rows` rows of 8 bytes is held as long as its rows may be read on.
fn holds(rows: u64) -> String {
    format!("SELECT a.value FROM generate_series(1, {rows}) a, generate_series(1, 1000000000) b")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_all_it_may_leaves_the_others_running() {
    // Each of four queries is sure of 8.25 of 66 MiB, and one may have 41.25. A query alone may have all.
    for (queries_max, fits, too_many, others_run) in [(4, 4_000_000, 8_000_000, true), (1, 8_000_000, 9_000_000, false)]
    {
        let config = Config { on: Target::Local, memory_bytes_max: 66 << 20, ..Config::default() };
        let options = EngineOptions { queries_max, ..EngineOptions::default() };
        let engine = Engine::open(config, options).expect("an engine");
        let [greedy, modest] = [(); 2].map(|()| engine.session(SessionOptions::default()).expect("a session"));
        let error = run(&greedy, &holds(too_many)).await.map(drop).expect_err("it may not have that much");
        assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
        assert!(error.to_string().contains("the left side of a cross join"), "{error}");
        let statement = greedy.parse(&holds(fits)).expect("SQL").remove(0);
        let mut running = greedy.run(statement).await.expect("it starts");
        running.next().await.expect("it fits").expect("rows");
        assert!(engine.memory().reserved_bytes() >= fits as usize * 8, "it is held");
        let statement = modest.parse(&holds(900_000)).expect("SQL").remove(0);
        let mut other = modest.run(statement).await.expect("it starts");
        match other.next().await {
            Ok(rows) => assert!(others_run && rows.is_some(), "alone a query may have all"),
            Err(error) => {
                assert!(!others_run, "{error}");
                assert!(error.to_string().contains("other queries and tables hold"), "{error}");
            }
        }
        running.finish().await;
        other.finish().await;
        engine.close().await;
    }
}

/// Each of fifty queries is sure of 1.28 of 128 MiB, and the greedy one holds nearly all that belongs to no query. Eight sorts set memory aside
/// for the merge of what they may spill.
#[tokio::test(flavor = "multi_thread")]
async fn sorts_find_their_reservation_in_the_memory_that_a_query_is_sure_of() {
    let config = Config { on: Target::Local, memory_bytes_max: 128 << 20, ..Config::default() };
    let options = EngineOptions { queries_max: 50, ..EngineOptions::default() };
    let engine = Engine::open(config, options).expect("an engine");
    let [greedy, modest] = [(); 2].map(|()| engine.session(SessionOptions::default()).expect("a session"));
    let statement = greedy.parse(&holds(8_500_000)).expect("SQL").remove(0);
    let mut running = greedy.run(statement).await.expect("it starts");
    running.next().await.expect("it fits").expect("rows");
    let part = "SELECT value % 103 AS k, value FROM generate_series(1, 1000)";
    let sql = format!("SELECT * FROM ({}) ORDER BY k DESC, value", [part; 8].join(" UNION ALL "));
    let (rows, _) = run(&modest, &sql).await.expect("it has its share");
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 8_000);
    // A 64th of all memory is too much for one sort.
    let set = "SET datafusion.execution.sort_spill_reservation_bytes = 2097152";
    let error = run(&modest, &format!("{set}; {sql}")).await.map(drop).expect_err("2 MiB");
    assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
    running.finish().await;
    engine.close().await;
}

/// Half of 64 MiB belongs to no query. With four queries expected, the tables of a session may have 8 MiB of it; alone a session may have all.
#[tokio::test(flavor = "multi_thread")]
async fn the_tables_of_a_session_leave_room_for_those_of_others() {
    let table = |name: &str, rows: u64| format!("CREATE TABLE {name} AS SELECT value FROM generate_series(1, {rows})");
    for (queries_max, fits, too_many) in [(4, 900_000, 300_000), (1, 7_000_000, 2_000_000)] {
        let config = Config { on: Target::Local, memory_bytes_max: 64 << 20, ..Config::default() };
        let options = EngineOptions { queries_max, ..EngineOptions::default() };
        let engine = Engine::open(config, options).expect("an engine");
        let sessions = [(); 4].map(|()| engine.session(SessionOptions::default()).expect("a session"));
        for session in &sessions[..queries_max] {
            run(session, &table("t", fits)).await.expect("it fits");
            let error = run(session, &table("u", too_many)).await.map(drop).expect_err("too much for one session");
            assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
            assert!(error.to_string().contains("the rows of a table"), "{error}");
        }
        for session in &sessions[..queries_max] {
            let (rows, _) = run(session, "SELECT max(value) FROM t").await.expect("all of them can still run");
            assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
            run(session, "DROP TABLE t").await.expect("dropped");
            run(session, &table("u", too_many)).await.expect("there is room again");
        }
        engine.close().await;
    }
}

/// The log of many queries tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_logged_with_the_id_of_its_query() {
    let place = Place::new("");
    for file in ["a", "b", "c"] {
        place.parquet(&format!("t/{file}.parquet"), "SELECT value AS k FROM generate_series(1, 100)").await;
    }
    let sql = "SELECT sum(k) FROM 't/' WHERE k > 10";
    for on in ["in-process", "processes"] {
        let mut command = place.gust(&["query", "--on", on, "--functions", "2", "--report", "none", sql]);
        let output = command.env("GUST_LOG", "gust_engine=debug").output().expect("it starts");
        check(&output, 0, &["AttemptStarted", "AttemptEnded", "Finished"]);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let (own, others): (Vec<_>, Vec<_>) =
            log.lines().filter(|line| line.contains("query event")).partition(|line| line.contains("query{id="));
        assert!(own.len() > 5 && others.is_empty(), "{on}: {log}");
    }
}
