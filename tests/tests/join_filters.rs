//! What joins and sorts in functions tell the scans beside them, and what keys of build sides leave out before a function is invoked: fewer
//! bytes are read, and the rows are the same.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int32Array, Int64Array};
use arrow::datatypes::DataType;
use chrono::{Datelike, NaiveDate};
use gust_engine::config::{Config, JoinPlace, Target};
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::compare::{Rule, compare};
use gust_tests::iceberg::{
    Committed, DataFile, Datum, DeleteFile, Deletes, IcebergTable, Metrics, Part, field, parquet,
};
use gust_tests::parquet_files::{batch, file};
use gust_tests::query::{assert_partly_remote, assert_remote, run};
use gust_tests::s3::S3Server;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::file::properties::WriterProperties;
use serde_json::json;
use tempfile::TempDir;

use crate::late;
use crate::plans::explain;

/// Settings that turn off what joins and sorts tell.
const JOINS: &str = "datafusion.optimizer.enable_join_dynamic_filter_pushdown";
const SORTS: &str = "datafusion.optimizer.enable_topk_dynamic_filter_pushdown";

fn config(functions_max: u32, cores: u32) -> Config {
    let mut config = Config { on: Target::InProcess, functions_max, join: JoinPlace::Broadcast, ..Config::default() };
    config.process.cores = cores;
    config
}

async fn set(session: &Session, key: &str, value: bool) {
    run(session, &format!("SET {key} = {value}")).await.expect("set");
}

