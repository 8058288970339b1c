//! Random tables as they were written, and the rows that they ought to have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::transforms::Transform;
use super::values::{Kind, Leaf, Value};
use crate::asks;
use crate::iceberg::{Committed, Datum};

/// Column of a table. Its id stays for ever.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) id: i32,
    pub(super) kind: Kind,
    /// Kind before the commit `promoted`.
    before: Option<Kind>,
    promoted: i64,
    /// First commit that knows the column.
    since: i64,
    /// Value in files of older commits.
    pub(super) default: Leaf,
    /// False where the current schema no longer has it.
    is_there: bool,
    is_renamed: bool,
}

/// Values of a row's leaves, by their ids.
pub type Row = BTreeMap<i32, Leaf>;

pub(super) struct TestFile {
    pub(super) path: String,
    pub(super) rows: Vec<Row>,
    pub(super) committed: Committed,
    /// Partition columns that an imported file does not hold.
    omitted: BTreeSet<i32>,
}

pub(super) enum Contents {
    /// Positions of data files, by their paths.
    Positions(BTreeMap<String, BTreeSet<usize>>),
    Vector(String, BTreeSet<usize>),
    Keys(Vec<i32>, Vec<Vec<Leaf>>),
}

pub(super) struct TestDelete {
    pub(super) contents: Contents,
    pub(super) committed: Committed,
}

/// Field of a partition spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpecPart {
    pub(super) id: i32,
    pub(super) kind: Kind,
    pub(super) transform: Transform,
}

/// Version of a table: the current one, or that of an earlier commit with the schema of then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Now,
    Then,
}

/// Leaf that a version shows.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) id: i32,
    /// Kind of its values in the rows of [`Random`].
    own: Kind,
    /// Kind in the version.
    pub(super) kind: Kind,
    /// Name in SQL.
    pub(super) name: String,
}

/// Table as it was written. Its first column numbers the rows.
pub struct Random {
    pub(super) columns: Vec<Column>,
    pub(super) specs: Vec<Vec<SpecPart>>,
    pub(super) files: Vec<TestFile>,
    pub(super) deletes: Vec<TestDelete>,
    /// Commit of the older version.
    pub(super) then: i64,
}

impl Column {
    pub(super) fn name(&self, version: Version) -> String {
        format!("c{}{}", self.id, if self.is_renamed && version == Version::Now { "_now" } else { "" })
    }

    pub(super) fn leaves(&self) -> Vec<(i32, Kind)> {
        self.kind.leaves(self.id)
    }

    /// Returns the kind that the column had at a commit.
    pub(super) fn kind_at(&self, commit: i64) -> Kind {
        self.before.filter(|_| commit < self.promoted).unwrap_or(self.kind)
    }

    fn leaf(&self, kind: Kind, random: &mut StdRng) -> Leaf {
        random.random_bool(0.85).then(|| kind.value(self.before, random))
    }

    /// Returns the kind of one of its leaves in files of a commit.
    pub(super) fn leaf_at(&self, leaf: Kind, commit: i64) -> Kind {
        if self.before.is_some() { self.kind_at(commit) } else { leaf }
    }
}

pub(super) fn number(committed: &Committed) -> i64 {
    committed.sequence_number.expect("each has one")
}

impl TestFile {
    pub(super) fn commit(&self) -> i64 {
        number(&self.committed)
    }

    /// Returns true for a file of the spec and the partition of a delete file.
    fn is_in_scope(&self, committed: &Committed) -> bool {
        let bytes = |value: &Datum| value.bytes();
        let same = |a: &Datum, b: &Datum| bytes(a) == bytes(b);
        let (own, other) = (&self.committed, committed);
        own.spec == other.spec && own.partition.iter().zip(&other.partition).all(|(a, b)| same(a, b))
    }

    /// Returns true where the file holds a column.
    pub(super) fn has(&self, column: &Column) -> bool {
        column.since <= self.commit() && !self.omitted.contains(&column.id)
    }
}

