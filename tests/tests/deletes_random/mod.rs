//! Random tables with deletes, of real Parquet files, against rows that are computed here by the sentences of the specification; and
//! delete files that were damaged.
//!
//! A table has columns of several types, a struct among them, columns that were dropped or renamed, up to two specs, and commits of
//! data files, vectors, files of positions and files of keys. It is read here, and by functions in this process that read the
//! delete files or the coordinator's digest of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use gust_engine::config::{Config, Target};
use gust_engine::planner::DigestBounds;
use gust_engine::session::{Engine, EngineOptions, Session, SessionOptions};
use gust_tests::asks::lines;
use gust_tests::iceberg::{Committed, DataFile, DeleteFile, Deletes, IcebergTable, field, parquet, positions, vector};
use gust_tests::query::{assert_remote, run};
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Kind of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Long,
    Text,
    /// Struct of a long and a text, whose ids are the column's and 1, the column's and 2.
    Pair,
}

/// Column of a table. Its id stays for ever.
#[derive(Debug, Clone)]
struct Column {
    id: i32,
    kind: Kind,
    /// False where the current schema no longer has it.
    is_there: bool,
    is_renamed: bool,
}

/// Value of a leaf: long or text, as a text. None is NULL.
type Leaf = Option<String>;

/// Values of a row's leaves, by their ids.
type Row = BTreeMap<i32, Leaf>;

struct TestFile {
    path: String,
    rows: Vec<Row>,
    committed: Committed,
}

enum Contents {
    Positions(Vec<(String, usize)>),
    Vector(String, BTreeSet<usize>),
    Keys(Vec<i32>, BTreeSet<Vec<Leaf>>),
}

struct TestDelete {
    contents: Contents,
    committed: Committed,
}

/// Table, as it was written and as it ought to be read.
struct Random {
    columns: Vec<Column>,
    specs: Vec<Option<i32>>,
    files: Vec<TestFile>,
    deletes: Vec<TestDelete>,
}

impl Column {
    fn name(&self, current: bool) -> String {
        format!("c{}{}", self.id, if self.is_renamed && current { "_now" } else { "" })
    }

    /// Lists the ids of its leaves with their kinds.
    fn leaves(&self) -> Vec<(i32, Kind)> {
        match self.kind {
            Kind::Pair => vec![(self.id + 1, Kind::Long), (self.id + 2, Kind::Text)],
            kind => vec![(self.id, kind)],
        }
    }

    fn json(&self, current: bool) -> Value {
        let leaf = |id: i32, name: &str, kind: Kind| {
            let ty = if kind == Kind::Long { "long" } else { "string" };
            json!({"id": id, "name": name, "required": false, "type": ty})
        };
        match self.kind {
            Kind::Pair => {
                let fields = json!([leaf(self.id + 1, "a", Kind::Long), leaf(self.id + 2, "b", Kind::Text)]);
                let ty = json!({"type": "struct", "fields": fields});
                json!({"id": self.id, "name": self.name(current), "required": false, "type": ty})
            }
            kind => leaf(self.id, &self.name(current), kind),
        }
    }
}

/// Makes the column of a leaf.
fn leaf(id: i32, name: &str, kind: Kind, values: Vec<Leaf>) -> (Field, ArrayRef) {
    match kind {
        Kind::Long => {
            let values = values.into_iter().map(|value| value.map(|value| value.parse::<i64>().expect("a number")));
            (field(id, name, DataType::Int64), Arc::new(Int64Array::from_iter(values)))
        }
        _ => (field(id, name, DataType::Utf8), Arc::new(StringArray::from_iter(values))),
    }
}

fn array(column: &Column, rows: &[Row]) -> (Field, ArrayRef) {
    let values = |id: i32| rows.iter().map(|row| row[&id].clone()).collect();
    match column.kind {
        Kind::Pair => {
            let (a, of_a) = leaf(column.id + 1, "a", Kind::Long, values(column.id + 1));
            let (b, of_b) = leaf(column.id + 2, "b", Kind::Text, values(column.id + 2));
            let pair = StructArray::from(vec![(Arc::new(a), of_a), (Arc::new(b), of_b)]);
            let of = DataType::Struct(pair.fields().clone());
            (field(column.id, &column.name(false), of), Arc::new(pair))
        }
        kind => leaf(column.id, &column.name(false), kind, values(column.id)),
    }
}

