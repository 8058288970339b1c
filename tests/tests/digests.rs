//! Delete files that the coordinator reads once for all functions.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int32Array,
    Int64Array, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};
use gust_engine::config::{Config, Target};
use gust_engine::planner::DigestBounds;
use gust_engine::session::{Engine, EngineOptions, Session, SessionOptions};
use gust_tests::asks::lines;
use gust_tests::cloud;
use gust_tests::iceberg::{Committed, DataFile, DeleteFile, Deletes, IcebergTable, field, parquet};
use gust_tests::query::{assert_remote, run};
use gust_tests::s3::identity::{COORDINATOR, access_key};
use gust_tests::s3::shape::{Befallen, Faults};
use gust_tests::s3::{Operation, Request, S3Server, Shape, StorageFault};
use parquet::file::properties::WriterProperties;
use serde_json::json;
use tempfile::TempDir;

use super::deletes::{Places, ROWS};

/// Data files and commits of keys of [`commits`].
const FILES: i64 = 6;
const COMMITS: i64 = 12;

/// Writes a table as a writer of streams leaves it. Commit `n` deletes row `n - 1` of all files, and leaves those of files that are as
/// new: file `n` is of commit `n`.
async fn commits(server: &S3Server) -> String {
    let places = Places(server);
    let committed = |number| Committed { sequence_number: Some(number), ..Committed::default() };
    let (mut files, mut deletes) = (Vec::new(), Vec::new());
    for file in 0..FILES {
        let written = places.data(&server.url(&format!("t/data/{file}.parquet")), 100 * file).await;
        files.push(DataFile { committed: committed(file), ..written });
    }
    for number in 1..=COMMITS {
        let ids: Vec<i64> = (0..FILES).map(|file| 100 * file + number - 1).collect();
        let written = places.keys(&server.url(&format!("t/deletes/k{number}.parquet")), &ids).await;
        deletes.push(DeleteFile { committed: committed(number), ..written });
    }
    places.table(&server.url("t"), files, deletes).await
}

fn left_of_commits() -> Vec<String> {
    let left = |id: &i64| id % 100 < ROWS && !(id / 100..COMMITS).contains(&(id % 100));
    (0..100 * FILES).filter(left).map(|id| id.to_string()).collect()
}

