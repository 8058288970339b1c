//! Writer of Iceberg's metadata for tests: tables of version 3, parted by values of at most one column, and their deletes. It writes
//! what it is told, be it sound or not. Independent of the reader.
//!
//! Avro is written as far as these files need it: records of longs and texts, in one block, not compressed.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use parquet::file::properties::WriterProperties;
use roaring::RoaringTreemap;
use serde_json::{Value, json};

const FILE_PATH_ID: i32 = i32::MAX - 101;
const POSITION_ID: i32 = i32::MAX - 102;
const SNAPSHOT: i64 = 1;
/// Id of the first spec's field.
const PARTITION_ID: i32 = 1000;

/// Files of a snapshot: data of the first commit, and deletes of the second, where they do not say another.
#[derive(Default)]
pub struct IcebergTable {
    /// Folder of the table, as its metadata spells it.
    pub location: String,
    /// Fields of the schema, as JSON of the metadata.
    pub fields: Value,
    /// Fields of older schemas, the oldest first.
    pub older: Vec<Value>,
    /// Column of each spec whose values, of type long, part the files. Without one, no column parts them.
    pub specs: Vec<Option<i32>>,
    pub data: Vec<DataFile>,
    pub deletes: Vec<DeleteFile>,
}

/// Commit and partition of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// None for the one that the manifest gives.
    pub sequence_number: Option<i64>,
    /// Position of the spec.
    pub spec: usize,
    pub partition: Option<i64>,
}

#[derive(Debug, Clone, Default)]
pub struct DataFile {
    pub path: String,
    pub size_bytes: u64,
    pub rows: u64,
    pub committed: Committed,
}

#[derive(Debug, Clone)]
pub struct DeleteFile {
    pub path: String,
    pub size_bytes: u64,
    /// Rows, or positions of a vector.
    pub count: u64,
    pub content: Deletes,
    pub committed: Committed,
}

#[derive(Debug, Clone)]
pub enum Deletes {
    Positions,
    Vector { of: String, offset: u64, bytes: u64 },
    Keys(Vec<i32>),
}

impl DataFile {
    pub fn new(path: impl Into<String>, size_bytes: u64, rows: u64) -> Self {
        Self { path: path.into(), size_bytes, rows, committed: Committed::default() }
    }
}

impl DeleteFile {
    pub fn new(path: impl Into<String>, size_bytes: u64, count: u64, content: Deletes) -> Self {
        Self { path: path.into(), size_bytes, count, content, committed: Committed::default() }
    }
}

impl IcebergTable {
    /// Returns the path of the table's metadata file.
    pub fn metadata_path(&self) -> String {
        format!("{}/metadata/v1.metadata.json", self.location)
    }

