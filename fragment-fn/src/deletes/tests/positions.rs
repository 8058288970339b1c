//! Rows that vectors and files of positions delete.

use std::collections::BTreeSet;

use arrow::array::Array;
use datafusion::common::ScalarValue;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{binary, col, lit};
use gust_protocol::plan::encode_scalar;
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::columns::FileConstants;

#[tokio::test]
async fn a_vector_counts_rows_of_the_file_whatever_row_groups_a_unit_has() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    // At the edges of row groups, all of a page, and all of the last row group but one row.
    let deleted: Vec<i64> = [0, 5, 6, 7, 8, 9, 10].into_iter().chain(20..29).collect();
    let vector = table.vector("v.puffin", deleted.iter().map(|row| *row as u64)).await;
    let deletes = Unit { vector: Some(vector), ..unit("a.parquet") };
    let expect = without(0..30, &deleted);
    assert_eq!(table.ids(&[(file.clone(), Some(deletes.clone()))]).await.expect("rows"), expect);
    let parts = groups_of(&table, &file).await;
    assert_eq!(parts.len(), 3);
    let parts: Vec<_> = parts.into_iter().map(|part| (part, Some(deletes.clone()))).collect();
    let before = table.counters.requests().get;
    assert_eq!(table.ids(&parts).await.expect("rows"), expect);
    // One for the whole data file, which is small, and one for the vector.
    assert_eq!(table.counters.requests().get - before, 2);
    assert_eq!(table.ids(&parts[1..2]).await.expect("rows"), without(10..20, &deleted));
    // All rows, and none.
    let all = table.vector("all.puffin", 0..30).await;
    let deletes = Unit { vector: Some(all), ..unit("a.parquet") };
    let before = table.counters.requests().get;
    assert_eq!(table.ids(&[(file.clone(), Some(deletes))]).await.expect("rows"), Vec::<i64>::new());
    assert_eq!(table.counters.requests().get - before, 2, "the vector, and the footer");
    // A manifest that says too few rows, with a vector of as many positions.
    let first = table.vector("first.puffin", 0..10).await;
    let deletes = Unit { vector: Some(first), rows: 10, ..unit("a.parquet") };
    let error = table.ids(&[(file.clone(), Some(deletes))]).await.expect_err("rows that no manifest knows");
    assert_eq!(classify(&error).kind, FragmentErrorKind::FileCorrupt, "{error}");
    assert!(error.to_string().contains("it has 30 rows, its manifest says 10"), "{error}");
    let none = table.vector("none.puffin", []).await;
    let deletes = Unit { vector: Some(none), ..unit("a.parquet") };
    assert_eq!(table.ids(&[(file, Some(deletes))]).await.expect("rows").len(), 30);
}

#[tokio::test]
async fn a_file_of_positions_is_read_once_for_all_files_that_it_names() {
    let mut table = Table::new();
    let (a, b) = (table.data("a.parquet", 0).await, table.data("b.parquet", 100).await);
    let mut rows: Vec<(&str, i64)> = (0..25).map(|row| ("s3://lake/a.parquet", row)).collect();
    rows.extend([("s3://lake/b.parquet", 3), ("s3://lake/foreign.parquet", 1)]);
    let first = table.positions("p1.parquet", &rows).await;
    // Not sorted, and one row twice.
    let second = [("s3://lake/b.parquet", 29), ("s3://lake/a.parquet", 29), ("s3://lake/b.parquet", 3)];
    let second = table.positions("p2.parquet", &second).await;
    let deletes = |path: &str| Unit { positions: vec![first, second], ..unit(path) };
    let files = [(a.clone(), Some(deletes("a.parquet"))), (b.clone(), Some(deletes("b.parquet")))];
    let expect: Vec<i64> = (25..29).chain(without(100..130, &[103, 129])).collect();
    assert_eq!(table.ids(&files).await.expect("rows"), expect);
    assert_eq!(table.counters.requests().get, 4);
    // A data file that only the first names.
    let files = [(b, Some(Unit { positions: vec![first], ..unit("b.parquet") })), (a, None)];
    let expect: Vec<i64> = (0..30).chain(without(100..130, &[103])).collect();
    assert_eq!(table.ids(&files).await.expect("rows"), expect);
}