fn value(kind: Kind, random: &mut StdRng) -> Leaf {
    let number = random.random_range(0..6);
    random.random_bool(0.85).then(|| if kind == Kind::Long { number.to_string() } else { format!("t{number}") })
}

impl Random {
    fn new(folder: &Path, random: &mut StdRng) -> Self {
        // The first column numbers the rows of the table.
        let mut columns = vec![Column { id: 1, kind: Kind::Long, is_there: true, is_renamed: false }];
        for number in 1..random.random_range(3..6) {
            let kind = *[Kind::Long, Kind::Long, Kind::Text, Kind::Pair].choose(random).expect("one");
            let (is_there, is_renamed) = (random.random_bool(0.7), random.random_bool(0.3));
            columns.push(Column { id: 10 * number, kind, is_there, is_renamed });
        }
        let by: Vec<i32> = columns[1..].iter().filter(|column| column.kind == Kind::Long).map(|of| of.id).collect();
        let mut specs = vec![None];
        if let Some(column) = by.choose(random).filter(|_| random.random_bool(0.6)) {
            specs.push(Some(*column));
        }
        let mut table = Self { columns, specs, files: Vec::new(), deletes: Vec::new() };
        let mut vectors = BTreeSet::new();
        for sequence_number in 1..random.random_range(3..7) {
            for _ in 0..random.random_range(0..3) {
                table.add_file(folder, sequence_number, random);
            }
            for _ in 0..random.random_range(0..3) {
                table.add_delete(sequence_number, &mut vectors, random);
            }
        }
        if table.files.is_empty() {
            table.add_file(folder, 1, random);
        }
        table
    }

    fn add_file(&mut self, folder: &Path, sequence_number: i64, random: &mut StdRng) {
        let spec = random.random_range(0..self.specs.len());
        let partition = random.random_range(0..3_i64);
        let first: usize = self.files.iter().map(|file| file.rows.len()).sum();
        // Now and then there is a run that the decoder skips.
        let count = if random.random_ratio(1, 12) { 4_000 } else { random.random_range(1..60) };
        let rows = (0..count).map(|row| {
            let mut values: Row = BTreeMap::from([(1, Some((first + row).to_string()))]);
            for (id, kind) in self.columns[1..].iter().flat_map(Column::leaves) {
                let own = if self.specs[spec] == Some(id) { Some(partition.to_string()) } else { value(kind, random) };
                values.insert(id, own);
            }
            values
        });
        let rows = rows.collect();
        let path = folder.join(format!("data/{:03} 'x'.parquet", self.files.len())).display().to_string();
        let partition = self.specs[spec].map(|_| partition);
        let committed = Committed { sequence_number: Some(sequence_number), spec, partition };
        self.files.push(TestFile { path, rows, committed });
    }

    fn add_delete(&mut self, sequence_number: i64, vectors: &mut BTreeSet<String>, random: &mut StdRng) {
        let Some(target) = self.files.choose(random) else { return };
        let committed = Committed { sequence_number: Some(sequence_number), ..target.committed };
        let share = *[0.02, 0.3, 0.8].choose(random).expect("one");
        let run = if random.random_bool(0.3) { 0..target.rows.len() * 3 / 4 } else { 0..0 };
        let some = |file: &TestFile, random: &mut StdRng| -> BTreeSet<usize> {
            if file.rows.len() > 1_000 && random.random_bool(0.5) {
                // So few that the decoder skips each.
                return (0..random.random_range(1..6)).map(|_| random.random_range(0..file.rows.len())).collect();
            }
            (0..file.rows.len()).filter(|row| run.contains(row) || random.random_bool(share)).collect()
        };
        let contents = match random.random_range(0..4) {
            0 if vectors.insert(target.path.clone()) => Contents::Vector(target.path.clone(), some(target, random)),
            0 | 1 => {
                let of = self.files.iter().filter(|file| is_in_scope(file, committed));
                let rows = of.flat_map(|file| {
                    let path = file.path.clone();
                    some(file, random).into_iter().map(move |row| (path.clone(), row))
                });
                Contents::Positions(rows.collect())
            }
            _ => {
                let leaves: Vec<(i32, Kind)> = self.columns.iter().flat_map(Column::leaves).collect();
                let mut ids: Vec<i32> = (0..random.random_range(1..3))
                    .map(|_| random.random_range(0..leaves.len()))
                    .map(|leaf| leaves[leaf].0)
                    .collect();
                ids.sort_unstable();
                ids.dedup();
                // Keys of rows that there are, and others.
                let mut keys = BTreeSet::new();
                for _ in 0..random.random_range(1..4) {
                    let row = target.rows.choose(random).expect("a row");
                    keys.insert(ids.iter().map(|id| row[id].clone()).collect::<Vec<Leaf>>());
                    let kind = |id: &i32| leaves.iter().find(|(leaf, _)| leaf == id).expect("a leaf").1;
                    keys.insert(ids.iter().map(|id| value(kind(id), random)).collect());
                }
                Contents::Keys(ids, keys)
            }
        };
        self.deletes.push(TestDelete { contents, committed });
    }

