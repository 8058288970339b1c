//! Writer of Iceberg's metadata for tests: tables of version 3, their partitions, metrics and deletes. It writes what it is told, be
//! it sound or not. Independent of the reader.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use parquet::file::properties::WriterProperties;
use roaring::RoaringTreemap;
use serde_json::{Value, json};

use avro::{Row, avro};

mod avro;

const FILE_PATH_ID: i32 = i32::MAX - 101;
const POSITION_ID: i32 = i32::MAX - 102;
const SNAPSHOT: i64 = 1;
/// Id of the snapshot before the current one.
pub const PAST_SNAPSHOT: i64 = 7;
/// Id of the first spec's field.
const PARTITION_ID: i32 = 1000;

static UNPARTED: [Vec<Part>; 1] = [Vec::new()];

/// Files of a snapshot: data of the first commit, and deletes of the second, where they do not say another.
#[derive(Default)]
pub struct IcebergTable {
    /// Folder of the table, as its metadata spells it.
    pub location: String,
    /// Fields of the schema, as JSON of the metadata.
    pub fields: Value,
    /// Fields of older schemas, the oldest first.
    pub older: Vec<Value>,
    /// Fields of each partition spec. Without one, no column parts the files.
    pub specs: Vec<Vec<Part>>,
    pub data: Vec<DataFile>,
    pub deletes: Vec<DeleteFile>,
    /// Most files of a manifest. 0 for any number.
    pub manifest_files_max: usize,
    /// Each commit has manifests of its own, which snapshots share.
    pub by_commit: bool,
    /// Manifests in the list say nothing of their partitions.
    pub without_summaries: bool,
    /// Properties of the table.
    pub properties: Value,
    /// Snapshot before the current one.
    pub past: Option<Past>,
}

/// Snapshot [`PAST_SNAPSHOT`] of the files up to a commit.
#[derive(Debug, Clone, Copy)]
pub struct Past {
    /// Largest sequence number of its files.
    pub commit: i64,
    /// Position of its schema, of the older ones.
    pub schema: usize,
}

/// Field of a partition spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub source: i32,
    /// Transform as the metadata writes it, `bucket[4]`.
    pub transform: String,
    /// Avro's type of its values.
    pub avro: Value,
}

/// Value of a partition field, or a bound.
#[derive(Debug, Clone, PartialEq)]
pub enum Datum {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    Text(String),
    /// Unscaled value of a decimal, of four bytes.
    Decimal(i32),
}

/// Metrics of a column of a file. What the writer leaves out is None.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    pub id: i32,
    pub values: Option<i64>,
    pub nulls: Option<i64>,
    pub nans: Option<i64>,
    /// Bytes of the bounds.
    pub lower: Option<Vec<u8>>,
    pub upper: Option<Vec<u8>>,
}

/// Commit and partition of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Committed {
    /// None for the one that the manifest gives.
    pub sequence_number: Option<i64>,
    /// Position of the spec.
    pub spec: usize,
    /// A value for each field of the spec.
    pub partition: Vec<Datum>,
}

impl Part {
    /// Makes a field of the values of a column of type long.
    pub fn of_longs(source: i32) -> Self {
        Self { source, transform: "identity".to_owned(), avro: json!("long") }
    }
}

