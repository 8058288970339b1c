//! Late columns: joins have the same rows with and without them, and read what they read before.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use gust::demo::queries;
use gust_engine::config::{Config, JoinPlace, Target};
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::compare::{Rule, compare};
use gust_tests::parquet_files::{batch, file};
use gust_tests::query::{assert_remote, plain, run};
use gust_tests::s3::{Operation, S3Server};
use gust_tests::{cloud, tpch};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::file::properties::WriterProperties;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

pub(super) const ALWAYS: u32 = 100;
pub(super) const NEVER: u32 = 0;

pub(super) const TABLES: [&str; 3] = ["a", "b", "c"];

pub(super) fn local(late_columns_percent_max: u32) -> Config {
    Config { on: Target::Local, late_columns_percent_max, ..Config::default() }
}

/// Small pages and row groups, so that a filter leaves out some of each.
pub(super) fn properties() -> WriterProperties {
    let properties = WriterProperties::builder().set_data_page_row_count_limit(40).set_write_batch_size(20);
    properties.set_dictionary_page_size_limit(200).build()
}

fn some<T>(random: &mut SmallRng, value: impl FnOnce(&mut SmallRng) -> T) -> Option<T> {
    (random.random_range(0..9) > 0).then(|| value(random))
}

/// Makes rows whose keys are of `keys`, of several types and with NULL among them, beside columns of what else they hold.
pub(super) fn rows(random: &mut SmallRng, count: usize, keys: Range<i64>) -> RecordBatch {
    let ks: Vec<Option<i64>> = (0..count).map(|_| some(random, |r| r.random_range(keys.clone()))).collect();
    let text = |k: &Option<i64>| k.map(|k| if k % 7 == 0 { String::new() } else { format!("key {}", k % 50) });
    let texts: Vec<Option<String>> = ks.iter().map(text).collect();
    let days: Vec<Option<i32>> = (0..count).map(|_| some(random, |r| r.random_range(0..40))).collect();
    let money: Vec<Option<i128>> = (0..count).map(|_| some(random, |r| r.random_range(0..90))).collect();
    let odd = [0.0, -0.0, f64::NAN, 1.5, f64::INFINITY];
    let floats: Vec<Option<f64>> = (0..count).map(|_| some(random, |r| odd[r.random_range(0..5)])).collect();
    let money = Decimal128Array::from(money).with_precision_and_scale(12, 2).expect("a decimal");
    batch(vec![
        ("k", Arc::new(Int64Array::from(ks)) as ArrayRef),
        ("s", Arc::new(StringArray::from(texts))),
        ("d", Arc::new(Date32Array::from(days))),
        ("m", Arc::new(money)),
        ("x", Arc::new(Float64Array::from(floats))),
        ("n", Arc::new(Int64Array::from_iter_values(0..count as i64))),
        ("t", Arc::new(StringArray::from_iter_values((0..count).map(|n| format!("text {}", n % 13))))),
    ])
}

/// Writes a small table `a`, a large one `b` in files that differ, and a middle one `c`.
pub(super) fn write(folder: &Path, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let random = &mut random;
    let put = |name: &str, groups: &[RecordBatch]| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, file(groups, properties())).expect("written");
    };
    put("a/0.parquet", &[rows(random, 30, 0..200)]);
    put("c/0.parquet", &[rows(random, 300, 0..900), rows(random, 200, 100..300)]);
    let plain = rows(random, 700, 0..1000);
    put("b/0.parquet", &[rows(random, 700, 0..1000), plain.clone(), rows(random, 500, 500..900)]);
    // Another type, and a column that is missing.
    let narrow = rows(random, 600, 0..1000);
    let keys = arrow::compute::cast(&narrow.column(0), &arrow::datatypes::DataType::Int32).expect("small numbers");
    let column = |name: &str| Arc::clone(narrow.column_by_name(name).expect("a column"));
    put("b/1.parquet", &[batch(vec![("n", column("n")), ("k", keys), ("m", column("m")), ("s", column("s"))])]);
    // One value, and none.
    let count = plain.num_rows();
    let one: ArrayRef = Arc::new(Int64Array::from(vec![random.random_range(0..200); count]));
    let none: ArrayRef = Arc::new(Int64Array::from(vec![None; count]));
    for (name, keys) in [("b/2.parquet", one), ("b/3.parquet", none)] {
        let others = plain.schema();
        let columns = others.fields().iter().zip(plain.columns()).skip(1);
        let columns = columns.map(|(field, column)| (field.name().as_str(), Arc::clone(column)));
        put(name, &[batch([("k", keys)].into_iter().chain(columns).collect())]);
    }
}