    /// Returns true where a row is deleted, by the sentences of the specification.
    fn is_deleted(&self, file: &TestFile, position: usize) -> bool {
        let number = |committed: &Committed| committed.sequence_number.expect("each has one");
        let of_file = number(&file.committed);
        let is_vector = |delete: &TestDelete| matches!(&delete.contents, Contents::Vector(of, _) if *of == file.path);
        let has_vector = self.deletes.iter().any(is_vector);
        self.deletes.iter().any(|delete| {
            let own = number(&delete.committed);
            match &delete.contents {
                Contents::Vector(of, rows) => *of == file.path && rows.contains(&position),
                Contents::Positions(rows) => {
                    let names = rows.iter().any(|(path, row)| *path == file.path && *row == position);
                    !has_vector && own >= of_file && is_in_scope(file, delete.committed) && names
                }
                Contents::Keys(ids, keys) => {
                    let is_global = self.specs[delete.committed.spec].is_none();
                    let key: Vec<Leaf> = ids.iter().map(|id| file.rows[position][id].clone()).collect();
                    own > of_file && (is_global || is_in_scope(file, delete.committed)) && keys.contains(&key)
                }
            }
        })
    }

    /// Lists the rows that are left, by their numbers and as the current schema shows them.
    fn left(&self) -> BTreeMap<usize, String> {
        self.shown(|file, row| !self.is_deleted(file, row))
    }

    fn shown(&self, is_shown: impl Fn(&TestFile, usize) -> bool) -> BTreeMap<usize, String> {
        let mut all = BTreeMap::new();
        for file in &self.files {
            for (_, row) in file.rows.iter().enumerate().filter(|(row, _)| is_shown(file, *row)) {
                let shown = self.columns.iter().filter(|column| column.is_there).flat_map(Column::leaves);
                let shown: Vec<&str> = shown.map(|(id, _)| row[&id].as_deref().unwrap_or("NULL")).collect();
                let number = row[&1].as_ref().and_then(|number| number.parse().ok()).expect("a number");
                all.insert(number, shown.join("|"));
            }
        }
        all
    }