impl Datum {
    /// Returns the bytes of a bound, as the specification's appendix D has them. None for NULL.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(value) => vec![u8::from(*value)],
            Self::Int(value) => value.to_le_bytes().into(),
            Self::Long(value) => value.to_le_bytes().into(),
            Self::Float(value) => value.to_le_bytes().into(),
            Self::Double(value) => value.to_le_bytes().into(),
            Self::Text(value) => value.as_bytes().into(),
            Self::Decimal(value) => value.to_be_bytes().into(),
        })
    }

    fn is_nan(&self) -> bool {
        match self {
            Self::Float(value) => value.is_nan(),
            Self::Double(value) => value.is_nan(),
            _ => false,
        }
    }

    /// Orders values of one kind, neither NULL nor NaN.
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) | (Self::Decimal(a), Self::Decimal(b)) => a.cmp(b),
            (Self::Long(a), Self::Long(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(b),
            (Self::Double(a), Self::Double(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => panic!("{self:?} and {other:?} are of different kinds"),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct DataFile {
    pub path: String,
    pub size_bytes: u64,
    pub rows: u64,
    pub committed: Committed,
    pub metrics: Vec<Metrics>,
}

#[derive(Debug, Clone)]
pub struct DeleteFile {
    pub path: String,
    pub size_bytes: u64,
    /// Rows, or positions of a vector.
    pub count: u64,
    pub content: Deletes,
    pub committed: Committed,
    pub metrics: Vec<Metrics>,
}

#[derive(Debug, Clone)]
pub enum Deletes {
    Positions,
    Vector { of: String, offset: u64, bytes: u64 },
    Keys(Vec<i32>),
}

impl DataFile {
    pub fn new(path: impl Into<String>, size_bytes: u64, rows: u64) -> Self {
        Self { path: path.into(), size_bytes, rows, ..Self::default() }
    }
}

impl DeleteFile {
    pub fn new(path: impl Into<String>, size_bytes: u64, count: u64, content: Deletes) -> Self {
        let (path, committed, metrics) = (path.into(), Committed::default(), Vec::new());
        Self { path, size_bytes, count, content, committed, metrics }
    }
}

impl IcebergTable {
    /// Returns the path of the table's metadata file.
    pub fn metadata_path(&self) -> String {
        format!("{}/metadata/v1.metadata.json", self.location)
    }

    fn path(&self, name: &str) -> String {
        format!("{}/metadata/{name}", self.location)
    }

    fn specs(&self) -> &[Vec<Part>] {
        if self.specs.is_empty() { &UNPARTED } else { &self.specs }
    }

    /// Lists the names and values of a manifest's header. ClickHouse reads no manifest without them.
    fn header(&self, spec: usize, content: i64) -> [(&'static str, String); 6] {
        let schema = json!({"schema-id": self.older.len(), "type": "struct", "fields": self.fields});
        let contents = if content == 0 { "data" } else { "deletes" };
        [
            ("schema", schema.to_string()),
            ("schema-id", self.older.len().to_string()),
            ("partition-spec", Value::from(part_fields(spec, &self.specs()[spec])).to_string()),
            ("partition-spec-id", spec.to_string()),
            ("format-version", "3".to_owned()),
            ("content", contents.to_owned()),
        ]
    }

    /// Lists the manifest list of the files up to a commit, and its manifests. Their names begin with a text.
    fn manifests(&self, begin: &str, commit: i64) -> Vec<(String, Vec<u8>)> {
        let (mut manifests, mut files) = (Vec::new(), Vec::new());
        for (spec, parts) in self.specs().iter().enumerate() {
            let is_in = |committed: &Committed| {
                committed.spec == spec && committed.sequence_number.is_none_or(|number| number <= commit)
            };
            let data = self.data.iter().filter(|file| is_in(&file.committed));
            let data = data.map(|file| (&file.committed, file.rows, data_entry(file, parts)));
            let deletes = self.deletes.iter().filter(|file| is_in(&file.committed));
            let deletes = deletes.map(|file| (&file.committed, file.count, delete_entry(file, parts)));
            for (name, content, entries) in [("data", 0, data.collect::<Vec<_>>()), ("deletes", 1, deletes.collect())] {
                let mut groups: BTreeMap<String, Vec<Listed<'_>>> = BTreeMap::new();
                if entries.is_empty() && (content, spec) == (0, 0) {
                    groups.insert(begin.to_owned(), Vec::new());
                }
                for (committed, count, row) in entries {
                    let commit = committed.sequence_number.unwrap_or_default();
                    let group = if self.by_commit { format!("{commit}-") } else { begin.to_owned() };
                    groups.entry(group).or_default().push((&committed.partition, count, row));
                }
                let most = if self.manifest_files_max == 0 { usize::MAX } else { self.manifest_files_max };
                let chunks = groups.iter().flat_map(|(group, entries)| {
                    let chunks =
                        if entries.is_empty() { vec![entries.as_slice()] } else { entries.chunks(most).collect() };
                    chunks.into_iter().enumerate().map(move |(number, entries)| (group, number, entries))
                });
                for (group, number, entries) in chunks {
                    let (tuples, rows): (Vec<&Vec<Datum>>, Vec<&Row>) = entries.iter().map(|(t, _, r)| (*t, r)).unzip();
                    let count: u64 = entries.iter().map(|(_, count, _)| count).sum();
                    let path = self.path(&format!("{group}{name}-{spec}-{number}.avro"));
                    let bytes = manifest(&rows, &self.header(spec, content), spec, parts);
                    let mut row = Row::default();
                    row.text(&path).long(bytes.len() as i64).long(spec as i64).long(content);
                    // Sequence numbers, snapshot; added, existing and deleted files.
                    row.long(1 + content).long(0).long(SNAPSHOT).long(entries.len() as i64).long(0).long(0);
                    // Their rows.
                    row.long(count as i64).long(0).long(0);
                    match self.without_summaries {
                        true => row.nothing(),
                        false => row.some().items((0..parts.len()).map(|part| summary(&tuples, part))),
                    };
                    manifests.push(row.0);
                    files.push((path, bytes));
                }
            }
        }
        let list_fields = [
            ("manifest_path", 500, "string"),
            ("manifest_length", 501, "long"),
            ("partition_spec_id", 502, "int"),
            ("content", 517, "int"),
            ("sequence_number", 515, "long"),
            ("min_sequence_number", 516, "long"),
            ("added_snapshot_id", 503, "long"),
            ("added_files_count", 504, "int"),
            ("existing_files_count", 505, "int"),
            ("deleted_files_count", 506, "int"),
            ("added_rows_count", 512, "long"),
            ("existing_rows_count", 513, "long"),
            ("deleted_rows_count", 514, "long"),
        ];
        let mut list_fields: Vec<Value> =
            list_fields.iter().map(|(name, id, ty)| avro_field(*id, name, json!(ty))).collect();
        let summary = json!({"type": "record", "name": "r508", "fields": [
            avro_field(509, "contains_null", json!("boolean")), avro_field(518, "contains_nan", json!("boolean")),
            avro_field(510, "lower_bound", optional("bytes")), avro_field(511, "upper_bound", optional("bytes"))]});
        let summaries = json!({"type": "array", "items": summary, "element-id": 508});
        list_fields.push(avro_field(507, "partitions", json!(["null", summaries])));
        let list = json!({"type": "record", "name": "manifest_file", "fields": list_fields});
        files.push((self.path(&format!("{begin}list.avro")), avro(&list, &[], &manifests)));
        files
    }

    /// Lists the metadata files with their paths.
    pub fn metadata(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = self.manifests("", i64::MAX);
        let schemas = self.older.iter().chain([&self.fields]).enumerate();
        let schemas = schemas.map(|(id, fields)| json!({"schema-id": id, "type": "struct", "fields": fields}));
        let specs = self.specs().iter().enumerate();
        let specs = specs.map(|(id, parts)| json!({"spec-id": id, "fields": part_fields(id, parts)}));
        let numbers =
            self.data.iter().map(|file| &file.committed).chain(self.deletes.iter().map(|file| &file.committed));
        let last = numbers.filter_map(|committed| committed.sequence_number).chain([2]).max();
        let snapshot = |id: i64, commit: Option<i64>, schema: usize, list: &str| {
            json!({"snapshot-id": id, "sequence-number": commit, "timestamp-ms": 0, "schema-id": schema,
                "manifest-list": self.path(list), "summary": {"operation": "overwrite"}})
        };
        let mut snapshots = vec![snapshot(SNAPSHOT, last, self.older.len(), "list.avro")];
        if let Some(Past { commit, schema }) = self.past {
            files.extend(self.manifests("past-", commit));
            snapshots.push(snapshot(PAST_SNAPSHOT, Some(commit), schema, "past-list.avro"));
        }
        let metadata = json!({
            "format-version": 3, "table-uuid": "8f3b1b2c-4a53-4b5e-9a55-6a1f0c9d7e21", "location": self.location,
            "last-sequence-number": last, "last-updated-ms": 0, "last-column-id": 1000, "next-row-id": 0,
            "properties": self.properties, "current-schema-id": self.older.len(), "schemas": schemas.collect::<Vec<_>>(),
            "default-spec-id": 0, "partition-specs": specs.collect::<Vec<_>>(), "last-partition-id": 1999,
            "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}],
            "current-snapshot-id": SNAPSHOT, "snapshots": snapshots,
        });
        files.push((self.metadata_path(), metadata.to_string().into_bytes()));
        files
    }
}

/// Makes a deletion vector as a Puffin file holds it, to be put at any offset.
///
/// # Errors
/// That of writing into memory.
pub fn vector(positions: impl IntoIterator<Item = u64>) -> anyhow::Result<Vec<u8>> {
    let mut checked = vec![0xd1, 0xd3, 0x39, 0x64];
    positions.into_iter().collect::<RoaringTreemap>().serialize_into(&mut checked)?;
    let mut vector = u32::try_from(checked.len())?.to_be_bytes().to_vec();
    let checksum = crc32fast::hash(&checked);
    vector.extend(checked);
    vector.extend(checksum.to_be_bytes());
    Ok(vector)
}

/// Makes a file of positions, ordered by path and position.
///
/// # Errors
/// That of writing Parquet into memory.
pub fn positions(rows: &[(&str, i64)], properties: WriterProperties) -> anyhow::Result<Vec<u8>> {
    let paths: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(path, _)| *path)));
    let positions: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, position)| *position)));
    let fields = [field(FILE_PATH_ID, "file_path", DataType::Utf8), field(POSITION_ID, "pos", DataType::Int64)];
    parquet(&fields, vec![paths, positions], properties)
}

