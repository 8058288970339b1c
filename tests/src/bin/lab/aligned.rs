//! A join of two Iceberg tables that are parted alike, over the loopback S3: objects of the exchange, and seconds beside those of the scans alone.
//!
//! The server counts the objects. Each statement runs in function processes, by turns with the others, and the scans read the columns that the join
//! reads. Behind pipes of Lambda's functions the network decides, on the loopback the two cores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use gust_engine::config::{AlignedPlace, Config, JoinPlace, ShufflePlace, Target};
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::cloud;
use gust_tests::iceberg::{Committed, DataFile, Datum, IcebergTable, Part, field, parquet};
use gust_tests::query::run;
use gust_tests::random_tables::bucket;
use gust_tests::s3::{Operation, S3Server, Shape};
use gust_tests::stats::median;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::json;

use super::tax::sibling;
use super::workload::AlignedJoins;
use super::{Bound, Outcome};

/// Folder of the exchange in the bucket.
const EXCHANGE: &str = "exchange";

const JOIN: &str = "SELECT count(*), sum(v), sum(w) FROM a JOIN b ON a.k = b.k";
const SCANS: &str = "SELECT count(k), sum(v) FROM a UNION ALL SELECT count(k), sum(w) FROM b";

/// A statement and the place of its joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Scans,
    Aligned,
    /// Rows go from functions to functions.
    Shuffled,
}

impl Way {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Scans, "scans alone"), (Self::Aligned, "aligned join"), (Self::Shuffled, "join over the exchange")];

    fn sql(self) -> &'static str {
        if self == Self::Scans { SCANS } else { JOIN }
    }
}

/// Runs of a statement.
#[derive(Debug, Default, Serialize)]
struct Samples {
    seconds: Vec<f64>,
    /// Objects that a run writes into the exchange, at most.
    objects: usize,
    fragments: usize,
    all_remote: bool,
    all_right: bool,
}

pub async fn measure(settings: &AlignedJoins, shape: &Shape) -> anyhow::Result<Outcome> {
    let server = S3Server::start()?;
    let (a, b) = tables(settings, &server).await?;
    let setup = format!("{a}; {b}");
    let local = cloud::session(&server, Config { on: Target::Local, ..Config::default() }, &bootstrap()?)?;
    run(&local, &setup).await?;
    let expected =
        BTreeMap::from([(JOIN, sorted(&run(&local, JOIN).await?.0)), (SCANS, sorted(&run(&local, SCANS).await?.0))]);
    local.close().await;
    let mut sessions = Vec::new();
    for (way, _) in Way::ALL {
        let config = Config {
            on: Target::Processes,
            functions_max: settings.functions,
            aligned_joins: if way == Way::Aligned { AlignedPlace::Functions } else { AlignedPlace::Local },
            shuffle: if way == Way::Shuffled { ShufflePlace::Hash } else { ShufflePlace::Local },
            join: JoinPlace::Local,
            exchange: Some(server.url(EXCHANGE)),
            ..Config::default()
        };
        let session = cloud::session(&server, config, &bootstrap()?)?;
        run(&session, &setup).await?;
        sessions.push((way, session));
    }
    let explained = explain(&sessions, Way::Aligned).await?;
    let mut samples = Vec::new();
    for (place, shape) in [("loopback", None), ("pipes of Lambda", Some(shape.clone()))] {
        server.set_shape(shape);
        samples.push((place, turns(settings, &server, &sessions, &expected).await?));
    }
    server.set_shape(None);
    for (_, session) in sessions {
        session.close().await;
    }
    Ok(outcome(settings, &samples, &explained))
}

fn bootstrap() -> anyhow::Result<std::path::PathBuf> {
    sibling("bootstrap_under_test")
}

/// Runs each statement by turns.
async fn turns(
    settings: &AlignedJoins,
    server: &S3Server,
    sessions: &[(Way, Session)],
    expected: &BTreeMap<&str, Vec<String>>,
) -> anyhow::Result<BTreeMap<Way, Samples>> {
    let mut samples: BTreeMap<Way, Samples> = BTreeMap::new();
    for turn in 0..=settings.runs {
        for (way, session) in sessions {
            server.take_requests();
            let started = Instant::now();
            let (rows, report) = run(session, way.sql()).await?;
            let seconds = started.elapsed().as_secs_f64();
            let own = samples.entry(*way).or_insert_with(|| Samples {
                all_remote: true,
                all_right: true,
                ..Samples::default()
            });
            // The first turn starts functions and reads footers.
            if turn > 0 {
                own.seconds.push(seconds);
            }
            let writes = [Operation::Put, Operation::CompleteMultipart];
            let requests = server.take_requests();
            let objects = requests.iter().filter(|request| request.key.starts_with(EXCHANGE));
            own.objects = own.objects.max(objects.filter(|request| writes.contains(&request.operation)).count());
            own.fragments = report.fragments;
            own.all_remote &= report.fragments > 0 && report.fragments_adopted == report.fragments;
            own.all_right &= expected.get(way.sql()) == Some(&sorted(&rows));
        }
    }
    Ok(samples)
}

async fn explain(sessions: &[(Way, Session)], wanted: Way) -> anyhow::Result<String> {
    let Some((way, session)) = sessions.iter().find(|(way, _)| *way == wanted) else { anyhow::bail!("no session") };
    Ok(session.explain(session.parse(way.sql())?.remove(0)).await?)
}

