//! The cost of deletes: the same rows, plain and with deletes of each kind, read locally by turns.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::datatypes::DataType;
use gust_engine::config::{Config, Target};
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::iceberg::{
    Committed, DataFile, Datum, DeleteFile, Deletes, IcebergTable, Part, field, parquet, positions, vector,
};
use gust_tests::query::run;
use gust_tests::stats::median;
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::workload::DeleteCosts;
use super::{Bound, Outcome};

/// Statement over each table. Every column is decoded.
const SQL: &str = "SELECT count(*), sum(id), sum(k), max(x), sum(length(s)), count(n) FROM";

/// Data files, which all tables share.
struct Data {
    folder: String,
    files: Vec<DataFile>,
}

pub async fn measure(settings: &DeleteCosts, cache: &Path) -> anyhow::Result<Outcome> {
    let data = Data::make(settings, &cache.join(format!("deletes-{}-{}", settings.rows, settings.files)))?;
    let rows_per_file = settings.rows / settings.files;
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut one_percent = || (0..rows_per_file).filter(|_| random.random_range(0..100) == 0).collect::<Vec<u64>>();
    let scattered: Vec<Vec<u64>> = data.files.iter().map(|_| one_percent()).collect();
    let run_of_most: Vec<Vec<u64>> = data.files.iter().map(|_| (0..rows_per_file * 9 / 10).collect()).collect();
    let tables = [
        ("plain", data.table("plain", Vec::new())?),
        ("vectors_of_1_percent", data.with_vectors("vectors_of_1_percent", &scattered)?),
        ("vectors_of_90_percent", data.with_vectors("vectors_of_90_percent", &run_of_most)?),
        ("positions_of_1_percent", data.with_positions("positions_of_1_percent", &scattered)?),
        ("vectors_in_partitions", data.with_partitions("vectors_in_partitions", &scattered)?),
        ("keys_of_1_percent", data.with_keys("keys_of_1_percent", &scattered, rows_per_file)?),
    ];
    let session = Session::new(Config { on: Target::Local, ..Config::default() })?;
    for (name, metadata) in &tables {
        run(&session, &format!("CREATE EXTERNAL TABLE {name} STORED AS ICEBERG LOCATION '{metadata}'")).await?;
    }
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut answers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for turn in 0..=settings.runs {
        for (name, _) in &tables {
            let started = Instant::now();
            let (rows, _) = run(&session, &format!("{SQL} {name}")).await?;
            // The first turn only warms up.
            if turn > 0 {
                times.entry(name).or_default().push(started.elapsed().as_secs_f64() * 1000.0);
            }
            answers.insert(name, lines(&rows, "NULL"));
        }
    }
    let plain = median(&times["plain"]);
    let ratio = |name: &str| median(&times[name]) / plain;
    let left = |deleted: &[Vec<u64>]| settings.rows - deleted.iter().map(|rows| rows.len() as u64).sum::<u64>();
    let counts = |name: &str, rows: u64| answers[name][0].starts_with(&format!("{rows}|"));
    let alike = ["positions_of_1_percent", "vectors_in_partitions", "keys_of_1_percent"];
    let alike = alike.iter().all(|name| answers[name] == answers["vectors_of_1_percent"]);
    let mut table = vec!["table                        ms   × plain  rows and sums".to_owned()];
    for (name, _) in &tables {
        let line = answers[name].join(";");
        table.push(format!("{name:<24}  {:>7.1}  {:>6.2}   {line}", median(&times[name]), ratio(name)));
    }
    let bound = |what: &str, name: &str, aim, worst| Bound {
        what: format!("{what}, × the undeleted scan"),
        measured: ratio(name),
        aim,
        worst,
        unit: "",
    };
    let DeleteCosts { scattered: few, one_run: most, .. } = settings;
    Ok(Outcome {
        name: "deletes",
        table,
        bounds: vec![
            bound("vectors of 1 % random rows", "vectors_of_1_percent", few.aim, few.worst),
            bound("vectors of 1 % random rows, identity partitions", "vectors_in_partitions", few.aim, few.worst),
            bound("vectors of 90 % in one run", "vectors_of_90_percent", most.aim, most.worst),
        ],
        validity: vec![
            ("vectors, positions and keys of the same rows leave the same".to_owned(), alike),
            ("no deleted row was read".to_owned(), {
                counts("vectors_of_1_percent", left(&scattered)) && counts("vectors_of_90_percent", left(&run_of_most))
            }),
        ],
        samples: json!(times),
    })
}

impl Data {
    /// Writes the data files, unless an earlier run has.
    fn make(settings: &DeleteCosts, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let rows = settings.rows / settings.files;
        let mut files = Vec::new();
        for number in 0..settings.files {
            let path = folder.join(format!("{number}.parquet"));
            if !path.exists() {
                let part = path.with_extension("part");
                fs::write(&part, data_file(settings.seed + number, number * rows..(number + 1) * rows)?)?;
                fs::rename(part, &path)?;
            }
            let size_bytes = fs::metadata(&path)?.len();
            files.push(DataFile::new(path.display().to_string(), size_bytes, rows));
        }
        Ok(Self { folder: folder.display().to_string(), files })
    }

    /// Writes a table's metadata, and returns the path of its metadata file.
    fn table(&self, name: &str, deletes: Vec<DeleteFile>) -> anyhow::Result<String> {
        self.with_metadata(name, IcebergTable { data: self.files.clone(), deletes, ..IcebergTable::default() })
    }