/// Makes a Parquet file.
///
/// # Errors
/// Columns that are not of the fields, and that of writing into memory.
pub fn parquet(fields: &[Field], columns: Vec<ArrayRef>, properties: WriterProperties) -> anyhow::Result<Vec<u8>> {
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns)?;
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))?;
    writer.write(&rows)?;
    Ok(writer.into_inner()?)
}

/// Makes a field with a field id.
pub fn field(id: i32, name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true).with_metadata([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into())
}

/// Entry of a manifest.
fn data_entry(DataFile { path, size_bytes, rows, committed, metrics }: &DataFile, parts: &[Part]) -> Row {
    let file = File { content: 0, path, format: "parquet", rows: *rows, size_bytes: *size_bytes, metrics };
    entry(&file, committed, parts, None, &[])
}

fn delete_entry(file: &DeleteFile, parts: &[Part]) -> Row {
    let DeleteFile { path, size_bytes, count, content, committed, metrics } = file;
    let file = |content, format| File { content, path, format, rows: *count, size_bytes: *size_bytes, metrics };
    match content {
        Deletes::Positions => entry(&file(1, "parquet"), committed, parts, None, &[]),
        Deletes::Keys(ids) => entry(&file(2, "parquet"), committed, parts, None, ids),
        Deletes::Vector { of, offset, bytes } => {
            entry(&file(1, "puffin"), committed, parts, Some((of, *offset, *bytes)), &[])
        }
    }
}