    /// Lists the metadata files with their paths.
    pub fn metadata(&self) -> Vec<(String, Vec<u8>)> {
        let path = |name: &str| format!("{}/metadata/{name}", self.location);
        let specs = if self.specs.is_empty() { &[None][..] } else { &self.specs };
        let (mut manifests, mut files) = (Vec::new(), Vec::new());
        for (spec, column) in specs.iter().enumerate() {
            let in_spec = |committed: &Committed| committed.spec == spec;
            let data = self.data.iter().filter(|file| in_spec(&file.committed)).map(|file| data_entry(file, *column));
            let deletes = self.deletes.iter().filter(|file| in_spec(&file.committed));
            let deletes = deletes.map(|file| delete_entry(file, *column));
            for (name, content, entries) in [("data", 0, data.collect::<Vec<_>>()), ("deletes", 1, deletes.collect())] {
                if entries.is_empty() && (content, spec) != (0, 0) {
                    continue;
                }
                let (path, bytes) = (path(&format!("{name}-{spec}.avro")), manifest(&entries, spec, *column));
                let mut row = Row::default();
                row.text(&path).long(bytes.len() as i64).long(spec as i64).long(content);
                // Sequence numbers, snapshot; added, existing and deleted files.
                row.long(1 + content).long(0).long(SNAPSHOT).long(entries.len() as i64).long(0).long(0);
                manifests.push(row.0);
                files.push((path, bytes));
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
        ];
        files.push((path("list.avro"), avro(&record("manifest_file", &list_fields), &manifests)));
        let schemas = self.older.iter().chain([&self.fields]).enumerate();
        let schemas = schemas.map(|(id, fields)| json!({"schema-id": id, "type": "struct", "fields": fields}));
        let specs = specs.iter().enumerate().map(|(id, column)| {
            let part = |column: &i32| {
                json!({"source-id": column, "field-id": PARTITION_ID + id as i32, "name": part(id),
                "transform": "identity"})
            };
            json!({"spec-id": id, "fields": column.iter().map(part).collect::<Vec<_>>()})
        });
        let numbers = self.data.iter().map(|file| file.committed).chain(self.deletes.iter().map(|file| file.committed));
        let last = numbers.filter_map(|committed| committed.sequence_number).chain([2]).max();
        let metadata = json!({
            "format-version": 3, "table-uuid": "8f3b1b2c-4a53-4b5e-9a55-6a1f0c9d7e21", "location": self.location,
            "last-sequence-number": last, "last-updated-ms": 0, "last-column-id": 1000, "next-row-id": 0,
            "current-schema-id": self.older.len(), "schemas": schemas.collect::<Vec<_>>(),
            "default-spec-id": 0, "partition-specs": specs.collect::<Vec<_>>(), "last-partition-id": 1999,
            "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}],
            "current-snapshot-id": SNAPSHOT, "snapshots": [{"snapshot-id": SNAPSHOT, "sequence-number": last, "timestamp-ms": 0,
                "schema-id": self.older.len(), "manifest-list": path("list.avro"), "summary": {"operation": "overwrite"}}],
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
fn data_entry(DataFile { path, size_bytes, rows, committed }: &DataFile, column: Option<i32>) -> Row {
    let file = File { content: 0, path, format: "parquet", rows: *rows, size_bytes: *size_bytes };
    entry(&file, *committed, column, None, &[])
}

fn delete_entry(file: &DeleteFile, column: Option<i32>) -> Row {
    let DeleteFile { path, size_bytes, count, content, committed } = file;
    let file = |content, format| File { content, path, format, rows: *count, size_bytes: *size_bytes };
    match content {
        Deletes::Positions => entry(&file(1, "parquet"), *committed, column, None, &[]),
        Deletes::Keys(ids) => entry(&file(2, "parquet"), *committed, column, None, ids),
        Deletes::Vector { of, offset, bytes } => {
            entry(&file(1, "puffin"), *committed, column, Some((of, *offset, *bytes)), &[])
        }
    }
}

struct File<'a> {
    content: i64,
    path: &'a str,
    format: &'a str,
    rows: u64,
    size_bytes: u64,
}

fn entry(
    file: &File<'_>,
    committed: Committed,
    column: Option<i32>,
    vector: Option<(&str, u64, u64)>,
    keys: &[i32],
) -> Row {
    let mut row = Row::default();
    // Status, snapshot; without a sequence number of its own it has the manifest's.
    row.long(1).long(SNAPSHOT).optional(committed.sequence_number);
    row.long(file.content).text(file.path).text(file.format);
    if column.is_some() {
        row.optional(committed.partition);
    }
    row.long(file.rows as i64).long(file.size_bytes as i64);
    match vector {
        Some((of, offset, bytes)) => row.some().text(of).some().long(offset as i64).some().long(bytes as i64),
        None => row.nothing().nothing().nothing(),
    };
    if !keys.is_empty() {
        row.long(keys.len() as i64);
        for key in keys {
            row.long((*key).into());
        }
    }
    row.long(0);
    row
}

/// Name of the field of a spec.
fn part(spec: usize) -> String {
    format!("part_{spec}")
}

fn manifest(entries: &[Row], spec: usize, column: Option<i32>) -> Vec<u8> {
    let optional = |kind: &str| json!(["null", kind]);
    let parts =
        column.map(|_| json!({"name": part(spec), "field-id": PARTITION_ID + spec as i32, "type": optional("long")}));
    let parts: Vec<Value> = parts.into_iter().collect();
    let file = json!({"type": "record", "name": "r2", "fields": [
        {"name": "content", "field-id": 134, "type": "int"},
        {"name": "file_path", "field-id": 100, "type": "string"},
        {"name": "file_format", "field-id": 101, "type": "string"},
        {"name": "partition", "field-id": 102, "type": {"type": "record", "name": "r102", "fields": parts}},
        {"name": "record_count", "field-id": 103, "type": "long"},
        {"name": "file_size_in_bytes", "field-id": 104, "type": "long"},
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
    avro(&schema, &entries.iter().map(|row| row.0.clone()).collect::<Vec<_>>())
}

fn record(name: &str, fields: &[(&str, i32, &str)]) -> Value {
    let field = |(name, id, kind): &(&str, i32, &str)| json!({"name": name, "field-id": id, "type": kind});
    json!({"type": "record", "name": name, "fields": fields.iter().map(field).collect::<Vec<_>>()})
}

/// Makes an Avro file of one block.
fn avro(schema: &Value, rows: &[Vec<u8>]) -> Vec<u8> {
    let sync = [7; 16];
    let mut file = Row(b"Obj\x01".to_vec());
    file.long(2).text("avro.schema").text(&schema.to_string()).text("avro.codec").text("null").long(0);
    file.0.extend(sync);
    let block = rows.concat();
    file.long(rows.len() as i64).long(block.len() as i64);
    file.0.extend(block);
    file.0.extend(sync);
    file.0
}

/// Bytes of an Avro value.
#[derive(Default)]
struct Row(Vec<u8>);

impl Row {
    fn long(&mut self, value: i64) -> &mut Self {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest > 0x7f {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.long(text.len() as i64);
        self.0.extend(text.as_bytes());
        self
    }

    /// Begins a value of an optional type.
    fn some(&mut self) -> &mut Self {
        self.long(1)
    }

    fn nothing(&mut self) -> &mut Self {
        self.long(0)
    }

    fn optional(&mut self, value: Option<i64>) -> &mut Self {
        match value {
            Some(value) => self.some().long(value),
            None => self.nothing(),
        }
    }
}