    /// Writes the table's files, and returns its metadata file and its delete files.
    fn write(&self, folder: &Path, random: &mut StdRng) -> (String, Vec<PathBuf>) {
        let mut properties = |rows: usize| {
            let builder = WriterProperties::builder().set_max_row_group_row_count(Some(rows.div_ceil(3).max(7)));
            let pages = random.random_range(3..50);
            builder.set_data_page_row_count_limit(pages).set_write_batch_size(pages).build()
        };
        let put = |path: &str, bytes: &[u8]| {
            std::fs::create_dir_all(Path::new(path).parent().expect("a folder")).expect("made");
            std::fs::write(path, bytes).expect("written");
            bytes.len() as u64
        };
        let mut data = Vec::new();
        for file in &self.files {
            let (fields, arrays): (Vec<_>, Vec<_>) = self.columns.iter().map(|of| array(of, &file.rows)).unzip();
            let size = put(&file.path, &parquet(&fields, arrays, properties(file.rows.len())).expect("a file"));
            data.push(DataFile {
                committed: file.committed,
                ..DataFile::new(&*file.path, size, file.rows.len() as u64)
            });
        }
        let (mut deletes, mut paths) = (Vec::new(), Vec::new());
        for (number, delete) in self.deletes.iter().enumerate() {
            let path = folder.join(format!("deletes/{number}")).display().to_string();
            let (bytes, count, content) = match &delete.contents {
                Contents::Positions(rows) => {
                    let rows: Vec<(&str, i64)> = rows.iter().map(|(path, row)| (path.as_str(), *row as i64)).collect();
                    (positions(&rows, properties(rows.len())).expect("a file"), rows.len(), Deletes::Positions)
                }
                Contents::Vector(of, rows) => {
                    let bytes = vector(rows.iter().map(|row| *row as u64)).expect("a vector");
                    let content = Deletes::Vector { of: of.clone(), offset: 4, bytes: bytes.len() as u64 };
                    ([b"PFA1", &bytes[..], b"a footer"].concat(), rows.len(), content)
                }
                Contents::Keys(ids, keys) => (self.keys(ids, keys), keys.len(), Deletes::Keys(ids.clone())),
            };
            let size = put(&path, &bytes);
            paths.push(PathBuf::from(&path));
            deletes
                .push(DeleteFile { committed: delete.committed, ..DeleteFile::new(path, size, count as u64, content) });
        }
        let fields = |current: bool| -> Value {
            let columns = self.columns.iter().filter(|column| column.is_there || !current);
            columns.map(|column| column.json(current)).collect::<Vec<_>>().into()
        };
        let (location, specs) = (folder.display().to_string(), self.specs.clone());
        let table = IcebergTable { location, fields: fields(true), older: vec![fields(false)], specs, data, deletes };
        for (path, bytes) in table.metadata() {
            put(&path, &bytes);
        }
        (table.metadata_path(), paths)
    }

    /// Writes a file of keys. A key in a struct is in a struct there, too.
    fn keys(&self, ids: &[i32], keys: &BTreeSet<Vec<Leaf>>) -> Vec<u8> {
        let values = |id: i32| {
            let place = ids.iter().position(|own| *own == id).expect("a key");
            keys.iter().map(|key| key[place].clone()).collect::<Vec<_>>()
        };
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for column in &self.columns {
            let own: Vec<_> = column.leaves().into_iter().filter(|(id, _)| ids.contains(id)).collect();
            let of_leaf =
                |(id, kind): (i32, Kind)| leaf(id, if kind == Kind::Long { "a" } else { "b" }, kind, values(id));
            let of_leaves: Vec<(Field, ArrayRef)> = own.into_iter().map(of_leaf).collect();
            let column = match (column.kind, of_leaves.is_empty()) {
                (_, true) => continue,
                (Kind::Pair, _) => {
                    let pair = of_leaves.into_iter().map(|(field, array)| (Arc::new(field), array)).collect::<Vec<_>>();
                    let pair = StructArray::from(pair);
                    (field(column.id, "s", DataType::Struct(pair.fields().clone())), Arc::new(pair) as ArrayRef)
                }
                (_, false) => {
                    let (of, array) = of_leaves.into_iter().next().expect("one");
                    (of.with_name(column.name(false)), array)
                }
            };
            fields.push(column.0);
            arrays.push(column.1);
        }
        parquet(&fields, arrays, WriterProperties::default()).expect("a file")
    }

    /// Returns the statement that shows the rows as [`Self::left`] does.
    fn sql(&self, table: &str) -> String {
        let shown = self.columns.iter().filter(|column| column.is_there).flat_map(|column| {
            let name = column.name(true);
            match column.kind {
                Kind::Pair => vec![format!("{name}['a']"), format!("{name}['b']")],
                _ => vec![name],
            }
        });
        format!("SELECT {} FROM {table}", shown.collect::<Vec<_>>().join(", "))
    }
}

/// Returns true for a file of the spec and the partition of a delete file.
fn is_in_scope(file: &TestFile, committed: Committed) -> bool {
    file.committed.spec == committed.spec && file.committed.partition == committed.partition
}

/// Way on which deletes reach their readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Here,
    Functions,
    /// Functions, for which the coordinator reads all that can be digested.
    Digests,
    /// Functions, for which the coordinator reads what has room in a small object.
    Parts,
}

/// Data files whose deleted positions went through the exchange, and lists of keys.
#[derive(Debug, Default)]
struct Digested {
    vectors: usize,
    keys: usize,
    objects: usize,
}