impl Random {
    pub fn new(folder: &Path, random: &mut StdRng) -> Self {
        let first = Column {
            id: 1,
            kind: Kind::Long,
            before: None,
            promoted: 0,
            since: 0,
            default: None,
            is_there: true,
            is_renamed: false,
        };
        let mut columns = vec![first];
        for number in 1..random.random_range(3..7) {
            columns.push(column(10 * number, random));
        }
        let (specs, then) = (vec![Vec::new()], random.random_range(1..5));
        let mut table = Self { specs, columns, files: Vec::new(), deletes: Vec::new(), then };
        for _ in 0..random.random_range(0..3) {
            let spec = table.spec(random);
            table.specs.push(spec);
        }
        let mut vectors = BTreeSet::new();
        for commit in 1..random.random_range(3..7) {
            for _ in 0..random.random_range(0..3) {
                table.add_file(folder, commit, random);
            }
            for _ in 0..random.random_range(0..3) {
                table.add_delete(commit, &mut vectors, random);
            }
        }
        if table.files.is_empty() {
            table.add_file(folder, 1, random);
        }
        table
    }

    /// Makes a partition spec of one or two columns.
    fn spec(&self, random: &mut StdRng) -> Vec<SpecPart> {
        let mut parts: Vec<SpecPart> = Vec::new();
        for _ in 0..random.random_range(1..3) {
            let leaves: Vec<(i32, Kind)> =
                self.columns[1..].iter().filter(|of| of.before.is_none()).flat_map(Column::leaves).collect();
            let Some((id, kind)) = leaves.choose(random).copied() else { continue };
            let Some(transform) = Transform::of(kind).choose(random).copied() else { continue };
            if parts.iter().all(|part| part.id != id) {
                parts.push(SpecPart { id, kind, transform });
            }
        }
        parts
    }

    fn partition(&self, spec: usize, row: &Row) -> Vec<Datum> {
        self.specs[spec].iter().map(|part| part.transform.apply(part.kind, &row[&part.id])).collect()
    }

    fn row(&self, number: usize, commit: i64, few: &BTreeMap<i32, Vec<Leaf>>, random: &mut StdRng) -> Row {
        let mut row = Row::from([(1, Some(Value::Whole(number as i64)))]);
        for column in &self.columns[1..] {
            for (id, kind) in column.leaves() {
                let is_older = column.since > commit;
                let own = match few.get(&id).and_then(|few| few.choose(random)) {
                    Some(one) => one.clone(),
                    None => column.leaf(kind, random),
                };
                row.insert(id, if is_older { column.default.clone() } else { own });
            }
        }
        row
    }

    fn add_file(&mut self, folder: &Path, commit: i64, random: &mut StdRng) {
        let spec = random.random_range(0..self.specs.len());
        let first: usize = self.files.iter().map(|file| file.rows.len()).sum();
        // Now and then there is a run that the decoder skips.
        let count = if random.random_ratio(1, 12) { 4_000 } else { random.random_range(1..60) };
        // Columns that have few values in the file, so that metrics tell it from others.
        let mut few = BTreeMap::new();
        for column in &self.columns[1..] {
            for (id, kind) in column.leaves() {
                if random.random_bool(0.6) {
                    few.insert(id, (0..random.random_range(1..3)).map(|_| column.leaf(kind, random)).collect());
                }
            }
        }
        let mut rows = vec![self.row(first, commit, &few, random)];
        let partition = self.partition(spec, &rows[0]);
        let bytes = |partition: &[Datum]| partition.iter().map(Datum::bytes).collect::<Vec<_>>();
        for number in 1..count {
            let mut row = self.row(first + number, commit, &few, random);
            if bytes(&self.partition(spec, &row)) != bytes(&partition) {
                // Its partition columns become those of the first row.
                for part in &self.specs[spec] {
                    row.insert(part.id, rows[0][&part.id].clone());
                }
            }
            rows.push(row);
        }
        // Files that were imported lack the columns whose values are the partition's.
        let is_imported = random.random_ratio(1, 4);
        let identity = self.specs[spec].iter().filter(|part| is_imported && part.transform == Transform::Identity);
        let is_column = |id: &i32| self.columns.iter().any(|column| column.id == *id && column.default.is_none());
        let omitted = identity.map(|part| part.id).filter(is_column).collect();
        let path = folder.join(format!("data/{:03} 'x'.parquet", self.files.len())).display().to_string();
        let committed = Committed { sequence_number: Some(commit), spec, partition };
        self.files.push(TestFile { path, rows, committed, omitted });
    }