/// Joins of all kinds over the three tables. `a` is the side that is built.
pub(super) const STATEMENTS: [&str; 27] = [
    "SELECT a.n, b.n, b.t, b.x, b.m FROM a JOIN b ON a.k = b.k",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.s = b.s WHERE b.n % 3 = 0",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.k = b.k AND a.s = b.s",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.k = b.k AND a.n < b.n",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.d = b.d AND a.m = b.m",
    "SELECT a.n, b.n FROM a JOIN b ON a.x = b.x",
    "SELECT a.n, b.n FROM a JOIN b ON a.x = b.x AND a.k = b.k",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.k IS NOT DISTINCT FROM b.k",
    "SELECT a.n, b.n, b.t FROM a LEFT JOIN b ON a.k = b.k",
    "SELECT a.n, b.n, b.t FROM b LEFT JOIN a ON a.k = b.k",
    "SELECT a.n, b.n, b.t FROM a FULL JOIN b ON a.k = b.k",
    "SELECT n, t, m FROM b WHERE k IN (SELECT k FROM a)",
    "SELECT n, t, m FROM b WHERE k NOT IN (SELECT k FROM a)",
    "SELECT n, t, m FROM b WHERE k NOT IN (SELECT k FROM a WHERE k IS NOT NULL)",
    "SELECT n, t FROM b WHERE EXISTS (SELECT * FROM a WHERE a.k = b.k AND a.n < b.n)",
    "SELECT n, t FROM b WHERE NOT EXISTS (SELECT * FROM a WHERE a.k = b.k)",
    "SELECT n, t FROM a WHERE k IN (SELECT k FROM b WHERE x > 1)",
    "SELECT n, k IN (SELECT k FROM a) AS found, t FROM b",
    "SELECT a.n, b.n, c.n, b.t, c.t FROM a, b, c WHERE a.k = b.k AND b.k = c.k AND c.m > 10",
    "SELECT a.n, b.n, c.n, b.t, c.t FROM a, b, c WHERE a.k = b.k AND b.s = c.s AND b.n < 90",
    "SELECT b.s, count(*), sum(b.m), min(b.t) FROM a JOIN b ON a.k = b.k GROUP BY b.s",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.k = b.k ORDER BY b.m DESC NULLS LAST, b.n, b.t, a.n LIMIT 7",
    "SELECT a.n, b.n, b.t FROM a JOIN (SELECT * FROM b WHERE n < 50) b ON a.k = b.k WHERE b.k > 20",
    "SELECT a.n, b.q FROM a JOIN (SELECT k, n / nullif(k, 3) AS q FROM b WHERE k <> 0) b ON a.k = b.q",
    "SELECT o.n, i.n, i.t FROM b o JOIN b i ON o.k = i.k AND o.n = i.n WHERE o.m = 0.5",
    "WITH RECURSIVE w AS (SELECT k, n, 0 AS depth FROM a UNION ALL \
     SELECT b.n % 200, b.n, w.depth + 1 FROM w JOIN b ON w.k = b.k WHERE w.depth < 2 AND b.n % 5 = 0) SELECT * FROM w",
    "SELECT n, t FROM b WHERE k = (SELECT max(k) FROM a) UNION ALL SELECT a.n, b.t FROM a JOIN b ON a.k = b.k",
];