/// Scattered rows are dropped by their numbers, which the Parquet reader takes from the row groups.
#[tokio::test]
async fn scattered_rows_are_dropped_however_row_groups_are_numbered() {
    let mut table = Table::new();
    let file = table.large("a.parquet", 0).await;
    let bytes = table.store.get(&file.object_meta.location).await.expect("an object").bytes().await.expect("bytes");
    let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes).expect("a footer");
    // Scattered rows, and a run that the decoder skips.
    let deleted: BTreeSet<u64> = (0..LARGE_ROWS).step_by(7).chain(30_000..34_000).collect();
    let vector = table.vector("v.puffin", deleted.iter().copied()).await;
    let expect: Vec<i64> = (0..LARGE_ROWS).filter(|row| !deleted.contains(row)).map(|row| row as i64).collect();
    for ordinals in [[0, 1, 2], [0, 0, 0], [2, 1, 0], [7, 8, 9]] {
        let mut builder = footer.clone().into_builder();
        let groups = builder.take_row_groups().into_iter().zip(ordinals);
        let groups = groups.map(|(group, ordinal)| group.into_builder().set_ordinal(ordinal).build().expect("a group"));
        let changed = builder.set_row_groups(groups.collect()).build();
        let mut written = bytes.to_vec();
        ParquetMetaDataWriter::new(&mut written, &changed).finish().expect("written");
        let name = format!("{ordinals:?}.parquet");
        let file = PartitionedFile::new(name.clone(), table.put(&name, written).await.size_bytes);
        let unit = Unit { rows: LARGE_ROWS, vector: Some(vector), ..unit(&name) };
        let parts = [vec![file.clone()], groups_of(&table, &file).await];
        for parts in parts {
            let parts: Vec<_> = parts.into_iter().map(|part| (part, Some(unit.clone()))).collect();
            assert_eq!(table.ids(&parts).await.expect("rows"), expect, "{ordinals:?}");
        }
    }
}

/// Files of an identity partition have its values at hand, whether they need one or not. Their rows are numbered like those of others, and a
/// column that they lack, as imported files do, has its value.
#[tokio::test]
async fn scattered_rows_of_a_partition_are_dropped_by_their_numbers() {
    let mut table = Table::new();
    let columns = [table.schema.field(0).clone(), table.schema.field(1).clone(), field(4, "part", DataType::Int64)];
    table.schema = Arc::new(Schema::new(columns.to_vec()));
    let file = table.large("a.parquet", 0).await;
    let is_deleted = |row: &u64| row.is_multiple_of(7);
    let vector = table.vector("v.puffin", (0..LARGE_ROWS).filter(is_deleted)).await;
    let unit = Unit { rows: LARGE_ROWS, vector: Some(vector), ..unit("a.parquet") };
    let value = |value: ScalarValue| Some(encode_scalar(&value).expect("a value"));
    // Runs of the deleted rows would take more. The vector takes 16 KiB.
    table.pool = Arc::new(GreedyMemoryPool::new(100 << 10));
    let left = LARGE_ROWS - (0..LARGE_ROWS).filter(is_deleted).count() as u64;
    for (part, count) in [(7_i64, left), (8, 0)] {
        let mut file = file.clone();
        // The file has a column of its own with the id 2.
        file.extensions.insert(FileConstants(vec![(2, value("other".into())), (4, value(part.into()))]));
        let files = [(file, Some(unit.clone()))];
        let batches = table.run(table.scan(&files, &[0, 1, 2]).build()).await.expect("rows");
        assert_eq!(batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>(), left);
        for batch in &batches {
            let [ids, parts] = [0, 2].map(|column| batch.column(column).as_primitive::<Int64Type>());
            let names = batch.column(1).as_string_view();
            for (row, id) in ids.values().iter().enumerate() {
                assert!(id % 7 != 0 && names.value(row) == format!("n{}", id % 4), "{id}");
                assert!(parts.is_valid(row) && parts.value(row) == part, "{id}");
            }
        }
        // Files are pruned by the value.
        let is_seven = binary(col("part", &table.schema).expect("a column"), Operator::Eq, lit(7_i64), &table.schema);
        let scan = table.scan(&files, &[0]).build();
        let source = scan.file_source().downcast_ref::<ParquetSource>().expect("Parquet");
        let source = source.with_predicate(is_seven.expect("a comparison"));
        let scan = FileScanConfigBuilder::from(scan).with_source(Arc::new(source)).build();
        let rows = table.run(scan).await.expect("rows").iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        assert_eq!(rows, count);
    }
    assert_eq!(table.pool.reserved(), 0);
}

