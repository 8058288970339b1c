//! Joins of Iceberg tables whose files are parted alike: functions join partition by partition, with the rows of the coordinator and those that are
//! computed here, and without an object between them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray};
use arrow::datatypes::DataType;
use gust_engine::config::{AlignedPlace, Config, JoinPlace, ShufflePlace, Target};
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::compare::{Rule, compare};
use gust_tests::iceberg::{
    Committed, DataFile, Datum, DeleteFile, Deletes, IcebergTable, Part, field, parquet, positions, vector,
};
use gust_tests::query::{assert_remote, run};
use gust_tests::random_tables::bucket;
use parquet::file::properties::WriterProperties;
use serde_json::json;
use tempfile::TempDir;

use crate::plans::explain;

/// Key, text and number of a row.
type Row = (Option<i64>, Option<String>, i64);

/// Way in which a table's files are parted, by its key or its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Nothing,
    /// A field that is no more.
    Gone,
    Bucket(i32),
    /// Identity of the text.
    Text,
    /// The text's first characters.
    Start(usize),
    /// The key cut to a multiple.
    Cut(i64),
}

impl By {
    fn parts(self, is_wide: bool) -> Vec<Part> {
        let part = |source, transform: String, avro| vec![Part { source, transform, avro: json!(avro) }];
        match self {
            Self::Nothing => Vec::new(),
            Self::Gone => part(1, "void".to_owned(), "long"),
            Self::Bucket(buckets) => part(1, format!("bucket[{buckets}]"), "int"),
            Self::Text => part(2, "identity".to_owned(), "string"),
            Self::Start(width) => part(2, format!("truncate[{width}]"), "string"),
            Self::Cut(width) => part(1, format!("truncate[{width}]"), if is_wide { "long" } else { "int" }),
        }
    }

    fn partition(self, (key, text, _): &Row, is_wide: bool) -> Vec<Datum> {
        let of_text = |width: usize| match text {
            Some(text) => Datum::Text(text.chars().take(width).collect()),
            None => Datum::Null,
        };
        match (self, key) {
            (Self::Nothing, _) => Vec::new(),
            (Self::Gone, _) => vec![Datum::Null],
            (Self::Text, _) => vec![of_text(usize::MAX)],
            (Self::Start(width), _) => vec![of_text(width)],
            (_, None) => vec![Datum::Null],
            (Self::Bucket(buckets), Some(key)) => vec![Datum::Int(bucket(&key.to_le_bytes(), buckets))],
            (Self::Cut(width), Some(key)) => {
                let cut = key - key.rem_euclid(width);
                vec![if is_wide { Datum::Long(cut) } else { Datum::Int(i32::try_from(cut).expect("32 bits")) }]
            }
        }
    }
}

/// Table with the columns `k`, `s` and a number.
struct Made {
    name: &'static str,
    /// Name of the number's column.
    number: &'static str,
    /// True if `k` is a `bigint`, else an `int`.
    is_wide: bool,
    /// Specs, and the rows of each.
    specs: Vec<(By, Vec<Row>)>,
    /// Rows with these numbers are deleted, by positions or by a vector.
    deleted: fn(i64) -> bool,
}

impl Made {
    fn new(name: &'static str, number: &'static str, by: By, rows: Vec<Row>) -> Self {
        Self { name, number, is_wide: true, specs: vec![(by, rows)], deleted: |_| false }
    }