    fn add_delete(&mut self, commit: i64, vectors: &mut BTreeSet<String>, random: &mut StdRng) {
        let Some(target) = self.files.choose(random) else { return };
        let committed = Committed { sequence_number: Some(commit), ..target.committed.clone() };
        let share = *[0.02, 0.3, 0.8].choose(random).expect("one");
        let run = if random.random_bool(0.3) { 0..target.rows.len() * 3 / 4 } else { 0..0 };
        let some = |file: &TestFile, random: &mut StdRng| -> BTreeSet<usize> {
            if file.rows.len() > 1_000 && random.random_bool(0.5) {
                // So few that the decoder skips each.
                return (0..random.random_range(1..6)).map(|_| random.random_range(0..file.rows.len())).collect();
            }
            // Now and then no row is left.
            let is_whole = random.random_ratio(1, 12);
            (0..file.rows.len()).filter(|row| is_whole || run.contains(row) || random.random_bool(share)).collect()
        };
        let contents = match random.random_range(0..4) {
            0 if vectors.insert(target.path.clone()) => Contents::Vector(target.path.clone(), some(target, random)),
            0 | 1 => {
                let of = self.files.iter().filter(|file| file.is_in_scope(&committed));
                Contents::Positions(of.map(|file| (file.path.clone(), some(file, random))).collect())
            }
            _ => {
                let known = self.columns.iter().filter(|column| column.since <= commit);
                let leaves =
                    known.flat_map(|column| column.leaves().into_iter().map(move |leaf| (leaf, column.before)));
                let leaves: Vec<_> = leaves.filter(|((_, kind), _)| kind.is_key()).collect();
                let mut ids: Vec<i32> =
                    (0..random.random_range(1..3)).map(|_| leaves.choose(random).expect("a leaf").0.0).collect();
                ids.sort_unstable();
                ids.dedup();
                // Keys of rows that there are, and others.
                let mut keys = Vec::new();
                for _ in 0..random.random_range(1..4) {
                    let row = target.rows.choose(random).expect("a row");
                    keys.push(ids.iter().map(|id| row[id].clone()).collect::<Vec<Leaf>>());
                    let other = |id: &i32, random: &mut StdRng| {
                        let ((_, kind), before) = leaves.iter().find(|((leaf, _), _)| leaf == id).expect("a leaf");
                        random.random_bool(0.85).then(|| kind.value(*before, random))
                    };
                    keys.push(ids.iter().map(|id| other(id, random)).collect());
                }
                Contents::Keys(ids, keys)
            }
        };
        self.deletes.push(TestDelete { contents, committed });
    }

    /// Returns the last commit of a version.
    pub(super) fn last(&self, version: Version) -> i64 {
        match version {
            Version::Now => i64::MAX,
            Version::Then => self.then,
        }
    }