    fn with_metadata(&self, name: &str, table: IcebergTable) -> anyhow::Result<String> {
        let column = |(id, name, ty): (i32, &str, &str)| json!({"id": id, "name": name, "required": false, "type": ty});
        let own = [(1, "id", "long"), (2, "k", "long"), (3, "x", "double"), (4, "s", "string"), (5, "n", "long")];
        // The values of `p` are those of partitions. No file has the column.
        let columns = own.into_iter().chain([(6, "p", "long")]).map(column).collect();
        let table = IcebergTable { location: format!("{}/{name}", self.folder), fields: columns, ..table };
        for (path, bytes) in table.metadata() {
            write(&path, bytes)?;
        }
        Ok(table.metadata_path())
    }

    fn with_vectors(&self, name: &str, deleted: &[Vec<u64>]) -> anyhow::Result<String> {
        self.table(name, self.vectors(name, deleted)?)
    }

    /// Each file is a partition of its own.
    fn with_partitions(&self, name: &str, deleted: &[Vec<u64>]) -> anyhow::Result<String> {
        let committed = |sequence_number: i64| {
            move |number: i64| Committed {
                sequence_number: Some(sequence_number),
                spec: 0,
                partition: vec![Datum::Long(number)],
            }
        };
        let data = self.files.iter().cloned().zip((0..).map(committed(1)));
        let deletes = self.vectors(name, deleted)?.into_iter().zip((0..).map(committed(2)));
        let table = IcebergTable {
            specs: vec![vec![Part::of_longs(6)]],
            data: data.map(|(file, committed)| DataFile { committed, ..file }).collect(),
            deletes: deletes.map(|(file, committed)| DeleteFile { committed, ..file }).collect(),
            ..IcebergTable::default()
        };
        self.with_metadata(name, table)
    }

    /// Writes all vectors into one file.
    fn vectors(&self, name: &str, deleted: &[Vec<u64>]) -> anyhow::Result<Vec<DeleteFile>> {
        let path = format!("{}/{name}/v.puffin", self.folder);
        let (mut bytes, mut deletes) = (b"PFA1".to_vec(), Vec::new());
        for (file, rows) in self.files.iter().zip(deleted) {
            let vector = vector(rows.iter().copied())?;
            let (offset, length) = (bytes.len() as u64, vector.len() as u64);
            bytes.extend(vector);
            let content = Deletes::Vector { of: file.path.clone(), offset, bytes: length };
            deletes.push(DeleteFile::new(path.clone(), 0, rows.len() as u64, content));
        }
        deletes.iter_mut().for_each(|file| file.size_bytes = bytes.len() as u64);
        write(&path, bytes)?;
        Ok(deletes)
    }

    fn with_positions(&self, name: &str, deleted: &[Vec<u64>]) -> anyhow::Result<String> {
        let rows: Vec<(&str, i64)> = self
            .files
            .iter()
            .zip(deleted)
            .flat_map(|(file, rows)| rows.iter().map(|row| (file.path.as_str(), *row as i64)))
            .collect();
        self.with_file(name, positions(&rows, WriterProperties::default())?, rows.len(), Deletes::Positions)
    }

    fn with_keys(&self, name: &str, deleted: &[Vec<u64>], rows_per_file: u64) -> anyhow::Result<String> {
        let keys = deleted
            .iter()
            .zip(0..)
            .flat_map(|(rows, file)| rows.iter().map(move |row| (file * rows_per_file + row) as i64));
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
        let count = keys.len();
        let bytes = parquet(&[field(1, "id", DataType::Int64)], vec![keys], WriterProperties::default())?;
        self.with_file(name, bytes, count, Deletes::Keys(vec![1]))
    }

    fn with_file(&self, name: &str, bytes: Vec<u8>, count: usize, content: Deletes) -> anyhow::Result<String> {
        let path = format!("{}/{name}/deletes.parquet", self.folder);
        let size_bytes = bytes.len() as u64;
        write(&path, bytes)?;
        self.table(name, vec![DeleteFile::new(path, size_bytes, count as u64, content)])
    }
}

fn write(path: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(path, bytes)?)
}

/// Makes a data file whose ids are these.
fn data_file(seed: u64, ids: std::ops::Range<u64>) -> anyhow::Result<Vec<u8>> {
    let mut random = StdRng::seed_from_u64(seed);
    let count = (ids.end - ids.start) as usize;
    let keys: Vec<i64> = (0..count).map(|_| random.random_range(0..1_000_000)).collect();
    let numbers: Vec<f64> = (0..count).map(|_| f64::from(random.random_range(0..100_000_u32)) / 8.0).collect();
    let texts: Vec<String> = (0..count).map(|_| format!("text {}", random.random_range(0..1_000_u32))).collect();
    let some: Vec<Option<i64>> =
        (0..count).map(|_| random.random_bool(0.5).then(|| random.random_range(0..50))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.map(|id| id as i64))),
        Arc::new(Int64Array::from(keys)),
        Arc::new(Float64Array::from(numbers)),
        Arc::new(StringArray::from(texts)),
        Arc::new(Int64Array::from(some)),
    ];
    let fields = [
        field(1, "id", DataType::Int64),
        field(2, "k", DataType::Int64),
        field(3, "x", DataType::Float64),
        field(4, "s", DataType::Utf8),
        field(5, "n", DataType::Int64),
    ];
    parquet(&fields, columns, WriterProperties::default())
}