    /// Writes the table, several files a partition, and returns the statement that makes it.
    fn write(&self, folder: &Path) -> String {
        let location = folder.join(self.name).display().to_string();
        let put = |path: &str, bytes: &[u8]| {
            std::fs::create_dir_all(Path::new(path).parent().expect("a folder")).expect("made");
            std::fs::write(path, bytes).expect("written");
            bytes.len() as u64
        };
        let (mut data, mut deletes) = (Vec::new(), Vec::new());
        for (spec, (by, rows)) in self.specs.iter().enumerate() {
            let mut partitions: BTreeMap<String, (Vec<Datum>, Vec<&Row>)> = BTreeMap::new();
            for row in rows {
                let partition = by.partition(row, self.is_wide);
                partitions.entry(format!("{partition:?}")).or_insert((partition, Vec::new())).1.push(row);
            }
            for (number, (partition, rows)) in partitions.into_values().enumerate() {
                // Files of unequal sizes: lanes would take them from one another, if they might.
                let (few, many) = rows.split_at(rows.len() / 5);
                for (half, rows) in [few, many].into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
                    let path = format!("{location}/data/{spec}-{number}-{half}.parquet");
                    let committed = Committed { spec, partition: partition.clone(), ..Committed::default() };
                    let file = DataFile::new(path.clone(), put(&path, &self.file(rows)), rows.len() as u64);
                    data.push(DataFile { committed: committed.clone(), ..file });
                    let gone = rows.iter().zip(0_u32..).filter(|(row, _)| (self.deleted)(row.2)).map(|(_, at)| at);
                    let gone: Vec<u32> = gone.collect();
                    if !gone.is_empty() {
                        let to = format!("{location}/deletes/{spec}-{number}-{half}");
                        let (bytes, content) = delete(&path, &gone, half == 0);
                        let file = DeleteFile::new(to.clone(), put(&to, &bytes), gone.len() as u64, content);
                        deletes.push(DeleteFile { committed, ..file });
                    }
                }
            }
        }
        let specs = self.specs.iter().map(|(by, _)| by.parts(self.is_wide)).collect();
        let fields = json!([
            {"id": 1, "name": "k", "required": false, "type": if self.is_wide { "long" } else { "int" }},
            {"id": 2, "name": "s", "required": false, "type": "string"},
            {"id": 3, "name": self.number, "required": false, "type": "long"}]);
        let table = IcebergTable { location, fields, specs, data, deletes, ..IcebergTable::default() };
        for (path, bytes) in table.metadata() {
            put(&path, &bytes);
        }
        format!("CREATE EXTERNAL TABLE {} STORED AS ICEBERG LOCATION '{}'", self.name, table.metadata_path())
    }

    fn file(&self, rows: &[&Row]) -> Vec<u8> {
        let keys: ArrayRef = match self.is_wide {
            true => Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            false => Arc::new(rows.iter().map(|row| row.0.map(|key| key as i32)).collect::<Int32Array>()),
        };
        let key_type = if self.is_wide { DataType::Int64 } else { DataType::Int32 };
        let fields = [field(1, "k", key_type), field(2, "s", DataType::Utf8), field(3, self.number, DataType::Int64)];
        let texts: StringArray = rows.iter().map(|row| row.1.as_deref()).collect();
        let numbers: Int64Array = rows.iter().map(|row| Some(row.2)).collect();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(40)).build();
        parquet(&fields, vec![keys, Arc::new(texts), Arc::new(numbers)], properties).expect("a file")
    }

    /// Lists the rows that are left.
    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.specs.iter().flat_map(|(_, rows)| rows).filter(|row| !(self.deleted)(row.2))
    }
}

fn delete(path: &str, gone: &[u32], by_vector: bool) -> (Vec<u8>, Deletes) {
    if by_vector {
        let vector = vector(gone.iter().map(|at| u64::from(*at))).expect("a vector");
        let content = Deletes::Vector { of: path.to_owned(), offset: 4, bytes: vector.len() as u64 };
        return ([b"PFA1", &vector[..], b"a footer"].concat(), content);
    }
    let rows: Vec<(&str, i64)> = gone.iter().map(|at| (path, i64::from(*at))).collect();
    (positions(&rows, WriterProperties::default()).expect("a file"), Deletes::Positions)
}

/// Makes rows of some keys, where those that are multiples of `nulls` are NULL. Texts begin with one of four letters.
fn rows(keys: impl Iterator<Item = i64>, nulls: i64, count: i64) -> Vec<Row> {
    let keys: Vec<i64> = keys.collect();
    let row = |number: i64| {
        let key = keys[(number * 7 % keys.len() as i64) as usize];
        let text = format!("{}{}", ["ä", "b", "c", "d"][(key % 4) as usize], key % 9);
        let is_null = key % nulls == 0;
        ((!is_null).then_some(key), (key % 6 != 0).then_some(text), number)
    };
    (0..count).map(row).collect()
}

