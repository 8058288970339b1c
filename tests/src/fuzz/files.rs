//! Valid files of every encoding, codec and shape that this build writes, and two that claim to be encrypted.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float16Array, Float32Array, Float64Array,
    Int8Array, Int32Array, Int64Array, LargeStringArray, ListArray, MapBuilder, RecordBatch, StringArray,
    StringBuilder, StructArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::array::{Int64Builder, builder::MapFieldNames};
use arrow::datatypes::{Float16Type, Int32Type};
use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::schema::types::ColumnPath;

use crate::parquet_files::{batch, file};

/// Rows of a row group.
const ROWS: i64 = 200;

/// Returns every file with its name.
pub fn files() -> Vec<(String, Vec<u8>)> {
    let (flat, nested) = ([flat(0), flat(1)], [nested(0), nested(1)]);
    let mut files = Vec::new();
    let mut add = |name: &str, groups: &[RecordBatch], properties: WriterPropertiesBuilder| {
        files.push((name.to_owned(), file(groups, properties.build())));
    };
    add("dictionary", &flat, paged());
    add("plain", &flat, paged().set_dictionary_enabled(false));
    add("delta", &flat, delta());
    add("delta-v2", &flat, delta().set_writer_version(WriterVersion::PARQUET_2_0).set_compression(Compression::SNAPPY));
    add("split", &flat, split());
    add("v2", &flat, paged().set_writer_version(WriterVersion::PARQUET_2_0));
    add("blooms", &flat, paged().set_bloom_filter_enabled(true));
    add("no-index", &flat, paged().set_statistics_enabled(EnabledStatistics::None).set_offset_index_disabled(true));
    for (name, codec) in [
        ("snappy", Compression::SNAPPY),
        ("gzip", Compression::GZIP(GzipLevel::default())),
        ("brotli", Compression::BROTLI(BrotliLevel::default())),
        ("lz4", Compression::LZ4_RAW),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
    ] {
        add(name, &flat, paged().set_compression(codec));
    }
    add("nested", &nested, paged());
    add("nested-plain", &nested, paged().set_dictionary_enabled(false));
    let v2 = paged().set_writer_version(WriterVersion::PARQUET_2_0).set_dictionary_enabled(false);
    add("nested-v2", &nested, v2.set_compression(Compression::ZSTD(ZstdLevel::default())));
    let (_, dictionary) = &files[0];
    let (encrypted, columns) = (encrypted_footer(dictionary), encrypted_columns(dictionary));
    files.push(("encrypted".to_owned(), encrypted));
    files.push(("encrypted-columns".to_owned(), columns));
    files
}

/// Returns properties of many small pages, each with its bounds.
fn paged() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_write_batch_size(16)
        .set_data_page_row_count_limit(70)
        .set_statistics_enabled(EnabledStatistics::Page)
}

fn with_encodings(of: &[(&[&str], Encoding)]) -> WriterPropertiesBuilder {
    let columns = of.iter().flat_map(|(columns, encoding)| columns.iter().map(move |column| (*column, *encoding)));
    columns.fold(paged().set_dictionary_enabled(false), |properties, (column, encoding)| {
        properties.set_column_encoding(ColumnPath::from(column), encoding)
    })
}

fn delta() -> WriterPropertiesBuilder {
    with_encodings(&[
        (&["i32", "i64", "day", "time", "u32"], Encoding::DELTA_BINARY_PACKED),
        (&["text", "large"], Encoding::DELTA_BYTE_ARRAY),
        (&["bytes"], Encoding::DELTA_LENGTH_BYTE_ARRAY),
        (&["flag"], Encoding::RLE),
    ])
}

fn split() -> WriterPropertiesBuilder {
    with_encodings(&[(&["f16", "f32", "f64", "i32", "i64", "money"], Encoding::BYTE_STREAM_SPLIT)])
}

fn rows<T>(group: i64, value: impl Fn(i64) -> T) -> impl Iterator<Item = Option<T>> {
    (0..ROWS).map(move |row| (row % 7 != 3).then(|| value(group * ROWS + row)))
}