#[tokio::test]
async fn deleted_pages_are_not_read() {
    let mut table = Table::new();
    let file = table.large("a.parquet", 0).await;
    let vector = table.vector("v.puffin", 5_000..55_000).await;
    let read = async |deletes: Option<Unit>, rows: usize| {
        let before = table.counters.bytes_read();
        assert_eq!(table.ids(&[(file.clone(), deletes)]).await.expect("rows").len(), rows);
        table.counters.bytes_read() - before
    };
    let all = read(None, LARGE_ROWS as usize).await;
    let left = Unit { rows: LARGE_ROWS, vector: Some(vector), ..unit("a.parquet") };
    let left = read(Some(left), 10_000).await;
    assert!(left * 2 < all, "{left} bytes of {all}");
}

/// A short file is all of short runs. Its rows take no request where none is left.
#[tokio::test]
async fn a_wide_file_of_few_rows_that_are_all_deleted_is_its_footer() {
    const WIDE_ROWS: u64 = 500;
    let mut table = Table::new();
    let names: StringArray = (0..WIDE_ROWS).map(|id| Some(format!("{id:04}").repeat(500))).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(0..WIDE_ROWS as i64)), Arc::new(names)];
    let fields = vec![field(1, "id", DataType::Int64), field(2, "name", DataType::Utf8)];
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch");
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).expect("a writer");
    writer.write(&rows).expect("written");
    let file = table.put("a.parquet", writer.into_inner().expect("a file")).await;
    let file = PartitionedFile::new("a.parquet", file.size_bytes);
    for (rows, requests) in [(WIDE_ROWS, 2), (WIDE_ROWS - 1, 3)] {
        let vector = table.vector(&format!("{rows}.puffin"), 0..rows).await;
        let unit = Unit { rows: WIDE_ROWS, vector: Some(vector), ..unit("a.parquet") };
        let before = table.counters.requests().get;
        let left = table.ids(&[(file.clone(), Some(unit))]).await.expect("rows");
        assert_eq!(left, (rows as i64..WIDE_ROWS as i64).collect::<Vec<_>>());
        assert_eq!(table.counters.requests().get - before, requests, "the vector, the footer, and ids that are left");
    }
    // A manifest that says too few rows.
    let vector = table.vector("few.puffin", 0..WIDE_ROWS - 1).await;
    let unit = Unit { rows: WIDE_ROWS - 1, vector: Some(vector), ..unit("a.parquet") };
    let error = table.ids(&[(file, Some(unit))]).await.expect_err("a row that no manifest knows");
    assert!(error.to_string().contains("it has 500 rows, its manifest says 499"), "{error}");
}

/// Few deleted rows of a large file are skipped by the decoder, many are dropped after it, and runs are skipped in both cases.
#[tokio::test]
async fn few_and_many_deleted_rows_of_a_large_file() {
    let mut table = Table::new();
    let file = table.large("a.parquet", 0).await;
    let parts = [vec![file.clone()], groups_of(&table, &file).await];
    for (seed, count) in [0, 1, 5, 60, 117, 118, 500, 5_000, 40_000].into_iter().enumerate() {
        let mut random = StdRng::seed_from_u64(seed as u64);
        let mut deleted: BTreeSet<u64> = (0..count).map(|_| random.random_range(0..LARGE_ROWS)).collect();
        if random.random() {
            let start = random.random_range(0..LARGE_ROWS - 3_000);
            deleted.extend(start..start + random.random_range(900..3_000));
        }
        let vector = table.vector(&format!("v{seed}"), deleted.iter().copied()).await;
        let unit = Unit { rows: LARGE_ROWS, vector: Some(vector), ..unit("a.parquet") };
        let expect: Vec<i64> = (0..LARGE_ROWS).filter(|row| !deleted.contains(row)).map(|row| row as i64).collect();
        for parts in &parts {
            let parts: Vec<_> = parts.iter().map(|part| (part.clone(), Some(unit.clone()))).collect();
            assert_eq!(table.ids(&parts).await.expect("rows"), expect, "{count} rows");
        }
    }
}
