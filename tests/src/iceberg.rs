//! Writer of Iceberg's metadata for tests: tables of version 3 without partitions, and their deletes. It writes what it is told, be it
//! sound or not. Independent of the reader.
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

/// Files of a snapshot: data of the first commit, and deletes of the second.
pub struct IcebergTable {
    /// Folder of the table, as its metadata spells it.
    pub location: String,
    /// Fields of the schema, as JSON of the metadata.
    pub fields: Value,
    pub data: Vec<DataFile>,
    pub deletes: Vec<DeleteFile>,
}

#[derive(Debug, Clone)]
pub struct DataFile {
    pub path: String,
    pub size_bytes: u64,
    pub rows: u64,
}

#[derive(Debug, Clone)]
pub struct DeleteFile {
    pub path: String,
    pub size_bytes: u64,
    /// Rows, or positions of a vector.
    pub count: u64,
    pub content: Deletes,
}

#[derive(Debug, Clone)]
pub enum Deletes {
    Positions,
    Vector { of: String, offset: u64, bytes: u64 },
    Keys(Vec<i32>),
}

impl IcebergTable {
    /// Returns the path of the table's metadata file.
    pub fn metadata_path(&self) -> String {
        format!("{}/metadata/v1.metadata.json", self.location)
    }

    /// Lists the metadata files with their paths.
    pub fn metadata(&self) -> Vec<(String, Vec<u8>)> {
        let path = |name: &str| format!("{}/metadata/{name}", self.location);
        let data = manifest(&self.data.iter().map(data_entry).collect::<Vec<_>>());
        let deletes = manifest(&self.deletes.iter().map(delete_entry).collect::<Vec<_>>());
        let listed = |name: &str, bytes: &[u8], content: i64, count: usize| {
            let mut row = Row::default();
            row.text(&path(name)).long(bytes.len() as i64).long(0).long(content);
            // Sequence numbers, snapshot; added, existing and deleted files.
            row.long(1 + content).long(1 + content).long(SNAPSHOT).long(count as i64).long(0).long(0);
            row.0
        };
        let mut manifests = vec![listed("data.avro", &data, 0, self.data.len())];
        let mut files = vec![(path("data.avro"), data)];
        if !self.deletes.is_empty() {
            manifests.push(listed("deletes.avro", &deletes, 1, self.deletes.len()));
            files.push((path("deletes.avro"), deletes));
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
        let metadata = json!({
            "format-version": 3, "table-uuid": "8f3b1b2c-4a53-4b5e-9a55-6a1f0c9d7e21", "location": self.location,
            "last-sequence-number": 2, "last-updated-ms": 0, "last-column-id": 1000, "next-row-id": 0,
            "current-schema-id": 0, "schemas": [{"schema-id": 0, "type": "struct", "fields": self.fields}],
            "default-spec-id": 0, "partition-specs": [{"spec-id": 0, "fields": []}], "last-partition-id": 999,
            "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}],
            "current-snapshot-id": SNAPSHOT, "snapshots": [{"snapshot-id": SNAPSHOT, "sequence-number": 2, "timestamp-ms": 0,
                "schema-id": 0, "manifest-list": path("list.avro"), "summary": {"operation": "overwrite"}}],
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
fn data_entry(DataFile { path, size_bytes, rows }: &DataFile) -> Row {
    entry(0, path, "parquet", *rows, *size_bytes, None, &[])
}

fn delete_entry(DeleteFile { path, size_bytes, count, content }: &DeleteFile) -> Row {
    match content {
        Deletes::Positions => entry(1, path, "parquet", *count, *size_bytes, None, &[]),
        Deletes::Keys(ids) => entry(2, path, "parquet", *count, *size_bytes, None, ids),
        Deletes::Vector { of, offset, bytes } => {
            entry(1, path, "puffin", *count, *size_bytes, Some((of, *offset, *bytes)), &[])
        }
    }
}

fn entry(
    content: i64,
    path: &str,
    format: &str,
    rows: u64,
    size_bytes: u64,
    vector: Option<(&str, u64, u64)>,
    keys: &[i32],
) -> Row {
    let mut row = Row::default();
    // Status, snapshot; a sequence number that is the manifest's.
    row.long(1).long(SNAPSHOT).nothing();
    row.long(content).text(path).text(format).long(rows as i64).long(size_bytes as i64);
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

fn manifest(entries: &[Row]) -> Vec<u8> {
    let optional = |kind: &str| json!(["null", kind]);
    let file = json!({"type": "record", "name": "r2", "fields": [
        {"name": "content", "field-id": 134, "type": "int"},
        {"name": "file_path", "field-id": 100, "type": "string"},
        {"name": "file_format", "field-id": 101, "type": "string"},
        {"name": "partition", "field-id": 102, "type": {"type": "record", "name": "r102", "fields": []}},
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
}