/// Many fragments would read many bytes of one file of positions. The coordinator reads it, and no function does.
#[tokio::test(flavor = "multi_thread")]
async fn positions_that_many_fragments_need_are_read_once() {
    const LONG_ROWS: i64 = 30_000;
    let server = S3Server::start().expect("a server");
    let places = Places(&server);
    let names: Vec<String> = (0..FILES).map(|file| server.url(&format!("t/data/{file:040}.parquet"))).collect();
    let mut files = Vec::new();
    for (name, file) in names.iter().zip(0..) {
        files.push(places.long_data(name, file * LONG_ROWS, LONG_ROWS).await);
    }
    // A file of which no row is deleted, in a fragment of its own.
    files.push(places.long_data(&server.url("t/data/whole.parquet"), FILES * LONG_ROWS, LONG_ROWS).await);
    // All rows but each file's last 100, and the one in the middle of the others.
    let deleted = |row: &i64| *row < LONG_ROWS - 100 && *row != LONG_ROWS / 2;
    let rows = names.iter().flat_map(|name| (0..LONG_ROWS).filter(deleted).map(|row| (name.as_str(), row)));
    let deletes = places.positions(&server.url("t/deletes/p.parquet"), &rows.collect::<Vec<_>>()).await;
    let metadata = places.table(&server.url("t"), files, vec![deletes]).await;
    let config = Config { on: Target::Processes, functions_max: FILES as u32 + 1, ..Config::default() };
    let bootstrap = env!("CARGO_BIN_EXE_bootstrap_under_test");
    let session = cloud::session(&server, config, bootstrap.as_ref()).expect("a session");
    run(&session, &format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'")).await.expect("a table");
    server.take_requests();
    let (rows, report) = run(&session, "SELECT count(*), min(id), max(id) FROM t").await.expect("rows");
    let left = FILES * 101 + LONG_ROWS;
    assert_eq!(lines(&rows, ""), [format!("{left}|{}|{}", LONG_ROWS / 2, (FILES + 1) * LONG_ROWS - 1)]);
    assert_remote(&report, "positions");
    assert_eq!(
        (report.delete_vectors_in_exchange, report.fragments),
        (FILES as usize, FILES as usize + 1),
        "{report:?}"
    );
    let of_positions = |request: &Request| request.key.ends_with("p.parquet");
    let readers: BTreeSet<String> =
        server.take_requests().into_iter().filter(of_positions).map(|request| request.identity).collect();
    assert_eq!(readers, BTreeSet::from([access_key(COORDINATOR)]));
    session.close().await;
}

/// Many fragments would read many small files of keys, as a writer of streams leaves them. The coordinator reads each once, and a
/// fragment reads one object.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_many_fragments_need_are_read_once() {
    let server = S3Server::start().expect("a server");
    let metadata = commits(&server).await;
    let expect = left_of_commits();
    for target in [Target::Local, Target::Processes] {
        let exchange = Some(server.url("exchange"));
        let config = Config { on: target, functions_max: FILES as u32, exchange, ..Config::default() };
        let bootstrap = env!("CARGO_BIN_EXE_bootstrap_under_test");
        let session = cloud::session(&server, config, bootstrap.as_ref()).expect("a session");
        let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
        run(&session, &create).await.expect("a table");
        server.take_requests();
        let (rows, report) = run(&session, "SELECT id FROM t ORDER BY id").await.expect("rows");
        assert_eq!(lines(&rows, ""), expect, "{target:?}");
        let requests = server.take_requests();
        let of = |name: &str, operation| {
            let is_of = |request: &&Request| request.key.ends_with(name) && request.operation == operation;
            requests.iter().filter(is_of).map(|request| request.identity.as_str()).collect::<Vec<_>>()
        };
        for number in 1..=COMMITS {
            let readers = of(&format!("/k{number}.parquet"), Operation::Get);
            // The first is of use to one fragment only, which reads it itself.
            let by_function = target == Target::Processes && number == 1;
            assert_eq!(readers.len(), 1, "{target:?}, {number}: {readers:?}");
            assert_eq!(readers != [access_key(COORDINATOR)], by_function, "{target:?}, {number}: {readers:?}");
        }
        if target == Target::Processes {
            assert_remote(&report, "keys");
            assert_eq!((report.delete_keys_in_exchange, report.fragments), (1, FILES as usize), "{report:?}");
            assert_eq!(of("/0/deletes", Operation::Put), [access_key(COORDINATOR)]);
            let readers = of("/0/deletes", Operation::Get);
            assert_eq!(readers.len(), FILES as usize, "{readers:?}");
            assert!(!readers.contains(&access_key(COORDINATOR).as_str()), "{readers:?}");
            // It is removed at the query's end.
            assert!(requests.iter().any(|request| request.operation == Operation::DeleteMany), "{requests:?}");
            let statement = session.parse("SELECT id FROM t").expect("SQL").remove(0);
            let explained = session.explain(statement).await.expect("a plan");
            assert!(explained.contains("the coordinator reads 11 delete files once, "), "{explained}");
        }
        session.close().await;
    }
}