pub(super) async fn session(folder: &Path, config: Config) -> Session {
    let session = Session::new(config).expect("a session");
    for table in TABLES {
        let location = folder.join(table);
        let create = format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}/'", location.display());
        run(&session, &create).await.expect("a table");
    }
    session
}

/// Returns what the scans tell of their keys, once the statement has run.
async fn told(session: &Session, sql: &str) -> Vec<String> {
    let (plan, _) = run(session, &format!("EXPLAIN ANALYZE {sql}")).await.expect("a plan");
    let text = lines(&plan, "NULL").join("\n");
    let told = text.split("late_columns=[").skip(1).filter_map(|rest| rest.split_once(']'));
    told.map(|(told, _)| told.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn late_columns_change_no_row() {
    let mut used = 0;
    for seed in 0..6 {
        let folder = TempDir::with_prefix("gust-late-").expect("a temporary folder");
        write(folder.path(), seed);
        let (late, planned) = (session(folder.path(), local(ALWAYS)).await, session(folder.path(), local(NEVER)).await);
        // All partitions share one build side, or each has a part.
        let shared_max = if seed % 2 == 0 { 1 << 20 } else { 0 };
        for name in ["threshold", "threshold_rows"] {
            let set = format!("SET datafusion.optimizer.hash_join_single_partition_{name} = {shared_max}");
            run(&late, &set).await.expect("set");
            run(&planned, &set).await.expect("set");
        }
        for sql in STATEMENTS {
            let (expected, _) = run(&planned, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let (found, _) = run(&late, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let same = compare(&expected, &found, Rule::same_engine().in_any_order());
            same.unwrap_or_else(|difference| panic!("seed {seed}, {sql}: {difference}"));
            used += usize::from(told(&late, sql).await.iter().any(|told| told.contains("rows kept")));
        }
        assert_eq!(told(&planned, STATEMENTS[0]).await, Vec::<String>::new());
    }
    assert!(used >= 6 * 12, "{used} statements decoded columns late");
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_has_datafusions_rows_where_columns_are_always_late() {
    let setup = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data").create_statements();
    let session = Session::new(local(ALWAYS)).expect("a session");
    for statement in &setup {
        run(&session, statement).await.expect("a table");
    }
    for number in 1..=queries::COUNT {
        let sql = queries::query(number);
        let (rows, _) = run(&session, sql).await.unwrap_or_else(|error| panic!("query {number}: {error}"));
        let same = compare(&plain(&setup, sql).await, &rows, Rule::same_engine());
        same.unwrap_or_else(|difference| panic!("query {number}: {difference}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_columns_are_given_up_when_most_rows_stay() {
    let folder = TempDir::with_prefix("gust-late-").expect("a temporary folder");
    let numbers = |count: i64| batch(vec![("k", Arc::new(Int64Array::from_iter_values(0..count)) as ArrayRef)]);
    let groups: Vec<RecordBatch> = (0..8)
        .map(|_| {
            let keys = Int64Array::from_iter_values((0..20_000).map(|n| n * 7919 % 1000));
            batch(vec![("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(Int32Array::from_iter_values(0..20_000)))])
        })
        .collect();
    for (table, groups) in [("a", vec![numbers(1000)]), ("c", vec![numbers(50)]), ("b", groups)] {
        fs::create_dir(folder.path().join(table)).expect("made");
        let bytes = file(&groups, WriterProperties::builder().build());
        fs::write(folder.path().join(table).join("0.parquet"), bytes).expect("written");
    }
    let session = session(folder.path(), Config { on: Target::Local, ..Config::default() }).await;
    let few = told(&session, "SELECT sum(v) FROM b JOIN (SELECT k FROM c WHERE k < 4) c ON b.k = c.k").await;
    assert_eq!(few, ["k: 640 of 160000 rows kept"]);
    let most = told(&session, "SELECT sum(v) FROM b JOIN (SELECT k FROM a WHERE k < 900) a ON b.k = a.k").await;
    assert!(most[0].starts_with("k: given up, "), "{most:?}");
    // The last batch of each partition may come after it.
    let seen: u64 = most[0].split(' ').nth(5).and_then(|rows| rows.parse().ok()).expect("a number of rows");
    assert!(seen < 80_000, "{most:?}");
}

/// A filter that keeps too many rows decides about none any more. The files that are opened then are pruned by it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_given_up_prunes() {
    const ROWS: i64 = 20_000;
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    let put = async |key: &str, keys: Vec<i64>| {
        let values = Int64Array::from_iter_values(keys.iter().map(|key| key * 3));
        let rows = batch(vec![("k", Arc::new(Int64Array::from(keys)) as ArrayRef), ("v", Arc::new(values))]);
        let bytes = file(&[rows], WriterProperties::builder().set_dictionary_enabled(false).build());
        store.put(&Key::from(key), PutPayload::from(bytes)).await.expect("put");
    };
    for number in 0..8 {
        put(&format!("b/{number}.parquet"), (number * ROWS..(number + 1) * ROWS).collect()).await;
    }
    // Half the keys of the first five files.
    put("a/0.parquet", (0..5 * ROWS).step_by(2).collect()).await;
    for read_ahead_requests_max in [0, 64] {
        let config = Config { read_ahead_requests_max, read_ahead_bytes_max: 1 << 20, ..local(20) };
        let session = in_s3(&server, config, &["a", "b"]).await;
        run(&session, "SET datafusion.execution.target_partitions = 1").await.expect("set");
        server.take_requests();
        let sql = "SELECT count(*), sum(b.v) FROM a JOIN b ON a.k = b.k";
        let (rows, _) = run(&session, sql).await.expect("rows");
        let requests = server.take_requests().into_iter().filter(|request| request.operation == Operation::Get);
        let read: BTreeSet<String> = requests.map(|request| request.key).collect();
        assert_eq!(lines(&rows, "NULL"), [format!("50000|{}", 3_i64 * 49_999 * 50_000)]);
        let expected = ["a/0", "b/0", "b/1", "b/2", "b/3", "b/4"].map(|file| format!("{file}.parquet"));
        assert_eq!(read.into_iter().collect::<Vec<_>>(), expected, "{read_ahead_requests_max} requests ahead");
        let told = told(&session, sql).await;
        assert!(told[0].starts_with("k: given up, "), "{told:?}");
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_the_keys_that_columns_wait_for() {
    let folder = TempDir::with_prefix("gust-late-").expect("a temporary folder");
    write(folder.path(), 0);
    let explain = "EXPLAIN SELECT a.n, b.t FROM a JOIN b ON a.k = b.k AND a.s = b.s";
    for (percent, expected) in [(1, Some("late columns where joins keep few rows of a scan, by k, s")), (NEVER, None)] {
        let session = session(folder.path(), local(percent)).await;
        let (plan, _) = run(&session, explain).await.expect("a plan");
        let text = lines(&plan, "NULL").join("\n");
        let told = text.lines().find(|line| line.starts_with("late columns"));
        assert_eq!(told.map(str::trim_end), expected, "{text}");
    }
}

/// Opens a session that knows tables on a server.
pub(super) async fn in_s3(server: &S3Server, config: Config, tables: &[&str]) -> Session {
    let bootstrap = env!("CARGO_BIN_EXE_bootstrap_under_test");
    let session = cloud::session(server, config, bootstrap.as_ref()).expect("a session");
    for table in tables {
        let location = server.url(table);
        let create = format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{location}/'");
        run(&session, &create).await.expect("a table");
    }
    session
}

/// Starts a server that has the tables of a folder.
pub(super) async fn upload(folder: &Path) -> S3Server {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    for table in TABLES {
        for file in fs::read_dir(folder.join(table)).expect("files") {
            let path = file.expect("a file").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let bytes = fs::read(&path).expect("a file");
            store.put(&Key::from(format!("{table}/{name}")), PutPayload::from(bytes)).await.expect("put");
        }
    }
    server
}

/// Reads of two tables on a server by one statement.
struct Reads {
    rows: Vec<RecordBatch>,
    report: Report,
    /// Keys and ranges of the server's GETs.
    ranges: Vec<(String, Range<u64>)>,
    /// Words of EXPLAIN ANALYZE.
    analyzed: String,
}

impl Reads {
    async fn of(server: &S3Server, config: Config, sql: &str) -> Self {
        let config = Config { read_ahead_requests_max: 0, ..config };
        let session = in_s3(server, config, &["a", "b"]).await;
        server.take_requests();
        let (rows, report) = run(&session, sql).await.expect("rows");
        let requests = server.take_requests().into_iter().filter(|request| request.operation == Operation::Get);
        let mut ranges: Vec<_> = requests.map(|request| (request.key, request.bytes)).collect();
        ranges.sort_by(|(one, a), (other, b)| one.cmp(other).then(a.start.cmp(&b.start)));
        let (plan, _) = run(&session, &format!("EXPLAIN ANALYZE {sql}")).await.expect("a plan");
        session.close().await;
        Self { rows, report, ranges, analyzed: lines(&plan, "NULL").join("\n") }
    }

    /// Sums up the bytes of the large table.
    fn bytes(&self) -> u64 {
        let large = self.ranges.iter().filter(|(key, _)| key.starts_with("b/"));
        large.map(|(_, range)| range.end - range.start).sum()
    }
}

/// Puts the large table and the keys of the small one on a new server.
async fn keys_and_texts(keys: Vec<i64>, groups: &[RecordBatch]) -> S3Server {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    let pages = WriterProperties::builder().set_data_page_row_count_limit(200).set_write_batch_size(100);
    let b = file(groups, pages.set_dictionary_enabled(false).build());
    let a = file(&[batch(vec![("k", Arc::new(Int64Array::from(keys)) as ArrayRef)])], properties());
    for (key, bytes) in [("a/0.parquet", a), ("b/0.parquet", b)] {
        store.put(&Key::from(key), PutPayload::from(bytes)).await.expect("put");
    }
    server
}

/// Rows of a row group of the large table.
const GROUP_ROWS: i64 = 4000;

/// Makes a row group with the numbers from its place on, their keys, and long texts.
fn texts(group: i64, key: impl Fn(i64) -> i64) -> RecordBatch {
    let sorted = Int64Array::from_iter_values(group * GROUP_ROWS..(group + 1) * GROUP_ROWS);
    let keys = Int64Array::from_iter_values((0..GROUP_ROWS).map(|n| key(n * 7919 % GROUP_ROWS)));
    let texts = StringArray::from_iter_values((0..GROUP_ROWS).map(|n| format!("{:0>600}", n * 7919 % 4001)));
    batch(vec![("n", Arc::new(sorted) as ArrayRef), ("k", Arc::new(keys)), ("t", Arc::new(texts))])
}

#[tokio::test(flavor = "multi_thread")]
async fn late_columns_prune_as_before() {
    let groups: Vec<RecordBatch> = (0..6).map(|group| texts(group, |key| key)).collect();
    let server = keys_and_texts(vec![17, 18, 3000], &groups).await;
    // Statistics leave two row groups, and pages a part of the second.
    let sql = "SELECT b.n, b.t FROM a JOIN b ON a.k = b.k WHERE b.n >= 8000 AND b.n < 13000";
    let planned = Reads::of(&server, local(NEVER), sql).await;
    let late = Reads::of(&server, local(ALWAYS), sql).await;
    compare(&planned.rows, &late.rows, Rule::same_engine().in_any_order()).expect("the same rows");
    for (key, range) in &late.ranges {
        let is_read =
            |(of, read): &(String, Range<u64>)| of == key && read.start <= range.start && range.end <= read.end;
        assert!(planned.ranges.iter().any(is_read), "{key} {range:?} is not in {:?}", planned.ranges);
    }
    // Gaps of less than 1 MiB are read, too.
    assert!(late.bytes() < planned.bytes(), "{:?} of {:?}", late.ranges, planned.ranges);
}

/// Five of six row groups have no row for the join in a function, which no statistics tell: of these it reads the keys alone.
#[tokio::test(flavor = "multi_thread")]
async fn functions_read_the_columns_of_rows_that_keys_leave() {
    let groups: Vec<RecordBatch> = (0..6).map(|group| texts(group, move |key| 6 * key + group)).collect();
    let server = keys_and_texts(vec![6 * 1000 + 3], &groups).await;
    let sql = "SELECT b.n, b.t FROM a JOIN b ON a.k = b.k";
    let judge = Reads::of(&server, local(NEVER), sql).await;
    for (on, functions_max, cores) in [(Target::InProcess, 1, 2), (Target::InProcess, 3, 1), (Target::Processes, 2, 1)]
    {
        let [planned, late] = [NEVER, 1].map(|late_columns_percent_max| {
            let mut config = local(late_columns_percent_max);
            (config.on, config.functions_max, config.join) = (on, functions_max, JoinPlace::Broadcast);
            config.process.cores = cores;
            config
        });
        let what = format!("{functions_max} functions {on:?}");
        let planned = Reads::of(&server, planned, sql).await;
        let late = Reads::of(&server, late, sql).await;
        let kept = "late columns 1 of 24000 rows kept by keys of joins";
        for (reads, compared, told) in [(&planned, 0, None), (&late, 24_000, Some(kept))] {
            compare(&judge.rows, &reads.rows, Rule::same_engine()).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_remote(&reads.report, &what);
            assert_eq!(reads.report.functions.late.rows, compared, "{what}");
            let line = reads.analyzed.lines().map(str::trim).find(|line| line.starts_with("late columns "));
            assert_eq!(line, told, "{what}: {}", reads.analyzed);
        }
        let (read, of) = (late.bytes(), planned.bytes());
        assert!(4 * read < of, "{what}: {read} of {of} bytes: {:?}", late.ranges);
    }
}

/// Whatever the decoder leaves out, the bytes that it reads were predicted, and each was asked for once.
#[tokio::test(flavor = "multi_thread")]
async fn late_columns_are_read_ahead() {
    let (mut taken, mut missed, mut unused, mut used) = (0, 0, 0, 0);
    for seed in 0..3 {
        let folder = TempDir::with_prefix("gust-late-").expect("a temporary folder");
        write(folder.path(), seed);
        let server = upload(folder.path()).await;
        let planned = session(folder.path(), local(NEVER)).await;
        let late = in_s3(&server, local(ALWAYS), &TABLES).await;
        for sql in STATEMENTS.into_iter().filter(|sql| !sql.contains("RECURSIVE")) {
            let (expected, _) = run(&planned, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            server.take_requests();
            let (found, report) = run(&late, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let same = compare(&expected, &found, Rule::same_engine().in_any_order());
            same.unwrap_or_else(|difference| panic!("seed {seed}, {sql}: {difference}"));
            let ahead = report.coordinator.ahead;
            assert_eq!(ahead.again_bytes, 0, "seed {seed}, {sql}: {ahead:?}");
            taken += ahead.taken_bytes;
            missed += ahead.missed_bytes;
            unused += ahead.unused_bytes();
            used += usize::from(told(&late, sql).await.iter().any(|told| told.contains("rows kept")));
        }
        late.close().await;
    }
    assert!(used >= 3 * 10, "{used} statements decoded columns late");
    // A reader may be faster than the requests ahead. Pages of 40 rows are left out often, those of 20,000 seldom.
    assert!(missed * 20 <= taken && unused <= taken, "{taken} bytes were taken, {missed} missed, {unused} not used");
}