fn sessions() -> Vec<(Way, Session)> {
    let open = |on, digest| {
        let options = EngineOptions { digest, ..EngineOptions::default() };
        let engine = Engine::open(Config { on, functions_max: 3, ..Config::default() }, options).expect("an engine");
        engine.session(SessionOptions::default()).expect("a session")
    };
    vec![
        (Way::Here, open(Target::Local, DigestBounds::default())),
        (Way::Functions, open(Target::InProcess, DigestBounds::default())),
        (Way::Digests, open(Target::InProcess, DigestBounds::NONE)),
        (Way::Parts, open(Target::InProcess, DigestBounds { readers_max: 1, bytes_max: 4_000, ..DigestBounds::NONE })),
    ]
}

async fn check(seeds: std::ops::Range<u64>) {
    let started = Instant::now();
    let sessions = sessions();
    let (mut deleted, mut remote, mut digested) = (0, 0, BTreeMap::<Way, Digested>::new());
    for seed in seeds.clone() {
        let mut random = StdRng::seed_from_u64(seed);
        let folder = TempDir::new().expect("a folder");
        let table = Random::new(folder.path(), &mut random);
        let (metadata, _) = table.write(folder.path(), &mut random);
        let left = table.left();
        deleted += table.files.iter().map(|file| file.rows.len()).sum::<usize>() - left.len();
        let below = random.random_range(0..100_usize);
        for (way, session) in &sessions {
            let create = format!("CREATE EXTERNAL TABLE t{seed} STORED AS ICEBERG LOCATION '{metadata}'");
            run(session, &create).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let sql = table.sql(&format!("t{seed}"));
            let ask = async |sql: String| {
                let asked = run(session, &sql).await;
                asked.unwrap_or_else(|error| panic!("seed {seed}, {way:?}, {sql}: {error}"))
            };
            let (rows, report) = ask(format!("{sql} ORDER BY c1")).await;
            assert_eq!(lines(&rows, "NULL"), left.values().cloned().collect::<Vec<_>>(), "seed {seed}, {way:?}");
            if *way != Way::Here && report.fragments > 0 {
                assert_remote(&report, "random deletes");
                remote += 1;
            }
            match way {
                Way::Digests | Way::Parts => {
                    let found = digested.entry(*way).or_default();
                    found.objects += report.deletes_in_exchange;
                    found.vectors += report.delete_vectors_in_exchange;
                    found.keys += report.delete_keys_in_exchange;
                }
                _ => assert_eq!(report.deletes_in_exchange, 0, "seed {seed}, {way:?}"),
            }
            let (rows, _) = ask(format!("{sql} WHERE c1 < {below} ORDER BY c1")).await;
            let expect: Vec<String> = left.range(..below).map(|(_, row)| row.clone()).collect();
            assert_eq!(lines(&rows, "NULL"), expect, "seed {seed}, {way:?}, below {below}");
            let (rows, _) = ask(format!("SELECT count(*), min(c1), max(c1), count(c1) FROM t{seed}")).await;
            let end = |row: Option<(&usize, &String)>| row.map_or("NULL".to_owned(), |(row, _)| row.to_string());
            let (count, first, last) = (left.len(), end(left.first_key_value()), end(left.last_key_value()));
            assert_eq!(lines(&rows, "NULL"), [format!("{count}|{first}|{last}|{count}")], "seed {seed}, {way:?}");
            // A join tells the scan its keys, and a sorted limit its last row.
            let keys: BTreeSet<usize> = (0..5).map(|_| random.random_range(0..120)).collect();
            let values: Vec<String> = keys.iter().map(|key| format!("({key})")).collect();
            let joined = format!("JOIN (VALUES {}) AS v(x) ON v.x = c1", values.join(", "));
            let (rows, _) = ask(format!("{sql} {joined} ORDER BY c1")).await;
            let expect: Vec<String> = keys.iter().filter_map(|key| left.get(key).cloned()).collect();
            assert_eq!(lines(&rows, "NULL"), expect, "seed {seed}, {way:?}, {keys:?}");
            let (rows, _) = ask(format!("{sql} ORDER BY c1 DESC LIMIT 7")).await;
            let expect: Vec<String> = left.values().rev().take(7).cloned().collect();
            assert_eq!(lines(&rows, "NULL"), expect, "seed {seed}, {way:?}, the last");
            let (rows, _) = ask(format!("SELECT c1 FROM t{seed} LIMIT {below}")).await;
            let shown = lines(&rows, "NULL");
            let is_left = |row: &String| row.parse().is_ok_and(|row: usize| left.contains_key(&row));
            assert!(shown.iter().all(is_left), "seed {seed}, {way:?}: {shown:?}");
            assert_eq!(shown.len(), below.min(left.len()), "seed {seed}, {way:?}");
            run(session, &format!("DROP TABLE t{seed}")).await.expect("dropped");
        }
    }
    let count = (seeds.end - seeds.start) as usize;
    assert!(deleted > 10 * count && remote > count, "{deleted} rows, {remote} by functions");
    // Both kinds are digested, and where room is short some of both.
    let (all, parts) = (&digested[&Way::Digests], &digested[&Way::Parts]);
    assert!(all.objects > count / 2 && all.vectors > count / 2 && all.keys > count / 2, "{digested:?}");
    assert!(parts.vectors > count / 50 && parts.keys > count / 20, "{digested:?}");
    assert!(parts.vectors < all.vectors && parts.keys < all.keys, "{digested:?}");
    eprintln!("{count} tables, {deleted} deleted rows: {:.1} s", started.elapsed().as_secs_f64());
    for (_, session) in sessions {
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_tables_have_the_rows_that_their_deletes_leave() {
    check(0..150).await;
}

/// Checks as many tables as there is time for: `DELETES_SECONDS=600 cargo inner -p gust-tests many_random_tables -- --ignored --nocapture`.
/// `DELETES_SEED` is the first of them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn many_random_tables_have_the_rows_that_their_deletes_leave() {
    const TABLES: u64 = 100;
    let number = |name: &str, otherwise: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}: {error}")),
        Err(_) => otherwise,
    };
    let (seconds, first) = (number("DELETES_SECONDS", 600), number("DELETES_SEED", 1_000));
    let (started, mut next) = (Instant::now(), first);
    while started.elapsed().as_secs() < seconds {
        check(next..next + TABLES).await;
        next += TABLES;
    }
    eprintln!("{} tables from seed {first}", next - first);
}