/// A store that fails the coordinator's reads, again and again, is no reason for a query to fail: functions read the files.
#[tokio::test(flavor = "multi_thread")]
async fn functions_read_what_the_store_does_not_give_the_coordinator() {
    let server = S3Server::start().expect("a server");
    let metadata = commits(&server).await;
    // The coordinator's reads of the delete files, and its write of the digest.
    for (befallen, faults_min, objects) in [("t/deletes/k", 11, 0), ("/0/deletes", 1, 1)] {
        server.set_shape(None);
        let exchange = Some(server.url("exchange"));
        let config = Config { on: Target::Processes, functions_max: FILES as u32, exchange, ..Config::default() };
        let bootstrap = env!("CARGO_BIN_EXE_bootstrap_under_test");
        let session = cloud::session(&server, config, bootstrap.as_ref()).expect("a session");
        let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
        run(&session, &create).await.expect("a table");
        let faults = Faults { internal_error: 1.0, ..Faults::default() };
        let shape = Shape { seed: 1, scale: 1.0, pipe: None, latency: None, limits: None, faults };
        server.set_shape_for(Befallen { identity: access_key(COORDINATOR), key: befallen.to_owned() }, shape);
        server.take_requests();
        let (rows, report) = run(&session, "SELECT id FROM t ORDER BY id").await.expect("rows");
        assert_eq!(lines(&rows, ""), left_of_commits(), "{befallen}");
        assert_remote(&report, "keys");
        assert_eq!((report.deletes_in_exchange, report.attempts_retried), (objects, 0), "{befallen}: {report:?}");
        let fired = server.fired()[&StorageFault::InternalError];
        assert!(fired >= faults_min, "{befallen}: {fired} faults");
        let coordinator = access_key(COORDINATOR);
        let is_of_keys = |request: &&Request| request.key.contains("t/deletes/k") && request.identity != coordinator;
        let by_functions = server.take_requests().iter().filter(is_of_keys).count();
        assert!(by_functions >= 57, "{befallen}: {by_functions} reads");
        session.close().await;
    }
}

/// Writes a table of local files, with one data file for each part of its columns.
struct LocalTable {
    folder: TempDir,
    fields: Vec<Field>,
    data: Vec<DataFile>,
    deletes: Vec<DeleteFile>,
}

impl LocalTable {
    fn new(fields: Vec<Field>) -> Self {
        Self { folder: TempDir::new().expect("a folder"), fields, data: Vec::new(), deletes: Vec::new() }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> (String, u64) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        (path.display().to_string(), bytes.len() as u64)
    }

    fn add_data(&mut self, columns: Vec<ArrayRef>) {
        let rows = columns[0].len() as u64;
        let bytes = parquet(&self.fields, columns, WriterProperties::default()).expect("a file");
        let (path, size) = self.put(&format!("data/{}.parquet", self.data.len()), &bytes);
        self.data.push(DataFile::new(path, size, rows));
    }

    fn add_keys(&mut self, ids: &[i32], columns: Vec<ArrayRef>) {
        let rows = columns[0].len() as u64;
        let of = |id: &i32| self.fields[*id as usize - 1].clone();
        let bytes = parquet(&ids.iter().map(of).collect::<Vec<_>>(), columns, WriterProperties::default());
        let (path, size) = self.put(&format!("deletes/{}.parquet", self.deletes.len()), &bytes.expect("a file"));
        self.deletes.push(DeleteFile::new(path, size, rows, Deletes::Keys(ids.to_vec())));
    }

    /// Writes the metadata, with a type of the format for each column, and returns the path of its file.
    fn metadata(&self, types: &[&str]) -> String {
        let column = |(field, of): (&Field, &&str)| {
            let id = field.name()[1..].parse::<i32>().expect("a number");
            json!({"id": id, "name": field.name(), "required": false, "type": of})
        };
        let table = IcebergTable {
            location: self.folder.path().display().to_string(),
            fields: self.fields.iter().zip(types).map(column).collect::<Vec<_>>().into(),
            data: self.data.clone(),
            deletes: self.deletes.clone(),
            ..IcebergTable::default()
        };
        for (path, bytes) in table.metadata() {
            std::fs::create_dir_all(std::path::Path::new(&path).parent().expect("a folder")).expect("made");
            std::fs::write(path, bytes).expect("written");
        }
        table.metadata_path()
    }
}

