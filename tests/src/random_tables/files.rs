//! Files of a random table: data, deletes and metadata, with the metrics that writers leave.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray};
use arrow::datatypes::DataType;
use parquet::file::properties::WriterProperties;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};

use super::table::{Column, Contents, Random, SpecPart, TestDelete, TestFile, Version, number};
use super::values::{Kind, Leaf, Value};
use crate::iceberg::{
    Committed, DataFile, DeleteFile, Deletes, IcebergTable, Metrics, Part, Past, field, parquet, positions, vector,
};

impl Random {
    /// Writes the table's files, and returns its metadata file and its delete files.
    pub fn write(&self, folder: &Path, random: &mut StdRng) -> (String, Vec<PathBuf>) {
        self.put(folder, random, &mut |path, bytes| {
            std::fs::create_dir_all(Path::new(path).parent().expect("a folder")).expect("made");
            std::fs::write(path, bytes).expect("written");
        })
    }

    /// Puts the table's files below a location, and returns its metadata file and its delete files.
    pub fn put(&self, folder: &Path, random: &mut StdRng, put: &mut dyn FnMut(&str, &[u8])) -> (String, Vec<PathBuf>) {
        let mut properties = |rows: usize| {
            let builder = WriterProperties::builder().set_max_row_group_row_count(Some(rows.div_ceil(3).max(7)));
            let pages = random.random_range(3..50);
            builder.set_data_page_row_count_limit(pages).set_write_batch_size(pages).build()
        };
        let mut put = |path: &str, bytes: &[u8]| {
            put(path, bytes);
            bytes.len() as u64
        };
        let mut data = Vec::new();
        for file in &self.files {
            let columns = self.columns.iter().filter(|column| file.has(column)).map(|column| {
                let kind = column.kind_at(file.commit());
                let leaves =
                    |id: i32| file.rows.iter().map(|row| column.kind.written(kind, &row[&id])).collect::<Vec<Leaf>>();
                kind.column(column.id, &column.name(Version::Then), &leaves)
            });
            let (fields, arrays): (Vec<_>, Vec<_>) = columns.unzip();
            let bytes = parquet(&fields, arrays, properties(file.rows.len())).expect("a file");
            let size = put(&file.path, &bytes);
            data.push((file, DataFile::new(&*file.path, size, file.rows.len() as u64)));
        }
        let (mut deletes, mut paths) = (Vec::new(), Vec::new());
        for (number, delete) in self.deletes.iter().enumerate() {
            let path = folder.join(format!("deletes/{number}")).display().to_string();
            let (bytes, count, content) = match &delete.contents {
                Contents::Positions(rows) => {
                    let rows = rows.iter().flat_map(|(path, rows)| rows.iter().map(|row| (path.as_str(), *row as i64)));
                    let rows: Vec<(&str, i64)> = rows.collect();
                    (positions(&rows, properties(rows.len())).expect("a file"), rows.len(), Deletes::Positions)
                }
                Contents::Vector(of, rows) => {
                    let bytes = vector(rows.iter().map(|row| *row as u64)).expect("a vector");
                    let content = Deletes::Vector { of: of.clone(), offset: 4, bytes: bytes.len() as u64 };
                    ([b"PFA1", &bytes[..], b"a footer"].concat(), rows.len(), content)
                }
                Contents::Keys(ids, keys) => {
                    (self.keys(ids, keys, &delete.committed), keys.len(), Deletes::Keys(ids.clone()))
                }
            };
            let size = put(&path, &bytes);
            paths.push(PathBuf::from(&path));
            deletes.push(DeleteFile {
                committed: delete.committed.clone(),
                ..DeleteFile::new(path, size, count as u64, content)
            });
        }
        let data = data.into_iter().map(|(file, data)| DataFile {
            committed: file.committed.clone(),
            metrics: self.metrics(file, random),
            ..data
        });
        let data = data.collect();
        for (file, delete) in deletes.iter_mut().zip(&self.deletes) {
            file.metrics = self.key_metrics(delete, random);
        }
        let json = |column: &Column, version: Version| {
            let (kind, id) = (column.kind_at(self.last(version)), column.id);
            let mut json = json!({"id": id, "name": column.name(version), "required": false, "type": kind.json(id)});
            let default = column.kind.written(kind, &column.default);
            if let Some(default) = default.and_then(|default| kind.default(&default)) {
                json["initial-default"] = default;
            }
            json
        };
        let fields = |version: Version| self.columns(version).map(|column| json(column, version)).collect::<Json>();
        // The last schema that has the columns that were dropped.
        let dropping = self.columns.iter().map(|column| json(column, Version::Now)).collect();
        let part = |part: &SpecPart| Part {
            source: part.id,
            transform: part.transform.name(),
            avro: part.transform.avro(part.kind, part.id),
        };
        let table = IcebergTable {
            location: folder.display().to_string(),
            fields: fields(Version::Now),
            older: vec![fields(Version::Then), dropping],
            past: Some(Past { commit: self.then, schema: 0 }),
            specs: self.specs.iter().map(|parts| parts.iter().map(part).collect()).collect(),
            data,
            deletes,
            manifest_files_max: random.random_range(0..4),
            by_commit: random.random(),
            without_summaries: random.random_ratio(1, 6),
            ..IcebergTable::default()
        };
        for (path, bytes) in table.metadata() {
            put(&path, &bytes);
        }
        (table.metadata_path(), paths)
    }