/// Partition of a file, its rows, and its entry.
type Listed<'a> = (&'a Vec<Datum>, u64, Row);

/// Bound of a column, of one side.
type BoundOf = fn(&Metrics) -> Option<&[u8]>;

struct File<'a> {
    content: i64,
    path: &'a str,
    format: &'a str,
    rows: u64,
    size_bytes: u64,
    metrics: &'a [Metrics],
}

fn entry(
    file: &File<'_>,
    committed: &Committed,
    parts: &[Part],
    vector: Option<(&str, u64, u64)>,
    keys: &[i32],
) -> Row {
    let mut row = Row::default();
    // Status, snapshot; without a sequence number of its own it has the manifest's.
    row.long(1).long(SNAPSHOT).optional(committed.sequence_number);
    row.long(file.content).text(file.path).text(file.format);
    assert_eq!(committed.partition.len(), parts.len(), "a value for each field of the spec");
    for value in &committed.partition {
        row.datum(value);
    }
    row.long(file.rows as i64).long(file.size_bytes as i64);
    let counts = [|of: &Metrics| of.values, |of: &Metrics| of.nulls, |of: &Metrics| of.nans];
    for count in counts {
        let pairs = file.metrics.iter().filter_map(|of| Some((of.id, count(of)?)));
        row.items(pairs.map(|(id, count)| Row::of(|row| row.long(id.into()).long(count))));
    }
    let bounds: [BoundOf; 2] = [|of| of.lower.as_deref(), |of| of.upper.as_deref()];
    for bound in bounds {
        let pairs = file.metrics.iter().filter_map(|of| Some((of.id, bound(of)?)));
        row.items(pairs.map(|(id, bound)| Row::of(|row| row.long(id.into()).bytes(bound))));
    }
    match vector {
        Some((of, offset, bytes)) => row.some().text(of).some().long(offset as i64).some().long(bytes as i64),
        None => row.nothing().nothing().nothing(),
    };
    row.items(keys.iter().map(|key| Row::of(|row| row.long((*key).into()))));
    row
}