/// Opens sessions here, and on functions with a digest of all that can be digested.
fn sessions() -> [(Target, Session); 2] {
    [Target::Local, Target::InProcess].map(|on| {
        let options = EngineOptions { digest: DigestBounds::NONE, ..EngineOptions::default() };
        let engine = Engine::open(Config { on, functions_max: 3, ..Config::default() }, options).expect("an engine");
        (on, engine.session(SessionOptions::default()).expect("a session"))
    })
}

/// Files of six rows, the last of NULLs. By each column's keys, rows 1, 3 and 5 are deleted; by keys of two columns row 1 alone.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_all_types_delete_the_same_rows_in_functions() {
    let rows = || (0..6_i64).map(|row| (row < 5).then_some(row));
    let decimals: Decimal128Array = rows().map(|row| row.map(|row| i128::from(row) * 1_001 - 2_500)).collect();
    let decimals = decimals.with_precision_and_scale(9, 2).expect("few digits");
    let times = || rows().map(|row| row.map(|row| 1_700_000_000_123_456 + row * 86_400_000_001));
    let zoned = times().collect::<TimestampMicrosecondArray>().with_timezone("UTC");
    let clocks: Time64MicrosecondArray = rows().map(|row| row.map(|row| row * 17_000_000_001)).collect();
    let bytes = || rows().map(|row| row.map(|row| vec![0, 255 - row as u8, b'x']));
    let fixed = |width: i32| {
        let values = rows().map(|row| row.map(|row| vec![row as u8; width as usize]));
        FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, width).expect("of this width")
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("decimal(9, 2)", Arc::new(decimals)),
        ("date", Arc::new(rows().map(|row| row.map(|row| row as i32 * 10_000 - 20_000)).collect::<Date32Array>())),
        ("timestamp", Arc::new(times().collect::<TimestampMicrosecondArray>())),
        ("timestamptz", Arc::new(zoned)),
        ("time", Arc::new(clocks)),
        ("boolean", Arc::new(rows().map(|row| row.map(|row| row % 2 == 1)).collect::<BooleanArray>())),
        ("binary", Arc::new(bytes().collect::<BinaryArray>())),
        ("fixed[4]", Arc::new(fixed(4))),
        ("string", Arc::new(rows().map(|row| row.map(|row| format!("é{row}"))).collect::<StringArray>())),
        ("int", Arc::new(rows().map(|row| row.map(|row| row as i32 - 2)).collect::<Int32Array>())),
        ("long", Arc::new(rows().map(|row| row.map(|row| row << 40)).collect::<Int64Array>())),
    ];
    let types: Vec<&str> = columns.iter().map(|(of, _)| *of).chain(["long"]).collect();
    let take = |values: &ArrayRef, rows: &[u64]| {
        arrow::compute::take(values, &arrow::array::UInt64Array::from(rows.to_vec()), None).expect("rows")
    };
    let fields = || {
        let all = columns.iter().map(|(_, values)| values.data_type().clone()).chain([DataType::Int64]);
        all.zip(1..).map(|(of, id)| field(id, &format!("c{id}"), of)).collect::<Vec<_>>()
    };
    let number = columns.len() + 1;
    let sessions = sessions();
    for place in 0..columns.len() {
        for is_pair in [false, true] {
            let mut table = LocalTable::new(fields());
            for file in 0..3_i64 {
                let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..6).map(|row| 10 * file + row)));
                table.add_data(columns.iter().map(|(_, values)| Arc::clone(values)).chain([ids]).collect());
            }
            let next = (place + 1) % columns.len();
            let (first, second) = (place.min(next), place.max(next));
            match is_pair {
                false => table.add_keys(&[place as i32 + 1], vec![take(&columns[place].1, &[1, 3, 5])]),
                true => table.add_keys(
                    &[first as i32 + 1, second as i32 + 1],
                    vec![take(&columns[first].1, &[1, 3, 5]), take(&columns[second].1, &[1, 2, 4])],
                ),
            }
            let metadata = table.metadata(&types);
            let left: &[i64] = if is_pair { &[0, 2, 3, 4, 5] } else { &[0, 2, 4] };
            let expect: Vec<String> =
                (0..3).flat_map(|file| left.iter().map(move |row| (10 * file + row).to_string())).collect();
            for (on, session) in &sessions {
                let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
                run(session, &create).await.expect("a table");
                let sql = format!("SELECT c{number} FROM t ORDER BY c{number}");
                let (rows, report) = run(session, &sql).await.expect("rows");
                assert_eq!(lines(&rows, ""), expect, "{}, pair: {is_pair}, {on:?}", types[place]);
                if *on == Target::InProcess {
                    assert_remote(&report, types[place]);
                    assert_eq!(report.delete_keys_in_exchange, 1, "{report:?}");
                }
                run(session, "DROP TABLE t").await.expect("dropped");
            }
        }
    }
    for (_, session) in sessions {
        session.close().await;
    }
}