fn tables() -> Vec<Made> {
    let a = rows(0..40, 11, 600);
    let narrow = rows(20..70, 13, 200);
    // Some values of the partition field are in one of the tables only.
    let is_in_few = |row: &&Row| row.0.is_some_and(|key| bucket(&key.to_le_bytes(), 4) < 2);
    let few: Vec<Row> = rows(0..40, 7, 100).iter().filter(is_in_few).cloned().collect();
    let (old, new) = a.split_at(300);
    let texts = rows(0..30, 5, 150);
    vec![
        Made::new("a", "v", By::Bucket(4), a.clone()),
        Made { is_wide: false, deleted: |n| n % 4 == 1, ..Made::new("b", "n", By::Bucket(4), narrow.clone()) },
        Made { deleted: |n| n % 3 == 0, ..Made::new("few", "w", By::Bucket(4), few) },
        Made::new("none", "x", By::Bucket(4), Vec::new()),
        Made::new("eight", "e", By::Bucket(8), texts.clone()),
        Made::new("plain", "p", By::Nothing, texts.clone()),
        Made {
            specs: vec![(By::Nothing, old.to_vec()), (By::Bucket(4), new.to_vec())],
            ..Made::new("older", "o", By::Nothing, Vec::new())
        },
        Made {
            specs: vec![(By::Bucket(4), old.to_vec()), (By::Gone, new.to_vec())],
            ..Made::new("gone", "g", By::Nothing, Vec::new())
        },
        Made {
            specs: vec![(By::Bucket(4), old.to_vec()), (By::Bucket(4), new.to_vec())],
            ..Made::new("twice", "t", By::Nothing, Vec::new())
        },
        Made::new("ta", "v", By::Text, a.clone()),
        Made::new("tb", "n", By::Text, narrow.clone()),
        Made::new("sa", "v", By::Start(1), a.clone()),
        Made { deleted: |n| n % 5 == 0, ..Made::new("sb", "n", By::Start(1), narrow.clone()) },
        Made::new("ca", "v", By::Cut(8), a),
        Made { is_wide: false, ..Made::new("cb", "n", By::Cut(8), narrow) },
    ]
}

struct Lake {
    tables: Vec<Made>,
    setup: Vec<String>,
    _folder: TempDir,
}

impl Lake {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let tables = tables();
        let setup = tables.iter().map(|table| table.write(folder.path())).collect();
        Self { tables, setup, _folder: folder }
    }

    async fn session(&self, config: Config) -> Session {
        let session = Session::new(config).expect("a session");
        for statement in &self.setup {
            run(&session, statement).await.expect("setup");
        }
        session
    }

    fn rows(&self, name: &str) -> Vec<&Row> {
        self.tables.iter().find(|table| table.name == name).expect("a table").rows().collect()
    }
}

fn config(target: Target, functions_max: u32, cores: u32) -> Config {
    let mut config = Config { on: target, functions_max, aligned_joins: AlignedPlace::Functions, ..Config::default() };
    config.process.cores = cores;
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    config
}