fn flat(group: i64) -> RecordBatch {
    let text = |row: i64| format!("row {} of {}", row % 11, "x".repeat((row % 17) as usize));
    let half = |row: i64| half_of(row as f32 / 4.0);
    batch(vec![
        ("i8", Arc::new(rows(group, |row| row as i8).collect::<Int8Array>()) as ArrayRef),
        ("i32", Arc::new(rows(group, |row| row as i32 * 1000 - 7).collect::<Int32Array>())),
        ("i64", Arc::new(rows(group, |row| row.wrapping_mul(0x1234_5678_9abc)).collect::<Int64Array>())),
        ("u32", Arc::new(rows(group, |row| u32::MAX - row as u32).collect::<UInt32Array>())),
        ("f16", Arc::new(rows(group, half).collect::<Float16Array>())),
        ("f32", Arc::new(rows(group, |row| row as f32 / 3.0).collect::<Float32Array>())),
        (
            "f64",
            Arc::new(rows(group, |row| if row % 13 == 0 { f64::NAN } else { row as f64 }).collect::<Float64Array>()),
        ),
        ("flag", Arc::new(rows(group, |row| row % 3 == 0).collect::<BooleanArray>())),
        ("text", Arc::new(rows(group, text).collect::<StringArray>())),
        ("large", Arc::new(rows(group, text).collect::<LargeStringArray>())),
        ("bytes", Arc::new(rows(group, |row| row.to_be_bytes()).collect::<BinaryArray>())),
        ("day", Arc::new(rows(group, |row| row as i32 + 19_000).collect::<Date32Array>())),
        ("time", Arc::new(rows(group, |row| row * 1_000_003).collect::<TimestampMicrosecondArray>())),
        (
            "money",
            Arc::new(
                rows(group, |row| i128::from(row) * 10_i128.pow(20))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(30, 2)
                    .expect("it fits"),
            ),
        ),
    ])
}

fn half_of(value: f32) -> <Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native {
    <Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native::from_f32(value)
}

fn nested(group: i64) -> RecordBatch {
    let number = |row: i64| (row % 5 != 2).then_some(row as i32);
    let list = |row: i64| (0..row % 4).map(number).collect::<Vec<_>>();
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(rows(group, list));
    let numbers: ArrayRef = Arc::new(rows(group, |row| row as i32).collect::<Int32Array>());
    let texts: ArrayRef = Arc::new(rows(group, |row| format!("t{}", row % 9)).collect::<StringArray>());
    let pairs = StructArray::try_from(vec![("a", numbers), ("b", texts)]).expect("of one length");
    let names = MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
    let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), Int64Builder::new());
    for row in rows(group, |row| row) {
        for entry in 0..row.unwrap_or_default() % 3 {
            maps.keys().append_value(format!("k{entry}"));
            maps.values().append_option((entry != 1).then_some(entry));
        }
        maps.append(row.is_some()).expect("of one length");
    }
    batch(vec![
        ("list", Arc::new(lists) as ArrayRef),
        ("pair", Arc::new(pairs)),
        ("map", Arc::new(maps.finish())),
        ("plain", Arc::new(rows(group, |row| row).collect::<Int64Array>())),
    ])
}

/// Returns a file whose footer is encrypted, as far as a reader without keys can tell.
fn encrypted_footer(file: &[u8]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    let size = bytes.len();
    bytes[..4].copy_from_slice(b"PARE");
    bytes[size - 4..].copy_from_slice(b"PARE");
    bytes
}

/// Returns a file whose footer names the algorithm that its columns are encrypted by: field 8, a union of AES_GCM_V1.
fn encrypted_columns(file: &[u8]) -> Vec<u8> {
    const ALGORITHM: [u8; 5] = [0x1c, 0x1c, 0x00, 0x00, 0x00];
    let tail = file.len() - 8;
    let length = u32::from_le_bytes(file[tail..tail + 4].try_into().expect("four bytes"));
    // The footer's last byte ends its structure. The last field before that byte is number 7.
    let mut bytes = file[..tail - 1].to_vec();
    bytes.extend(ALGORITHM);
    bytes.extend((length + ALGORITHM.len() as u32 - 1).to_le_bytes());
    bytes.extend(b"PAR1");
    bytes
}