/// Two kinds of keys, in lists of several batches, and numbers of their own: files of both commits have rows that the first deletes.
#[tokio::test(flavor = "multi_thread")]
async fn long_lists_of_keys_delete_the_same_rows_in_functions() {
    const KEYS: i64 = 50_000;
    let mut table = LocalTable::new(vec![field(1, "c1", DataType::Int64), field(2, "c2", DataType::Int64)]);
    let longs = |values: &mut dyn Iterator<Item = i64>| Arc::new(Int64Array::from_iter_values(values)) as ArrayRef;
    for file in 0..3_i64 {
        let ids = || (0..30_000).map(move |row| 30_000 * file + row);
        table.add_data(vec![longs(&mut ids()), longs(&mut ids().map(|id| id % 1_000))]);
        table.data[file as usize].committed.sequence_number = Some(1 + 2 * file);
    }
    // Ids below 50,000 and even by the second commit, all of them by the fourth; two remainders by the sixth.
    table.add_keys(&[1], vec![longs(&mut (0..KEYS).step_by(2))]);
    table.add_keys(&[1], vec![longs(&mut (0..KEYS))]);
    table.add_keys(&[2], vec![longs(&mut [7, 500].into_iter())]);
    for (deletes, number) in table.deletes.iter_mut().zip([2, 4, 6]) {
        deletes.committed.sequence_number = Some(number);
    }
    let metadata = table.metadata(&["long", "long"]);
    // Files 0 and 1 are older than the fourth commit, file 2 is older than the sixth only.
    let left = (50_000..90_000_i64).filter(|id| ![7, 500].contains(&(id % 1_000))).collect::<Vec<_>>();
    let expect = format!("{}|{}|{}", left.len(), left[0], left.iter().sum::<i64>());
    for (on, session) in sessions() {
        let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
        run(&session, &create).await.expect("a table");
        let (rows, report) = run(&session, "SELECT count(*), min(c1), sum(c1) FROM t").await.expect("rows");
        assert_eq!(lines(&rows, ""), [expect.as_str()], "{on:?}");
        if on == Target::InProcess {
            assert_remote(&report, "long lists");
            assert_eq!(report.delete_keys_in_exchange, 2, "{report:?}");
        }
        session.close().await;
    }
}

/// The specification allows no keys of floats.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_floats_are_refused() {
    let mut table = LocalTable::new(vec![field(1, "c1", DataType::Float64)]);
    let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN]));
    table.add_data(vec![Arc::clone(&values)]);
    table.add_keys(&[1], vec![values]);
    let metadata = table.metadata(&["double"]);
    for (on, session) in sessions() {
        let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
        run(&session, &create).await.expect("a table");
        let error = run(&session, "SELECT c1 FROM t").await.map(|_| ()).expect_err("keys of floats").to_string();
        assert!(error.contains("equality deletes by column c1 of type double"), "{on:?}: {error}");
        session.close().await;
    }
}