fn sorted(rows: &[arrow::array::RecordBatch]) -> Vec<String> {
    let mut lines = lines(rows, "NULL");
    lines.sort();
    lines
}

fn outcome(settings: &AlignedJoins, samples: &[(&str, BTreeMap<Way, Samples>)], explained: &str) -> Outcome {
    let AlignedJoins { rows, other_rows, buckets, functions, .. } = settings;
    let mut table = vec![
        format!("{rows} and {other_rows} rows in bucket[{buckets}] of k; {functions} function processes"),
        "S3               statement               fragments  objects  seconds  × scans".to_owned(),
    ];
    let (mut bounds, mut validity) = (Vec::new(), Vec::new());
    for (place, samples) in samples {
        let scans = median(&samples[&Way::Scans].seconds);
        for (way, name) in Way::ALL {
            let Samples { seconds, objects, fragments, .. } = &samples[&way];
            let seconds = median(seconds);
            table.push(format!(
                "{place:<15}  {name:<22}  {fragments:>9}  {objects:>7}  {seconds:>7.3}  {:>7.2}",
                seconds / scans
            ));
        }
        let aligned = &samples[&Way::Aligned];
        let limits = if *place == "loopback" { settings.seconds } else { settings.seconds_behind_pipes };
        bounds.push(Bound {
            what: format!("objects of the exchange, {place}"),
            measured: aligned.objects as f64,
            aim: settings.objects.aim,
            worst: settings.objects.worst,
            unit: "",
        });
        bounds.push(Bound {
            what: format!("seconds over those of the scans, {place}"),
            measured: median(&aligned.seconds) / scans,
            aim: limits.aim,
            worst: limits.worst,
            unit: "",
        });
        let all = |holds: fn(&Samples) -> bool| samples.values().all(holds);
        validity.push((format!("every fragment came from a function, {place}"), all(|own| own.all_remote)));
        validity.push((format!("rows are the coordinator's, {place}"), all(|own| own.all_right)));
        let shuffled = samples[&Way::Shuffled].objects;
        validity.push((format!("the other join writes objects, {place}"), shuffled > 0));
    }
    validity.push(("the join is aligned".to_owned(), explained.contains("aligned      2 scans by bucket")));
    let samples: BTreeMap<&str, BTreeMap<&str, &Samples>> = samples
        .iter()
        .map(|(place, samples)| (*place, Way::ALL.iter().map(|(way, name)| (*name, &samples[way])).collect()))
        .collect();
    Outcome { name: "aligned", table, bounds, validity, samples: json!(samples) }
}

/// Writes both tables, and returns the statements that make them. Each key of the second has one row, and about as many rows of the first.
async fn tables(settings: &AlignedJoins, server: &S3Server) -> anyhow::Result<(String, String)> {
    let mut random = StdRng::seed_from_u64(settings.seed);
    let keys = i64::try_from(settings.other_rows)?;
    let of_a: Vec<i64> = (0..settings.rows).map(|_| random.random_range(0..keys)).collect();
    let a = table(settings, server, "a", "v", &of_a, &mut random).await?;
    let b = table(settings, server, "b", "w", &(0..keys).collect::<Vec<_>>(), &mut random).await?;
    Ok((a, b))
}

/// Writes a table with a file for each bucket of its keys.
async fn table(
    settings: &AlignedJoins,
    server: &S3Server,
    name: &str,
    number: &str,
    keys: &[i64],
    random: &mut StdRng,
) -> anyhow::Result<String> {
    let store = server.store()?;
    let root = server.url("");
    let location = server.url(name);
    let put = async |path: &str, bytes: Vec<u8>| -> anyhow::Result<u64> {
        let length = bytes.len() as u64;
        store.put(&Path::from(path.strip_prefix(&root).unwrap_or(path)), bytes.into()).await?;
        Ok(length)
    };
    let mut by_bucket: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for key in keys {
        by_bucket.entry(bucket(&key.to_le_bytes(), settings.buckets)).or_default().push(*key);
    }
    let mut data = Vec::new();
    for (bucket, keys) in by_bucket {
        let rows = keys.len() as u64;
        let numbers: Int64Array = keys.iter().map(|_| Some(random.random_range(0..1_000_000_000))).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(keys)), Arc::new(numbers)];
        let fields = [field(1, "k", DataType::Int64), field(2, number, DataType::Int64)];
        let path = format!("{location}/data/{bucket}.parquet");
        let size = put(&path, parquet(&fields, columns, WriterProperties::default())?).await?;
        let committed = Committed { partition: vec![Datum::Int(bucket)], ..Committed::default() };
        data.push(DataFile { committed, ..DataFile::new(path, size, rows) });
    }
    let part = Part { source: 1, transform: format!("bucket[{}]", settings.buckets), avro: json!("int") };
    let fields = json!([
        {"id": 1, "name": "k", "required": false, "type": "long"},
        {"id": 2, "name": number, "required": false, "type": "long"}]);
    let table = IcebergTable { location, fields, specs: vec![vec![part]], data, ..IcebergTable::default() };
    for (path, bytes) in table.metadata() {
        put(&path, bytes).await?;
    }
    Ok(format!("CREATE EXTERNAL TABLE {name} STORED AS ICEBERG LOCATION '{}'", table.metadata_path()))
}