    /// Writes a file of keys. A key in a struct is in a struct there, too.
    fn keys(&self, ids: &[i32], keys: &[Vec<Leaf>], committed: &Committed) -> Vec<u8> {
        let values = |column: &Column, kind: Kind, id: i32| {
            let place = ids.iter().position(|own| *own == id).expect("a key");
            keys.iter().map(|key| column.kind.written(kind, &key[place])).collect::<Vec<_>>()
        };
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for column in &self.columns {
            let own: Vec<(i32, Kind)> = column.leaves().into_iter().filter(|(id, _)| ids.contains(id)).collect();
            let written = match (column.kind, own.as_slice()) {
                (_, []) => continue,
                (Kind::Pair, own) => {
                    let leaf = |(id, kind): &(i32, Kind)| {
                        let name = if *kind == Kind::Long { "a" } else { "b" };
                        let (field, array) = kind.column(*id, name, &|id| values(column, *kind, id));
                        (Arc::new(field), array)
                    };
                    let pair = StructArray::from(own.iter().map(leaf).collect::<Vec<_>>());
                    let ty = DataType::Struct(pair.fields().clone());
                    (field(column.id, "s", ty), Arc::new(pair) as ArrayRef)
                }
                _ => {
                    let kind = column.kind_at(number(committed));
                    kind.column(column.id, &column.name(Version::Then), &|id| values(column, kind, id))
                }
            };
            fields.push(written.0);
            arrays.push(written.1);
        }
        parquet(&fields, arrays, WriterProperties::default()).expect("a file")
    }

    /// Makes the metrics of a data file, with the gaps and the faults that writers leave.
    fn metrics(&self, file: &TestFile, random: &mut StdRng) -> Vec<Metrics> {
        let mut metrics = Vec::new();
        for column in self.columns.iter().filter(|column| file.has(column)) {
            for (id, kind) in column.leaves() {
                let kind = column.leaf_at(kind, file.commit());
                let values: Vec<Leaf> = file.rows.iter().map(|row| column.kind.written(kind, &row[&id])).collect();
                metrics.extend(described(id, kind, &values, random));
            }
        }
        metrics
    }

    fn key_metrics(&self, delete: &TestDelete, random: &mut StdRng) -> Vec<Metrics> {
        let Contents::Keys(ids, keys) = &delete.contents else { return Vec::new() };
        let mut metrics = Vec::new();
        for column in &self.columns {
            for (id, kind) in column.leaves() {
                let Some(place) = ids.iter().position(|own| *own == id) else { continue };
                let kind = column.leaf_at(kind, number(&delete.committed));
                let values: Vec<Leaf> = keys.iter().map(|key| column.kind.written(kind, &key[place])).collect();
                metrics.extend(described(id, kind, &values, random));
            }
        }
        metrics
    }
}

/// Describes the values of a leaf in a file. None where the writer keeps no metrics of it.
fn described(id: i32, kind: Kind, values: &[Leaf], random: &mut StdRng) -> Option<Metrics> {
    if random.random_ratio(1, 7) {
        return None;
    }
    let mut count = |count: usize| random.random_ratio(5, 6).then_some(count as i64);
    let known: Vec<&Value> = values.iter().flatten().collect();
    if kind.is_nested() {
        // Counts of a list or a map are of its elements. Those of the column itself say nothing of them.
        let elements: Vec<Option<i64>> = known
            .iter()
            .flat_map(|value| match value {
                Value::List(items) => items.clone(),
                Value::Map(pairs) => pairs.iter().map(|(_, value)| *value).collect(),
                other => panic!("{other:?} has no elements"),
            })
            .collect();
        let nulls = elements.iter().filter(|item| item.is_none()).count();
        let id = id + if kind == Kind::List { 1 } else { 2 };
        return Some(Metrics { id, values: count(elements.len()), nulls: count(nulls), ..Metrics::default() });
    }
    let is_nan = |value: &Value| matches!(value, Value::Float(value) if value.is_nan());
    let mut metrics = Metrics {
        id,
        values: count(values.len()),
        nulls: count(values.len() - known.len()),
        nans: matches!(kind, Kind::Float | Kind::Double)
            .then(|| count(known.iter().filter(|value| is_nan(value)).count()))
            .flatten(),
        lower: None,
        upper: None,
    };
    let mut sorted: Vec<&Value> = known.into_iter().filter(|value| !is_nan(value)).collect();
    sorted.sort_by(|a, b| match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (a, b) => kind.order(a, b),
    });
    let bytes = |value: &Value| kind.datum(&Some(value.clone())).bytes();
    if let (Some(lower), Some(upper)) = (sorted.first(), sorted.last()) {
        metrics.lower = random.random_ratio(5, 6).then(|| bytes(&cut(lower, false))).flatten();
        // Some writers forget to round up a bound that they cut.
        let is_rounded = random.random_ratio(3, 4);
        metrics.upper = random.random_ratio(5, 6).then(|| bytes(&cut(upper, is_rounded))).flatten();
        let has_both = metrics.lower.is_some() && metrics.upper.is_some();
        if has_both && random.random_ratio(1, 20) && kind.order(lower, upper).is_lt() {
            std::mem::swap(&mut metrics.lower, &mut metrics.upper);
        }
    }
    match random.random_range(0..40) {
        0 => metrics.nulls = Some(values.len() as i64 + 1),
        1 => metrics.values = Some(values.len() as i64 + 1),
        _ => {}
    }
    Some(metrics)
}

/// Cuts a text to two characters, the last of which may be rounded up.
fn cut(value: &Value, is_rounded: bool) -> Value {
    let Value::Text(text) = value else { return value.clone() };
    let mut cut: Vec<char> = text.chars().take(2).collect();
    if let Some(last) = cut.last_mut().filter(|_| is_rounded && text.chars().count() > 2) {
        *last = char::from_u32(*last as u32 + 1).expect("a character");
    }
    Value::Text(cut.into_iter().collect())
}