/// Summary of a partition field's values in a manifest.
fn summary(tuples: &[&Vec<Datum>], part: usize) -> Row {
    let values: Vec<&Datum> = tuples.iter().map(|tuple| &tuple[part]).collect();
    let mut sorted: Vec<&Datum> =
        values.iter().copied().filter(|value| **value != Datum::Null && !value.is_nan()).collect();
    sorted.sort_by(|a, b| a.order(b));
    let bound = |value: Option<&&Datum>| value.and_then(|value| value.bytes());
    Row::of(|row| {
        row.bool(values.contains(&&Datum::Null)).bool(values.iter().any(|value| value.is_nan()));
        row.optional_bytes(bound(sorted.first())).optional_bytes(bound(sorted.last()))
    })
}

/// Lists a spec's fields, as JSON of the metadata.
fn part_fields(spec: usize, parts: &[Part]) -> Vec<Value> {
    let part = |(number, part): (usize, &Part)| {
        json!({"source-id": part.source, "field-id": part_id(spec, number), "name": part_name(spec, number),
            "transform": part.transform})
    };
    parts.iter().enumerate().map(part).collect()
}

fn part_id(spec: usize, number: usize) -> i32 {
    PARTITION_ID + (10 * spec + number) as i32
}

/// Name of a field of a spec.
fn part_name(spec: usize, number: usize) -> String {
    format!("part_{spec}_{number}")
}

fn optional(kind: &str) -> Value {
    json!(["null", kind])
}

fn avro_field(id: i32, name: &str, ty: Value) -> Value {
    json!({"name": name, "field-id": id, "type": ty})
}

fn manifest(entries: &[&Row], header: &[(&str, String)], spec: usize, parts: &[Part]) -> Vec<u8> {
    let part = |(number, part): (usize, &Part)| {
        avro_field(part_id(spec, number), &part_name(spec, number), json!(["null", part.avro]))
    };
    let parts: Vec<Value> = parts.iter().enumerate().map(part).collect();
    let pairs = |id: i32, name: &str, kind: &str| {
        let pair = json!({"type": "record", "name": format!("{name}_pair"), "fields": [
            avro_field(id, "key", json!("int")), avro_field(id + 1, "value", json!(kind))]});
        json!({"type": "array", "items": pair, "logicalType": "map"})
    };
    let file = json!({"type": "record", "name": "r2", "fields": [
        {"name": "content", "field-id": 134, "type": "int"},
        {"name": "file_path", "field-id": 100, "type": "string"},
        {"name": "file_format", "field-id": 101, "type": "string"},
        {"name": "partition", "field-id": 102, "type": {"type": "record", "name": "r102", "fields": parts}},
        {"name": "record_count", "field-id": 103, "type": "long"},
        {"name": "file_size_in_bytes", "field-id": 104, "type": "long"},
        {"name": "value_counts", "field-id": 109, "type": pairs(119, "values", "long")},
        {"name": "null_value_counts", "field-id": 110, "type": pairs(121, "nulls", "long")},
        {"name": "nan_value_counts", "field-id": 137, "type": pairs(138, "nans", "long")},
        {"name": "lower_bounds", "field-id": 125, "type": pairs(126, "lower", "bytes")},
        {"name": "upper_bounds", "field-id": 128, "type": pairs(129, "upper", "bytes")},
        {"name": "referenced_data_file", "field-id": 143, "type": optional("string")},
        {"name": "content_offset", "field-id": 144, "type": optional("long")},
        {"name": "content_size_in_bytes", "field-id": 145, "type": optional("long")},
        {"name": "equality_ids", "field-id": 135, "type": {"type": "array", "items": "int", "element-id": 136}},
    ]});
    let schema = json!({"type": "record", "name": "manifest_entry", "fields": [
        {"name": "status", "field-id": 0, "type": "int"},
        {"name": "snapshot_id", "field-id": 1, "type": "long"},
        {"name": "sequence_number", "field-id": 3, "type": optional("long")},
        {"name": "data_file", "field-id": 2, "type": file},
    ]});
    avro(&schema, header, &entries.iter().map(|row| row.0.clone()).collect::<Vec<_>>())
}