/// Queries whose joins are aligned, with what EXPLAIN says of the first of them.
const ALIGNED: [(&str, &str); 27] = [
    ("SELECT a.k, v, n FROM a JOIN b ON a.k = b.k", "2 scans by bucket[4] of k = bucket[4] of k; 5 values"),
    ("SELECT a.k, v, n FROM a LEFT JOIN b ON a.k = b.k", "2 scans by bucket[4] of k"),
    ("SELECT b.k, v, n FROM a RIGHT JOIN b ON a.k = b.k", "2 scans"),
    ("SELECT a.k, b.k, v, n FROM a FULL JOIN b ON a.k = b.k", "2 scans"),
    ("SELECT k, v FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k)", "2 scans"),
    ("SELECT k, v FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k)", "2 scans"),
    ("SELECT k, n FROM b WHERE NOT EXISTS (SELECT 1 FROM a WHERE b.k = a.k)", "2 scans"),
    ("SELECT v FROM a WHERE k IN (SELECT k FROM b) OR v < 5", "2 scans"),
    ("SELECT a.k, b.k, v, n FROM a FULL JOIN b ON a.k = b.k AND a.v > b.n * 3", "2 scans"),
    // Values on one side only, and no files at all.
    ("SELECT a.k, v, w FROM a JOIN few ON a.k = few.k", "2 scans"),
    ("SELECT a.k, v, w FROM a LEFT JOIN few ON a.k = few.k", "2 scans"),
    ("SELECT few.k, v, w FROM a RIGHT JOIN few ON a.k = few.k AND v > 100", "2 scans"),
    ("SELECT a.k, few.k, v, w FROM few FULL JOIN a ON a.k = few.k", "2 scans"),
    ("SELECT k, v FROM a WHERE NOT EXISTS (SELECT 1 FROM few WHERE few.k = a.k)", "2 scans"),
    ("SELECT a.k, v, x FROM a LEFT JOIN none ON a.k = none.k", "2 scans"),
    // One of several keys parts the files.
    ("SELECT a.k, v, w FROM a JOIN few ON a.s = few.s AND a.k = few.k", "2 scans"),
    // Filters, expressions, and groups above and below.
    ("SELECT count(*), sum(v + n) FROM a JOIN b ON a.k = b.k WHERE v % 2 = 0 AND n > 10", "2 scans"),
    ("SELECT a.k, count(*), sum(n) FROM a JOIN b ON a.k = b.k GROUP BY a.k", "2 scans"),
    ("SELECT n % 3 AS m, count(*), max(v) FROM a JOIN b ON a.k = b.k GROUP BY n % 3", "2 scans"),
    ("SELECT x.k, x.c, n FROM (SELECT k, count(*) AS c FROM a GROUP BY k) AS x JOIN b ON x.k = b.k", "2 scans"),
    ("SELECT a.k, v, n FROM a JOIN b ON a.k = b.k ORDER BY v DESC, n LIMIT 7", "2 scans"),
    // Three tables, and files of several specs that all have the field.
    ("SELECT a.k, v, n, t FROM a JOIN b ON a.k = b.k JOIN twice ON twice.k = a.k WHERE t < 100", "3 scans"),
    ("SELECT twice.k, t, n FROM twice LEFT JOIN b ON twice.k = b.k", "2 scans"),
    // Other transforms.
    ("SELECT ta.s, v, n FROM ta FULL JOIN tb ON ta.s = tb.s AND ta.v = tb.n", "2 scans by s = s"),
    ("SELECT sa.s, v, n FROM sa LEFT JOIN sb ON sa.s = sb.s AND sa.v = sb.n", "2 scans by truncate[1] of s"),
    ("SELECT ca.k, v, n FROM ca FULL JOIN cb ON ca.k = cb.k", "2 scans by truncate[8] of k = truncate[8] of k"),
    // NULL is equal to NULL.
    ("SELECT k FROM a INTERSECT SELECT k FROM few", ""),
];