/// Joins of few keys, of sides that are chosen once, of NULL with NULL, and of sides without rows.
const FEW_KEYS: [&str; 20] = [
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.k = b.k WHERE a.n < 3",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.s = b.s WHERE a.n = 1",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.d = b.d AND a.k = b.k WHERE a.n < 9",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.m = b.m AND a.x = b.x WHERE a.n < 9",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.k = b.k + 0 WHERE a.n < 3",
    "SELECT a.n, b.n, b.t FROM a JOIN b ON a.k IS NOT DISTINCT FROM b.k WHERE a.n < 12",
    "SELECT k FROM b INTERSECT SELECT k FROM a",
    "SELECT k FROM b EXCEPT SELECT k FROM a",
    "SELECT a.n, b.n FROM (SELECT k, n FROM a ORDER BY n LIMIT 10) a JOIN b ON a.k = b.k",
    "SELECT a.n, b.n FROM (SELECT k, n FROM a ORDER BY n LIMIT 2 OFFSET 5) a JOIN b ON a.k = b.k",
    "SELECT b.n, a.n, c.n FROM b LEFT JOIN a ON a.k = b.k JOIN c ON b.k = c.k WHERE c.n < 3",
    "SELECT b.t, count(*) FROM b JOIN (SELECT k FROM a WHERE n < 3) a ON a.k = b.k JOIN (SELECT s FROM c WHERE n < 2) c ON b.s = c.s GROUP BY b.t",
    "SELECT n, t FROM b WHERE k IN (SELECT k FROM a WHERE n < 3)",
    // No row of the side that is gathered.
    "SELECT count(*), max(b.n) FROM a JOIN b ON a.k = b.k WHERE a.s = 'none'",
    "SELECT b.s, count(*) FROM a JOIN b ON a.k = b.k WHERE a.n < 0 GROUP BY b.s",
    "SELECT b.s, count(*) FROM a JOIN b ON a.k = b.k WHERE a.n < 0 GROUP BY ROLLUP (b.s)",
    "SELECT b.n, a.n FROM b LEFT JOIN (SELECT k, n FROM a WHERE n < 0) a ON a.k = b.k",
    "SELECT n FROM b WHERE NOT EXISTS (SELECT 1 FROM a WHERE a.k = b.k AND a.n < 0)",
    "SELECT n FROM b WHERE k IN (SELECT k FROM a WHERE n < 0) OR n < 4",
    "SELECT b.n FROM b JOIN (SELECT k FROM a WHERE n < 0) a ON a.k = b.k ORDER BY b.n LIMIT 3",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_joins_tell_changes_no_row() {
    let (mut joined, mut left_out, mut late) = (0, [0; 2], [0; 2]);
    for seed in 0..3 {
        let folder = TempDir::with_prefix("gust-told-").expect("a temporary folder");
        late::write(folder.path(), seed);
        let judge = late::session(folder.path(), late::local(late::NEVER)).await;
        let functions = [(1, 2), (2, 1), (4, 2)][seed as usize % 3];
        let session = late::session(folder.path(), config(functions.0, functions.1)).await;
        for sql in late::STATEMENTS.iter().chain(&FEW_KEYS) {
            let (expected, _) = run(&judge, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            for is_told in [true, false] {
                set(&session, JOINS, is_told).await;
                let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
                let same = compare(&expected, &rows, Rule::same_engine().in_any_order());
                same.unwrap_or_else(|difference| panic!("seed {seed}, told {is_told}, {sql}: {difference}"));
                joined += usize::from(report.broadcasts > 0 && report.fragments_adopted > 1);
                left_out[usize::from(is_told)] += usize::from(report.left_out_units > 0);
                late[usize::from(is_told)] += usize::from(report.functions.late.rows > 0);
            }
        }
        session.close().await;
    }
    assert!(joined >= 3 * 2 * 15, "{joined} statements were joined in functions");
    // Without being told, only a side without rows leaves out something.
    assert!(left_out[1] > left_out[0] + 3 * 8 && left_out[0] >= 3 * 2, "{left_out:?} statements had files left out");
    assert!(late[0] == 0 && late[1] >= 3 * 8, "{late:?} statements decoded columns late");
}

const GROUPS: i64 = 40;
/// Rows of a row group, of 80 kB.
const ROWS: i64 = 5_000;

/// Starts a server that has a `fact` of sorted keys in many row groups, and a `dim` of some of these keys.
async fn star() -> S3Server {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    let group = |group: i64| {
        let keys = Int64Array::from_iter_values(group * ROWS..(group + 1) * ROWS);
        let values = Int64Array::from_iter_values(keys.values().iter().map(|key| key * 7919 % 1_000_003));
        batch(vec![("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(values))])
    };
    let keys: Vec<i64> = (0..1_000).map(|row| row * GROUPS * ROWS / 1_000).collect();
    let groups = Int64Array::from_iter_values((0..1_000).map(|row| row / 25));
    let dim = batch(vec![("k", Arc::new(Int64Array::from(keys)) as ArrayRef), ("g", Arc::new(groups))]);
    let plain = || WriterProperties::builder().set_dictionary_enabled(false).build();
    let fact = file(&(0..GROUPS).map(group).collect::<Vec<_>>(), plain());
    for (key, bytes) in [("fact/0.parquet", fact), ("dim/0.parquet", file(&[dim], plain()))] {
        store.put(&Key::from(key), PutPayload::from(bytes)).await.expect("put");
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_read_what_a_join_or_a_sort_in_them_has_left() {
    let server = star().await;
    for (functions, cores) in [(1, 1), (3, 2)] {
        let session = late::in_s3(&server, config(functions, cores), &["fact", "dim"]).await;
        for (key, share_max, sql) in [
            (JOINS, 0.25, "SELECT count(*), sum(f.v) FROM dim d JOIN fact f ON d.k = f.k WHERE d.g = 7"),
            (JOINS, 0.25, "SELECT count(*), sum(v) FROM fact WHERE k IN (SELECT k FROM dim WHERE g = 7)"),
            (JOINS, 0.25, "SELECT f.k, f.v FROM dim d JOIN fact f ON d.k = f.k WHERE d.g = 7 ORDER BY f.v LIMIT 3"),
            (SORTS, 0.5, "SELECT k, v FROM fact ORDER BY k LIMIT 3"),
        ] {
            let mut read = Vec::new();
            for is_told in [false, true] {
                set(&session, key, is_told).await;
                let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
                assert_partly_remote(&report, sql);
                read.push((report.functions.bytes_read, lines(&rows, "NULL")));
            }
            let ((all, expected), (some, rows)) = (&read[0], &read[1]);
            assert_eq!(rows, expected, "{sql}");
            let share = *some as f64 / *all as f64;
            assert!(share <= share_max, "{functions} functions, {sql}: {some} of {all} bytes");
        }
        session.close().await;
    }
}

const YEARS: std::ops::Range<i32> = 1980..2020;
/// Numbers of a day's rows, and rows of most days.
const DAY_ROWS: usize = 100;

fn days_of(year: i32) -> std::ops::Range<i32> {
    let first = |year| NaiveDate::from_ymd_opt(year, 1, 1).expect("a date").num_days_from_ce() - 719_163;
    first(year)..first(year + 1)
}

fn put(path: &str, bytes: &[u8]) -> u64 {
    std::fs::create_dir_all(Path::new(path).parent().expect("a folder")).expect("made");
    std::fs::write(path, bytes).expect("written");
    bytes.len() as u64
}

/// Days of a fact with a file a day.
const DAYS: i32 = 400;

/// Way in which a fact's files have its days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Parted by years, a file each.
    Years,
    /// Parted by days, a file each.
    Days,
    /// Not parted. Files follow one another, and their bounds tell their days.
    Clustered,
}

impl Layout {
    /// Returns the days of each file.
    fn files(self) -> Vec<std::ops::Range<i32>> {
        let first = days_of(2001).start;
        match self {
            Self::Years | Self::Clustered => YEARS.map(days_of).collect(),
            Self::Days => (first..first + DAYS).map(|day| day..day + 1).collect(),
        }
    }

    /// Returns the first days of the year 2001 that are one in a hundred of the fact's.
    fn hundredth(self) -> i32 {
        let days: i32 = self.files().iter().map(|days| days.end - days.start).sum();
        days / 100
    }

    /// Returns the rows of a day: so many that the table of days is small beside the fact.
    fn day_rows(self) -> usize {
        if self == Self::Days { 10 * DAY_ROWS } else { DAY_ROWS }
    }

    fn spec(self) -> Vec<Part> {
        let part = |transform: &str, avro| vec![Part { source: 1, transform: transform.to_owned(), avro }];
        match self {
            Self::Years => part("year", json!("int")),
            Self::Days => part("day", json!({"type": "int", "logicalType": "date"})),
            Self::Clustered => Vec::new(),
        }
    }

    /// Returns the partition of a file at a position, and the bounds of its days. None for the file without days.
    fn place(self, file: Option<(usize, &std::ops::Range<i32>)>, rows: i64) -> (Vec<Datum>, Vec<Metrics>) {
        let bounds = Metrics { id: 1, values: Some(rows), nulls: Some(0), ..Metrics::default() };
        match (self, file) {
            (Self::Clustered, None) => (Vec::new(), vec![Metrics { nulls: Some(rows), ..bounds }]),
            (Self::Clustered, Some((_, days))) => {
                let bound = |day: i32| Some(day.to_le_bytes().to_vec());
                (Vec::new(), vec![Metrics { lower: bound(days.start), upper: bound(days.end - 1), ..bounds }])
            }
            // No metrics tell days: only the partitions do.
            (_, None) => (vec![Datum::Null], Vec::new()),
            (Self::Years, Some((position, _))) => (vec![Datum::Int(YEARS.start + position as i32 - 1970)], Vec::new()),
            (Self::Days, Some((_, days))) => (vec![Datum::Int(days.start)], Vec::new()),
        }
    }
}

/// Writes an Iceberg table of days and numbers, with one file without days. Rows with the number 7 are deleted.
fn write_fact(folder: &str, layout: Layout) -> String {
    let columns = [field(1, "d", DataType::Date32), field(2, "v", DataType::Int64)];
    let mut data = Vec::new();
    let mut file = |name: &str, days: Vec<Option<i32>>, (partition, metrics): (Vec<Datum>, Vec<Metrics>)| {
        let numbers = Int64Array::from_iter_values((0..days.len()).map(|row| (row % DAY_ROWS) as i64));
        let rows = days.len() as u64;
        let columns_of: Vec<ArrayRef> = vec![Arc::new(Date32Array::from(days)), Arc::new(numbers)];
        let plain = WriterProperties::builder().set_dictionary_enabled(false).build();
        let bytes = parquet(&columns, columns_of, plain).expect("a file");
        let path = format!("{folder}/data/{name}.parquet");
        let size = put(&path, &bytes);
        let committed = Committed { sequence_number: Some(1), spec: 0, partition };
        data.push(DataFile { committed, metrics, ..DataFile::new(path, size, rows) });
    };
    for (position, range) in layout.files().iter().enumerate() {
        let days: Vec<Option<i32>> =
            range.clone().flat_map(|day| std::iter::repeat_n(Some(day), layout.day_rows())).collect();
        let place = layout.place(Some((position, range)), days.len() as i64);
        file(&format!("{position:03}"), days, place);
    }
    file("none", vec![None; 100], layout.place(None, 100));
    let path = format!("{folder}/keys.parquet");
    let seven: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![7]))];
    let bytes = parquet(&[field(2, "v", DataType::Int64)], seven, WriterProperties::default()).expect("a file");
    let committed = Committed { sequence_number: Some(2), spec: 1, partition: Vec::new() };
    let keys = DeleteFile::new(&*path, put(&path, &bytes), 1, Deletes::Keys(vec![2]));
    let column = |id: i32, name: &str, ty: &str| json!({"id": id, "name": name, "required": false, "type": ty});
    let table = IcebergTable {
        location: folder.to_owned(),
        fields: json!([column(1, "d", "date"), column(2, "v", "long")]),
        specs: vec![layout.spec(), Vec::new()],
        data,
        deletes: vec![DeleteFile { committed, ..keys }],
        ..IcebergTable::default()
    };
    for (path, bytes) in table.metadata() {
        put(&path, &bytes);
    }
    table.metadata_path()
}

/// Opens a session that knows the fact, its days, and a table of their numbers in the year.
async fn calendar(folder: &Path, metadata: &str, config: Config) -> Session {
    let days = YEARS.flat_map(|year| days_of(year).map(move |day| (Some(day), year, day - days_of(year).start)));
    let days: Vec<(Option<i32>, i32, i32)> = days.chain([(None, 0, 0)]).collect();
    let column = |of: fn(&(Option<i32>, i32, i32)) -> i32| {
        Arc::new(Int32Array::from_iter_values(days.iter().map(of))) as ArrayRef
    };
    let dates = Date32Array::from(days.iter().map(|(day, ..)| *day).collect::<Vec<_>>());
    let rows = batch(vec![
        ("d", Arc::new(dates) as ArrayRef),
        ("y", column(|(_, year, _)| *year)),
        ("n", column(|(.., number)| *number)),
    ]);
    let path = folder.join("days/0.parquet");
    put(&path.display().to_string(), &file(&[rows], WriterProperties::builder().build()));
    let session = Session::new(config).expect("a session");
    for statement in [
        format!("CREATE EXTERNAL TABLE fact STORED AS ICEBERG LOCATION '{metadata}'"),
        format!("CREATE EXTERNAL TABLE days STORED AS PARQUET LOCATION '{}/'", folder.join("days").display()),
    ] {
        run(&session, &statement).await.expect("a table");
    }
    session
}

/// Joins of a fact with one in a hundred of its days, which are the first of a year.
const STAR: [&str; 4] = [
    "SELECT count(*), sum(f.v) FROM days d JOIN fact f ON d.d = f.d WHERE d.y = 2001 AND d.n < {few}",
    "SELECT d.n, sum(f.v) FROM days d JOIN fact f ON d.d = f.d WHERE d.y = 2001 AND d.n < {few} GROUP BY d.n ORDER BY d.n",
    "SELECT d, v FROM fact WHERE d IN (SELECT d FROM days WHERE y = 2001 AND n < {few}) ORDER BY v DESC, d LIMIT 3",
    "SELECT count(*), sum(f.v) FROM days d JOIN fact f ON d.d IS NOT DISTINCT FROM f.d WHERE d.y = 2001 AND d.n < {few}",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_star_query_invokes_functions_for_its_days() {
    for layout in [Layout::Years, Layout::Days, Layout::Clustered] {
        let folder = TempDir::with_prefix("gust-star-").expect("a temporary folder");
        let metadata = write_fact(&folder.path().join("fact").display().to_string(), layout);
        let judge = calendar(folder.path(), &metadata, Config { on: Target::Local, ..Config::default() }).await;
        let session = calendar(folder.path(), &metadata, config(40, 1)).await;
        let few = layout.hundredth();
        let first = days_of(2001).start;
        let wanted = |days: &std::ops::Range<i32>| days.start < first + few && first < days.end;
        // The file without days is left out, too.
        let left_out = 1 + layout.files().iter().filter(|days| !wanted(days)).count() as u64;
        for sql in STAR {
            let sql = &sql.replace("{few}", &few.to_string());
            let what = format!("{layout:?}, {sql}");
            let (expected, _) = run(&judge, sql).await.expect("rows");
            let mut reports: Vec<Report> = Vec::new();
            for is_told in [false, true] {
                set(&session, JOINS, is_told).await;
                let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                compare(&expected, &rows, Rule::same_engine().in_any_order())
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_remote(&report, &what);
                reports.push(report);
            }
            let [all, some] = &reports[..] else { panic!("two runs") };
            assert!(all.fragments >= 40 && all.left_out_units == 0, "{what}: {all:?}");
            assert!(10 * some.fragments <= all.fragments, "{what}: {} of {} fragments", some.fragments, all.fragments);
            let (read, of) = (some.functions.bytes_read, all.functions.bytes_read);
            assert!(10 * read <= of, "{what}: {read} of {of} bytes");
            assert_eq!(some.left_out_units, left_out, "{what}: {some:?}");
            let text = explain(&session, sql).await;
            assert!(text.contains("keys 0       leave out files, row groups and pages by d\n"), "{text}");
        }
        // Days of all years leave out nothing, and NULL meets NULL in the file without days.
        for (sql, left_out) in [
            ("SELECT count(*), sum(f.v) FROM days d JOIN fact f ON d.d = f.d WHERE d.n = 3", 1),
            ("SELECT count(*), sum(f.v) FROM days d JOIN fact f ON d.d IS NOT DISTINCT FROM f.d WHERE d.y = 0", 40),
            ("SELECT count(*), sum(f.v) FROM days d JOIN fact f ON d.d IS NOT DISTINCT FROM f.d WHERE d.n = 0", 0),
        ] {
            let (expected, _) = run(&judge, sql).await.expect("rows");
            let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            compare(&expected, &rows, Rule::same_engine()).unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert!(layout != Layout::Years || report.left_out_units == left_out, "{sql}: {report:?}");
        }
        session.close().await;
        judge.close().await;
    }
}

/// A side without rows: no function is invoked for the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_with_no_row_invokes_no_function() {
    let server = star().await;
    let session = late::in_s3(&server, config(3, 2), &["fact", "dim"]).await;
    for (sql, expected) in [
        ("SELECT count(*), max(f.v) FROM dim d JOIN fact f ON d.k = f.k WHERE d.g < -1 + 0 * d.k", Some("0|NULL")),
        ("SELECT f.v FROM dim d JOIN fact f ON d.k = f.k WHERE d.g < -1 + 0 * d.k", None),
        ("SELECT v FROM fact WHERE k IN (SELECT k FROM dim WHERE g < -1 + 0 * k) ORDER BY v LIMIT 3", None),
        ("SELECT f.v, count(*) FROM dim d JOIN fact f ON d.k = f.k + 1 WHERE d.g < -1 + 0 * d.k GROUP BY f.v", None),
    ] {
        let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(lines(&rows, "NULL").first().map(String::as_str), expected, "{sql}");
        // Those of the side without rows.
        assert_eq!((report.stages, report.fragments, report.broadcasts), (2, 1, 0), "{sql}: {report:?}");
        assert!(report.left_out_units > 0 && report.left_out_bytes > 0, "{sql}: {report:?}");
        let text = report.to_string();
        assert!(text.contains("keys of joins left out"), "{text}");
    }
    session.close().await;
}