/// A delete file that was cut or changed is a typed error, or deletes the same: no row comes back, none is lost, and nothing panics.
/// No checksum guards the values of Parquet's pages: of a flipped bit there the rows are the table's, and no more is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_delete_file_is_an_error_or_deletes_the_same() {
    let sessions = sessions();
    let (mut errors, mut same) = (0, 0);
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(500_000 + seed);
        let folder = TempDir::new().expect("a folder");
        let table = Random::new(folder.path(), &mut random);
        let (metadata, deletes) = table.write(folder.path(), &mut random);
        let left: Vec<String> = table.left().into_values().collect();
        let all: BTreeSet<String> = table.shown(|_, _| true).into_values().collect();
        let Some((path, delete)) = deletes.iter().zip(&table.deletes).collect::<Vec<_>>().choose(&mut random).copied()
        else {
            continue;
        };
        let is_vector = matches!(delete.contents, Contents::Vector(..));
        let good = std::fs::read(path).expect("a delete file");
        for turn in 0..4 {
            let mut bytes = good.clone();
            match turn {
                0 => bytes.truncate(random.random_range(0..bytes.len())),
                1 => bytes.extend([0; 7]),
                _ => {
                    for _ in 0..random.random_range(1..4) {
                        let at = random.random_range(0..bytes.len());
                        bytes[at] ^= 1 << random.random_range(0..8);
                    }
                }
            }
            std::fs::write(path, &bytes).expect("written");
            for (way, session) in &sessions {
                let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
                run(session, &create).await.expect("a table");
                match run(session, &format!("{} ORDER BY c1", table.sql("t"))).await {
                    Ok((rows, _)) => {
                        let rows = lines(&rows, "NULL");
                        if is_vector || turn < 2 {
                            assert_eq!(rows, left, "seed {seed}, turn {turn}, {way:?}");
                        }
                        assert!(rows.iter().all(|row| all.contains(row)), "seed {seed}, turn {turn}: {rows:?}");
                        same += 1;
                    }
                    Err(error) => {
                        let text = error.to_string();
                        assert!(!text.contains("panicked") && !text.contains("internal error"), "seed {seed}: {text}");
                        errors += 1;
                    }
                }
                run(session, "DROP TABLE t").await.expect("dropped");
            }
        }
    }
    assert!(errors > 100 && same > 50, "{errors} errors, {same} the same");
    for (_, session) in sessions {
        session.close().await;
    }
}