    /// Lists the columns that a version has.
    pub(super) fn columns(&self, version: Version) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(move |column| match version {
            Version::Now => column.is_there,
            Version::Then => column.since <= self.then,
        })
    }

    /// Returns true where a row is deleted in a version, by the sentences of the specification.
    fn is_deleted(&self, file: &TestFile, position: usize, version: Version) -> bool {
        let known = || self.deletes.iter().filter(|delete| number(&delete.committed) <= self.last(version));
        let is_vector = |delete: &TestDelete| matches!(&delete.contents, Contents::Vector(of, _) if *of == file.path);
        let has_vector = known().any(is_vector);
        known().any(|delete| {
            let own = number(&delete.committed);
            match &delete.contents {
                Contents::Vector(of, rows) => *of == file.path && rows.contains(&position),
                Contents::Positions(rows) => {
                    let names = rows.get(&file.path).is_some_and(|rows| rows.contains(&position));
                    !has_vector && own >= file.commit() && file.is_in_scope(&delete.committed) && names
                }
                Contents::Keys(ids, keys) => {
                    let mut parts = self.specs[delete.committed.spec].iter();
                    let is_global = parts.all(|part| part.transform == Transform::Void);
                    let key: Vec<Leaf> = ids.iter().map(|id| file.rows[position][id].clone()).collect();
                    own > file.commit() && (is_global || file.is_in_scope(&delete.committed)) && keys.contains(&key)
                }
            }
        })
    }

    /// Returns true where a delete file is a vector.
    pub fn is_vector(&self, delete: usize) -> bool {
        matches!(self.deletes[delete].contents, Contents::Vector(..))
    }

    /// Lists the rows that are left in a version, by their numbers.
    pub fn left(&self, version: Version) -> BTreeMap<usize, &Row> {
        self.rows_where(|file, row| file.commit() <= self.last(version) && !self.is_deleted(file, row, version))
    }

    /// Lists all rows that were ever written, by their numbers.
    pub fn all(&self) -> BTreeMap<usize, &Row> {
        self.rows_where(|_, _| true)
    }

    fn rows_where(&self, is_shown: impl Fn(&TestFile, usize) -> bool) -> BTreeMap<usize, &Row> {
        let mut rows = BTreeMap::new();
        for file in &self.files {
            for (_, row) in file.rows.iter().enumerate().filter(|(row, _)| is_shown(file, *row)) {
                let number = row[&1].as_ref().map(Value::whole).expect("a number");
                rows.insert(number as usize, row);
            }
        }
        rows
    }

    /// Lists the leaves of a version.
    pub(super) fn shown(&self, version: Version) -> Vec<Shown> {
        let leaves = self.columns(version).flat_map(|column| {
            let name = column.name(version);
            let named = |((id, own), part)| Shown {
                id,
                own,
                kind: column.leaf_at(own, self.last(version)),
                name: if column.kind == Kind::Pair { format!("{name}['{part}']") } else { name.clone() },
            };
            column.leaves().into_iter().zip(["a", "b"]).map(named).collect::<Vec<_>>()
        });
        leaves.collect()
    }

    /// Writes rows as a version shows them.
    pub fn lines<'a>(&self, version: Version, rows: impl Iterator<Item = &'a Row>) -> Vec<String> {
        let rows: Vec<&Row> = rows.collect();
        let columns = self.shown(version).into_iter().map(|Shown { id, own, kind, name }| {
            let values: Vec<Leaf> = rows.iter().map(|row| own.written(kind, &row[&id])).collect();
            let array = kind.array(id, &values);
            (Field::new(name, array.data_type().clone(), true), array)
        });
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.unzip();
        let batch = RecordBatch::try_new(Schema::new(fields).into(), arrays).expect("columns of one length");
        asks::lines(&[batch], "NULL")
    }

    /// Describes the table without its rows.
    pub fn told(&self) -> String {
        let mut lines = vec![format!("the older version is of commit {}", self.then)];
        lines.extend(self.columns.iter().map(|column| format!("{column:?}")));
        lines.extend(self.specs.iter().enumerate().map(|(id, parts)| format!("spec {id}: {parts:?}")));
        lines.extend(self.files.iter().map(|TestFile { path, rows, committed, omitted }| {
            format!("{path}: {} rows from {:?}, {committed:?}, without {omitted:?}", rows.len(), rows[0][&1])
        }));
        lines.extend(self.deletes.iter().map(|TestDelete { contents, committed }| match contents {
            Contents::Positions(rows) => format!("positions of {} files, {committed:?}", rows.len()),
            Contents::Vector(of, rows) => format!("{} rows of {of}, {committed:?}", rows.len()),
            Contents::Keys(ids, keys) => format!("{ids:?} {keys:?}, {committed:?}"),
        }));
        lines.join("\n")
    }

    /// Counts the leaves of a version.
    pub(super) fn width(&self, version: Version) -> usize {
        self.shown(version).len()
    }

    /// Lists the leaves of a version in SQL, each with a prefix.
    pub fn select(&self, version: Version, prefix: &str) -> String {
        let names = self.shown(version).into_iter().map(|shown| format!("{prefix}{}", shown.name));
        names.collect::<Vec<_>>().join(", ")
    }

    /// Returns the statement that shows the current rows.
    pub fn sql(&self, table: &str) -> String {
        format!("SELECT {} FROM {table}", self.select(Version::Now, ""))
    }
}

fn column(id: i32, random: &mut StdRng) -> Column {
    let mut kind = *Kind::ALL.choose(random).expect("one");
    if random.random_ratio(1, 4) {
        kind = Kind::Long;
    }
    let before = kind.before().filter(|_| random.random_ratio(1, 3));
    let since = if random.random_ratio(1, 4) { random.random_range(2..5) } else { 0 };
    let default = (!kind.is_nested() && since > 0 && random.random_bool(0.6)).then(|| kind.value(before, random));
    Column {
        id,
        kind,
        before,
        promoted: random.random_range(2..5),
        since,
        default: default.filter(|value| kind.default(value).is_some()),
        is_there: random.random_bool(0.75),
        is_renamed: random.random_bool(0.3),
    }
}