/// Runs the queries of [`ALIGNED`] in each of these ways, and compares their rows with the coordinator's.
async fn check_all(ways: Vec<Config>, setup: &[&str]) {
    let lake = Lake::new();
    let local = lake.session(Config { on: Target::Local, ..Config::default() }).await;
    let mut expected = Vec::new();
    for (sql, _) in ALIGNED {
        expected.push(run(&local, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).0);
    }
    local.close().await;
    for config in ways {
        let Config { on, functions_max, shuffle, .. } = config;
        let (cores, mut late_rows) = (config.process.cores, 0);
        let what = format!("{on:?}, {functions_max} functions of {cores} cores, {shuffle:?}, {setup:?}");
        let session = lake.session(config).await;
        for statement in setup {
            run(&session, statement).await.expect("set");
        }
        for ((sql, told), expected) in ALIGNED.iter().zip(&expected) {
            let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{what}: {sql}: {error}"));
            let rule = Rule::same_engine().in_any_order();
            compare(expected, &rows, rule).unwrap_or_else(|difference| panic!("{what}: {sql}: {difference}"));
            assert_remote(&report, sql);
            late_rows += report.functions.late.rows;
            // Groups by other keys go from function to function, where they may.
            if shuffle == ShufflePlace::Local {
                assert_eq!((report.shuffles, report.shuffle_objects), (0, 0), "{what}: {sql}: {report:?}");
            }
            let explained = explain(&session, sql).await;
            let line = explained.lines().find(|line| line.starts_with("aligned "));
            assert!(line.is_some_and(|line| line.contains(told)), "{sql}: {explained}");
            assert!(!explained.contains("aligned      none"), "{sql}: {explained}");
        }
        // Joins of one lane tell their scans the keys.
        assert!(late_rows > 0 || cores > 1, "{what}: no column was late");
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_coordinators_on_one_function() {
    Box::pin(check_all(vec![config(Target::InProcess, 1, 1), config(Target::InProcess, 1, 2)], &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_coordinators_on_several_functions() {
    let ways = [(2, 1), (4, 1), (4, 2)].map(|(functions, cores)| config(Target::InProcess, functions, cores));
    Box::pin(check_all(ways.into(), &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_coordinators_where_functions_send_rows_to_others() {
    let shuffled = Config { shuffle: ShufflePlace::Hash, ..config(Target::InProcess, 2, 2) };
    Box::pin(check_all(vec![shuffled], &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_coordinators_with_sorted_joins_in_processes() {
    Box::pin(check_all(vec![config(Target::Processes, 2, 2)], &["SET datafusion.optimizer.prefer_hash_join = false"]))
        .await;
}

/// Joins by hand.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_those_that_each_join_has() {
    let lake = Lake::new();
    let session = lake.session(config(Target::InProcess, 3, 2)).await;
    let (a, b) = (lake.rows("a"), lake.rows("b"));
    let meet = |left: &Row, right: &Row| left.0.is_some() && left.0 == right.0;
    let text = |row: Option<&Row>| row.map_or_else(|| "NULL|NULL".to_owned(), |row| format!("{}|{}", key(row), row.2));
    let pairs = |keeps_left: bool, keeps_right: bool| {
        let mut pairs = Vec::new();
        for left in &a {
            let matches: Vec<&&Row> = b.iter().filter(|right| meet(left, right)).collect();
            pairs.extend(matches.iter().map(|right| format!("{}|{}", text(Some(left)), text(Some(right)))));
            if keeps_left && matches.is_empty() {
                pairs.push(format!("{}|{}", text(Some(left)), text(None)));
            }
        }
        let alone = b.iter().filter(|right| keeps_right && !a.iter().any(|left| meet(left, right)));
        pairs.extend(alone.map(|right| format!("{}|{}", text(None), text(Some(right)))));
        pairs
    };
    let halves = |wanted: bool| {
        let own = a.iter().filter(|left| b.iter().any(|right| meet(left, right)) == wanted);
        own.map(|left| text(Some(left))).collect::<Vec<_>>()
    };
    for (sql, mut expected) in [
        ("SELECT a.k, v, b.k, n FROM a JOIN b ON a.k = b.k", pairs(false, false)),
        ("SELECT a.k, v, b.k, n FROM a LEFT JOIN b ON a.k = b.k", pairs(true, false)),
        ("SELECT a.k, v, b.k, n FROM a RIGHT JOIN b ON a.k = b.k", pairs(false, true)),
        ("SELECT a.k, v, b.k, n FROM a FULL JOIN b ON a.k = b.k", pairs(true, true)),
        ("SELECT k, v FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k)", halves(true)),
        ("SELECT k, v FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k)", halves(false)),
    ] {
        let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let mut found = lines(&rows, "NULL");
        found.sort();
        expected.sort();
        assert!(!expected.is_empty());
        assert_eq!(found, expected, "{sql}");
        assert_remote(&report, sql);
        assert!(explain(&session, sql).await.contains("aligned      2 scans"), "{sql}");
    }
    session.close().await;
}

fn key(row: &Row) -> String {
    row.0.map_or_else(|| "NULL".to_owned(), |key| key.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_that_would_lose_rows_are_not_aligned() {
    let lake = Lake::new();
    let local = lake.session(Config { on: Target::Local, ..Config::default() }).await;
    let session = lake.session(config(Target::InProcess, 3, 2)).await;
    for (sql, told) in [
        ("SELECT v, e FROM a JOIN eight ON a.k = eight.k", "by bucket[4] of k, by bucket[8] of k"),
        ("SELECT v, p FROM a JOIN plain ON a.k = plain.k", "by bucket[4] of k, not by k"),
        // Some files are older than the spec, or newer.
        ("SELECT v, o FROM a JOIN older ON a.k = older.k", "by bucket[4] of k, not by k"),
        ("SELECT v, g FROM a JOIN gone ON a.k = gone.k", "by bucket[4] of k, not by k"),
        ("SELECT v, n FROM a JOIN b ON a.k + 1 = b.k + 1", "no key is a column of a table on each side"),
        ("SELECT v, n FROM a JOIN b ON a.v = b.n", "not by v, not by n"),
        ("SELECT v, n FROM a JOIN tb ON a.s = tb.s", "not by s, by s"),
        ("SELECT v, n FROM sa JOIN tb ON sa.s = tb.s", "by truncate[1] of s, by s"),
        ("SELECT v, n FROM a JOIN b ON CAST(a.k AS DOUBLE) = CAST(b.k AS DOUBLE)", "no key is a column"),
        ("SELECT v, n FROM a JOIN (SELECT * FROM b LIMIT 30) AS b ON a.k = b.k", "a side is more than one scan"),
        // A key of the lower join is widened above it.
        ("SELECT v, n, t FROM a JOIN b ON a.k = b.k JOIN twice ON twice.k = b.k", "a side is more than one scan"),
        ("SELECT k FROM a WHERE k NOT IN (SELECT k FROM few WHERE k IS NOT NULL)", "a NULL of NOT IN decides"),
    ] {
        let (expected, _) = run(&local, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        // Any thirty rows may be taken.
        if !sql.contains("LIMIT") {
            let rule = Rule::same_engine().in_any_order();
            compare(&expected, &rows, rule).unwrap_or_else(|difference| panic!("{sql}: {difference}"));
            assert_remote(&report, sql);
        }
        let explained = explain(&session, sql).await;
        let line = explained.lines().find(|line| line.starts_with("aligned      none of ["));
        // DataFusion chooses which side is told first.
        let is_told = |line: &str| told.split(", ").all(|part| line.contains(part));
        assert!(line.is_some_and(is_told), "{told}: {explained}");
        // The lower of two joins is aligned.
        let joins = if sql.contains("twice") { 2 } else { 1 };
        assert_eq!(explained.matches("\naligned ").count(), joins, "{explained}");
    }
    local.close().await;
    session.close().await;
}

/// Rows of an aligned join go to functions of another stage, and copies of small sides are no reason against it.
#[tokio::test(flavor = "multi_thread")]
async fn an_aligned_join_stands_beside_other_ways() {
    let lake = Lake::new();
    let local = lake.session(Config { on: Target::Local, ..Config::default() }).await;
    let shuffling = Config {
        shuffle: ShufflePlace::Hash,
        shuffle_partitions: Some(7),
        join: JoinPlace::Broadcast,
        ..config(Target::InProcess, 3, 2)
    };
    let session = lake.session(shuffling).await;
    for (sql, shuffles) in [
        ("SELECT a.k, v, n FROM a JOIN b ON a.k = b.k", 0),
        ("SELECT n % 3 AS m, count(*), max(v) FROM a JOIN b ON a.k = b.k GROUP BY n % 3", 1),
        ("SELECT a.k, v, n, p FROM a JOIN b ON a.k = b.k FULL JOIN plain ON plain.p = b.n", 2),
    ] {
        let (expected, _) = run(&local, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let rule = Rule::same_engine().in_any_order();
        compare(&expected, &rows, rule).unwrap_or_else(|difference| panic!("{sql}: {difference}"));
        assert_remote(&report, sql);
        let explained = explain(&session, sql).await;
        assert!(explained.contains("aligned      2 scans"), "{sql}: {explained}");
        assert_eq!(report.shuffles, shuffles, "{sql}: {explained}");
    }
    local.close().await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_make_no_row_are_not_read() {
    let lake = Lake::new();
    let session = lake.session(config(Target::InProcess, 1, 1)).await;
    for (sql, units) in [
        // Two of four buckets, and no NULL, are in both tables. A partition has two files in each.
        ("SELECT v, w FROM a JOIN few ON a.k = few.k", "1 fragments of 8 scan units"),
        ("SELECT v, w FROM a RIGHT JOIN few ON a.k = few.k", "1 fragments of 8 scan units"),
        ("SELECT v, w FROM a LEFT JOIN few ON a.k = few.k", "1 fragments of 14 scan units"),
        ("SELECT v, x FROM a JOIN none ON a.k = none.k", "0 fragments of 0 scan units"),
    ] {
        let explained = explain(&session, sql).await;
        assert!(explained.contains(units), "{sql}: {explained}");
        run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    session.close().await;
}

/// All rows are of one bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_partition_is_read_by_several_functions() {
    let mut lake = Lake::new();
    let folder = TempDir::new().expect("a folder");
    let keys: Vec<i64> = (0..60).filter(|key: &i64| bucket(&key.to_le_bytes(), 4) == 1).collect();
    let key = |n: i64, of: usize| Some(keys[n as usize % of]);
    let skewed: Vec<Row> = (0..4000).map(|n| (key(n, 7), None, n)).collect();
    let small: Vec<Row> = (0..20).map(|n| (key(n, 9), None, n)).collect();
    // Lanes of one function read the same files of the small table, and what is deleted of them.
    let large = Made { deleted: |n| n % 5 == 0, ..Made::new("large", "v", By::Bucket(4), skewed) };
    let small = Made { deleted: |n| n % 3 == 0, ..Made::new("small", "n", By::Bucket(4), small) };
    for table in [large, small] {
        lake.setup.push(table.write(folder.path()));
    }
    let local = lake.session(Config { on: Target::Local, ..Config::default() }).await;
    let session = lake.session(config(Target::InProcess, 4, 2)).await;
    for (sql, is_split) in [
        ("SELECT large.k, v, n FROM large JOIN small ON large.k = small.k", true),
        ("SELECT large.k, v, n FROM large LEFT JOIN small ON large.k = small.k", true),
        ("SELECT count(*), sum(v * n) FROM large JOIN small ON large.k = small.k", true),
        ("SELECT k, v FROM large WHERE NOT EXISTS (SELECT 1 FROM small WHERE small.k = large.k AND n > 12)", true),
        // Rows of the small table would come several times, and groups in parts.
        ("SELECT small.k, v, n FROM large RIGHT JOIN small ON large.k = small.k AND v < 9", false),
        ("SELECT small.k, v, n FROM large FULL JOIN small ON large.k = small.k AND v < 9", false),
        ("SELECT k, n FROM small WHERE EXISTS (SELECT 1 FROM large WHERE small.k = large.k)", false),
        ("SELECT large.k, count(*), sum(n) FROM large JOIN small ON large.k = small.k GROUP BY large.k", false),
    ] {
        let (expected, _) = run(&local, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let rule = Rule::same_engine().in_any_order();
        compare(&expected, &rows, rule).unwrap_or_else(|difference| panic!("{sql}: {difference}"));
        assert_remote(&report, sql);
        let explained = explain(&session, sql).await;
        assert!(explained.contains("aligned      2 scans by bucket[4]"), "{explained}");
        assert_eq!(report.fragments_adopted > 1, is_split, "{sql}: {explained}");
    }
    local.close().await;
    session.close().await;
}
