//! Scans over files with deletes: the rows that are left, the requests, and the faults of delete files.

use std::collections::BTreeSet;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, UnboundedMemoryPool};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{DynamicFilterPhysicalExpr, binary, col, lit};
use datafusion::physical_plan::{ExecutionPlan, collect};
use gust_protocol::{AheadBounds, ColumnMatching, DeleteFile, DeleteSet, FieldIdRules, FragmentErrorKind, ObjectRef};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roaring::RoaringTreemap;

use super::*;
use crate::ahead::{AheadAccount, ReadAhead, ReadBudget, attach};
use crate::late::LateColumns;
use crate::metering::{Counters, CountingStore};
use crate::{PinnedFile, ScanReader, classify, read_footer};

const FILE_PATH: i32 = i32::MAX - 101;
const POSITION: i32 = i32::MAX - 102;
/// Rows of a data file, in three row groups.
const ROWS: u64 = 30;
/// Rows of a large data file, in three row groups.
const LARGE_ROWS: u64 = 60_000;

fn field(id: i32, name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true).with_metadata([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into())
}

fn parquet(fields: Vec<Field>, columns: Vec<ArrayRef>) -> Vec<u8> {
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch");
    // Pages of five rows, so that deleted pages are skipped.
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(10))
        .set_data_page_row_count_limit(5)
        .set_write_batch_size(5)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).expect("a writer");
    writer.write(&rows).expect("written");
    writer.into_inner().expect("a file")
}

/// Deletes of one data file, written out.
#[derive(Clone)]
struct Unit {
    path: String,
    rows: u64,
    vector: Option<u32>,
    positions: Vec<u32>,
    scopes: Vec<u32>,
    sequence_number: i64,
}

/// Names each set of deletes once.
fn shared(units: &[Unit]) -> (Vec<DeleteSet>, Vec<UnitDeletes>) {
    let mut sets: Vec<DeleteSet> = Vec::new();
    let mut named = |unit: &Unit| {
        let set = DeleteSet { positions: unit.positions.clone(), scopes: unit.scopes.clone() };
        let place = sets.iter().position(|known| *known == set).unwrap_or_else(|| {
            sets.push(set);
            sets.len() - 1
        });
        let Unit { path, rows, vector, sequence_number, .. } = unit.clone();
        UnitDeletes { path, rows, vector, set: Some(place as u32), sequence_number }
    };
    let units = units.iter().map(&mut named).collect();
    (sets, units)
}

/// Table of the columns id (1), name (2) and gone (3). `gone` is only in the files.
struct Table {
    store: Arc<InMemory>,
    counters: Arc<Counters>,
    deletes: Vec<DeleteFile>,
    schema: SchemaRef,
    pool: Arc<dyn MemoryPool>,
    late: LateColumns,
}

impl Table {
    fn new() -> Self {
        let schema = Schema::new(vec![field(1, "id", DataType::Int64), field(2, "name", DataType::Utf8View)]);
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let store = Arc::new(InMemory::new());
        let (counters, late) = (Arc::default(), LateColumns::NEVER);
        Self { store, counters, deletes: Vec::new(), schema: Arc::new(schema), pool, late }
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) -> ObjectRef {
        let size_bytes = bytes.len() as u64;
        self.store.put(&Path::from(name), PutPayload::from(bytes)).await.expect("put");
        ObjectRef { access: 0, path: name.to_owned(), size_bytes, etag: None, footer_bytes: None }
    }

    /// Writes a data file of the ids `first..first + 30`. Its `name` is `n` and the id modulo 4, NULL for 3; `gone` is the id modulo 5.
    async fn data(&self, name: &str, first: i64) -> PartitionedFile {
        let ids = || first..first + ROWS as i64;
        let names: StringArray = ids().map(|id| (id % 4 != 3).then(|| format!("n{}", id % 4))).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(ids())),
            Arc::new(names),
            Arc::new(Int32Array::from_iter_values(ids().map(|id| (id % 5) as i32))),
        ];
        let fields =
            vec![field(1, "id", DataType::Int64), field(2, "name", DataType::Utf8), field(3, "gone", DataType::Int32)];
        let file = self.put(name, parquet(fields, columns)).await;
        PartitionedFile::new(name, file.size_bytes)
    }

    /// Writes a data file that is too large to be read with its footer.
    async fn large(&self, name: &str, first: i64) -> PartitionedFile {
        let ids = || (first..).take(LARGE_ROWS as usize);
        let names: StringArray = ids().map(|id| Some(format!("n{}", id % 4))).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(ids())), Arc::new(names)];
        let fields = vec![field(1, "id", DataType::Int64), field(2, "name", DataType::Utf8)];
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch");
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(20_000))
            .set_dictionary_enabled(false)
            .set_data_page_row_count_limit(1_000)
            .set_write_batch_size(1_000);
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties.build())).expect("a writer");
        writer.write(&rows).expect("written");
        let file = self.put(name, writer.into_inner().expect("a file")).await;
        PartitionedFile::new(name, file.size_bytes)
    }

    async fn delete_file(&mut self, name: &str, bytes: Vec<u8>, content: DeleteContent) -> u32 {
        let file = self.put(name, bytes).await;
        self.deletes.push(DeleteFile { file, content });
        self.deletes.len() as u32 - 1
    }

    /// Writes a vector behind four bytes of something else.
    async fn vector(&mut self, name: &str, positions: impl IntoIterator<Item = u64>) -> u32 {
        let positions: RoaringTreemap = positions.into_iter().collect();
        let mut bytes = b"PFA1".to_vec();
        bytes.extend(vector::encode(&positions).expect("short"));
        let content = DeleteContent::Vector { offset: 4, bytes: bytes.len() as u64 - 4, cardinality: positions.len() };
        bytes.extend(b"a footer");
        self.delete_file(name, bytes, content).await
    }

    async fn positions(&mut self, name: &str, rows: &[(&str, i64)]) -> u32 {
        let paths = StringArray::from_iter_values(rows.iter().map(|(path, _)| *path));
        let positions = Int64Array::from_iter_values(rows.iter().map(|(_, position)| *position));
        let fields = vec![field(FILE_PATH, "file_path", DataType::Utf8), field(POSITION, "pos", DataType::Int64)];
        let bytes = parquet(fields, vec![Arc::new(paths), Arc::new(positions)]);
        self.delete_file(name, bytes, DeleteContent::Positions).await
    }

    async fn keys(&mut self, name: &str, columns: Vec<(Field, ArrayRef)>, scope: u32, sequence_number: i64) -> u32 {
        let id = |field: &Field| crate::columns::field_id(field).expect("an id");
        let ids = columns.iter().map(|(field, _)| id(field)).collect();
        let (fields, columns) = columns.into_iter().unzip();
        let content = DeleteContent::Equality { ids, scope, sequence_number };
        self.delete_file(name, parquet(fields, columns), content).await
    }

    /// Makes a scan of files, each a lane of its own.
    fn scan(&self, files: &[(PartitionedFile, Option<Unit>)], projection: &[usize]) -> FileScanConfigBuilder {
        let counted: Arc<dyn ObjectStore> =
            Arc::new(CountingStore::new(Arc::clone(&self.store) as _, Arc::clone(&self.counters)));
        let units: Vec<Unit> = files.iter().filter_map(|(_, unit)| unit.clone()).collect();
        let (sets, units) = shared(&units);
        let (stores, table) = (Arc::from([counted]), Arc::clone(&self.schema));
        let planned = DeletePlan::new("t".to_owned(), self.deletes.clone(), sets);
        let reader = Arc::new(DeleteReader::new(stores, planned, &units, table, &self.pool));
        let mut units = units.into_iter();
        let group = |(file, unit): &(PartitionedFile, Option<Unit>)| {
            let mut file = file.clone();
            if unit.is_some() {
                let unit = units.next().expect("as many as there are");
                file.extensions.insert(FileDeletes::new(Arc::clone(&reader), unit).expect("known files"));
            }
            FileGroup::new(vec![file])
        };
        let source = ParquetSource::new(Arc::clone(&self.schema)).with_enable_page_index(true);
        FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(files.iter().map(group).collect())
            .with_projection_indices(Some(projection.to_vec()))
            .expect("columns of the table")
    }

    /// Makes the deletes of one data file, without a scan.
    fn deletes_of(&self, unit: &Unit) -> FileDeletes {
        let (sets, units) = shared(std::slice::from_ref(unit));
        let stores: Arc<[Arc<dyn ObjectStore>]> = Arc::from([Arc::clone(&self.store) as Arc<dyn ObjectStore>]);
        let planned = DeletePlan::new("t".to_owned(), self.deletes.clone(), sets);
        let reader = DeleteReader::new(stores, planned, &units, Arc::clone(&self.schema), &self.pool);
        FileDeletes::new(Arc::new(reader.with_exchange(0)), units[0].clone()).expect("known files")
    }

    /// Puts one object with the keys of each group in the place of the files of keys.
    async fn digest_keys(&mut self) {
        let deletes = self.deletes_of(&unit("a.parquet"));
        let (mut bytes, mut contents) = (b"before".to_vec(), Vec::new());
        for group in 0..deletes.plan().groups().len() {
            let keys = deletes.digest_keys(group, 1 << 20).await.expect("read").expect("few keys");
            contents.push(keys.content(bytes.len() as u64));
            bytes.extend(keys.encoded);
        }
        let file = self.put("exchange/deletes", bytes).await;
        self.deletes.retain(|file| !matches!(file.content, DeleteContent::Equality { .. }));
        self.deletes.extend(contents.into_iter().map(|content| DeleteFile { file: file.clone(), content }));
    }

    fn reader(&self) -> ScanReader {
        let counted = Arc::new(CountingStore::new(Arc::clone(&self.store) as _, Arc::clone(&self.counters)));
        let footers = Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(0));
        ScanReader::new(counted, footers, ColumnMatching::FieldId(FieldIdRules::default()))
    }

    async fn run(&self, scan: FileScanConfig) -> Result<Vec<RecordBatch>> {
        self.run_with(scan, None).await
    }

    async fn run_with(&self, scan: FileScanConfig, ahead: Option<&ReadAhead>) -> Result<Vec<RecordBatch>> {
        let context = Arc::new(TaskContext::default());
        // Files come by the reader alone.
        context.runtime_env().register_object_store(scan.object_store_url.as_ref(), Arc::new(InMemory::new()));
        let plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(scan);
        let (options, account) = (context.session_config().options(), Arc::default());
        let plan = attach(plan, options, &account, ahead, self.late, &mut |_, _| Ok(Some(self.reader())))?;
        if let Some(ahead) = ahead {
            ahead.start();
        }
        let mut batches = Vec::new();
        for partition in 0..plan.properties().output_partitioning().partition_count() {
            let stream = plan.execute(partition, Arc::clone(&context))?;
            batches.extend(datafusion::physical_plan::common::collect(stream).await?);
        }
        Ok(batches)
    }

    /// Reads the ids that are left.
    async fn ids(&self, files: &[(PartitionedFile, Option<Unit>)]) -> Result<Vec<i64>> {
        let batches = self.run(self.scan(files, &[0]).build()).await?;
        let mut ids: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

fn unit(path: &str) -> Unit {
    let (positions, scopes) = (Vec::new(), Vec::new());
    Unit { path: format!("s3://lake/{path}"), rows: ROWS, vector: None, positions, scopes, sequence_number: 1 }
}

fn without(rows: impl IntoIterator<Item = i64>, deleted: &[i64]) -> Vec<i64> {
    rows.into_iter().filter(|row| !deleted.contains(row)).collect()
}

/// Cuts a file into its row groups.
async fn groups_of(table: &Table, file: &PartitionedFile) -> Vec<PartitionedFile> {
    let footers = Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(0));
    let pinned = PinnedFile::new(Arc::clone(&table.store) as _, file.object_meta.clone());
    let footer = read_footer(&pinned, None, footers.as_ref()).await.expect("a footer");
    let start = |group: usize| {
        let column = footer.row_group(group).column(0);
        column.dictionary_page_offset().unwrap_or(column.data_page_offset())
    };
    let size = file.object_meta.size as i64;
    let end = |group: usize| if group + 1 < footer.num_row_groups() { start(group + 1) } else { size };
    (0..footer.num_row_groups()).map(|group| file.clone().with_range(start(group), end(group))).collect()
}

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
    assert_eq!(table.ids(&[(file.clone(), Some(deletes))]).await.expect("rows"), Vec::<i64>::new());
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

#[tokio::test]
async fn filters_and_limits_count_rows_that_are_left() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let vector = table.vector("v.puffin", 0..12).await;
    let names = vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(vec!["n1"])) as ArrayRef)];
    table.keys("e.parquet", names, 0, 2).await;
    let with_vector = Unit { vector: Some(vector), ..unit("a.parquet") };
    let with_keys = Unit { scopes: vec![0], ..with_vector.clone() };
    // n1 are 13, 17, 21, 25 and 29.
    for (deletes, left) in [(with_vector, (12..30).collect()), (with_keys, without(12..30, &[13, 17, 21, 25, 29]))] {
        let files = [(file.clone(), Some(deletes))];
        for limit in [1, 7, 40] {
            let scan = table.scan(&files, &[0]).with_limit(Some(limit)).build();
            let rows: usize = table.run(scan).await.expect("rows").iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, limit.min(left.len()), "limit {limit}");
        }
        // Pruned by page statistics, then by deletes; the filter itself stands above the scan.
        let id = col("id", &table.schema).expect("a column");
        let predicate = binary(id, Operator::Lt, lit(16_i64), &table.schema).expect("a comparison");
        let scan = table.scan(&files, &[0]).build();
        let source = scan.file_source().downcast_ref::<ParquetSource>().expect("Parquet").with_predicate(predicate);
        let scan = FileScanConfigBuilder::from(scan).with_source(Arc::new(source)).build();
        let batches = table.run(scan).await.expect("rows");
        let ids: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        let kept = |below: i64| left.iter().copied().filter(|id| *id < below).collect::<Vec<_>>();
        assert_eq!(ids, kept(20), "pages of five rows, row groups of ten");
    }
}

/// The keys of a join let rows through that are not deleted, and no others come back.
#[tokio::test]
async fn late_columns_are_of_rows_that_are_left() {
    const JOINED: [i64; 6] = [3, 7, 12, 17, 22, 27];
    let mut table = Table::new();
    table.late = LateColumns { kept_percent_max: 100 };
    let file = table.data("a.parquet", 0).await;
    let vector = table.vector("v.puffin", [1, 2, 11, 12, 13, 14, 15, 16]).await;
    let names = vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(vec!["n3", "n1"])) as ArrayRef)];
    table.keys("e.parquet", names, 0, 2).await;
    let with_vector = Unit { vector: Some(vector), ..unit("a.parquet") };
    let with_keys = Unit { scopes: vec![0], ..with_vector.clone() };
    let left = without(0..30, &[1, 2, 11, 12, 13, 14, 15, 16]);
    let without_keys = left.iter().copied().filter(|id| id % 4 != 1).collect();
    // Columns are not late where keys are compared with them.
    for (deletes, left, is_late) in [(with_vector, left, true), (with_keys, without_keys, false)] {
        let id = col("id", &table.schema).expect("a column");
        let keys = Arc::new(DynamicFilterPhysicalExpr::new(vec![Arc::clone(&id)], lit(true)));
        // One of each page, so that none is pruned.
        let one = |key: i64| binary(Arc::clone(&id), Operator::Eq, lit(key), &table.schema);
        let mut any = one(3).expect("a comparison");
        for key in JOINED.into_iter().skip(1) {
            any = binary(any, Operator::Or, one(key).expect("a comparison"), &table.schema).expect("a filter");
        }
        keys.update(any).expect("a filter");
        keys.mark_complete();
        let scan = table.scan(&[(file.clone(), Some(deletes))], &[0, 1]).build();
        let source = scan.file_source().downcast_ref::<ParquetSource>().expect("Parquet").with_predicate(keys);
        let scan = FileScanConfigBuilder::from(scan).with_source(Arc::new(source)).build();
        let batches = table.run(scan).await.expect("rows");
        let ids: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        let kept = |id: &i64| !is_late || JOINED.contains(id);
        assert_eq!(ids, left.into_iter().filter(kept).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn keys_delete_rows_of_older_files_in_their_scopes() {
    let mut table = Table::new();
    let files = [table.data("a.parquet", 0).await, table.data("b.parquet", 100).await];
    let names = |names: Vec<Option<&str>>| {
        vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(names)) as ArrayRef)]
    };
    table.keys("e0.parquet", names(vec![Some("n2"), None]), 0, 2).await;
    table.keys("e1.parquet", names(vec![Some("n0")]), 1, 3).await;
    let pair = vec![
        (field(1, "id", DataType::Int32), Arc::new(Int32Array::from(vec![1, 5, 9])) as ArrayRef),
        (
            field(2, "name", DataType::LargeUtf8),
            arrow::compute::cast(&StringArray::from(vec!["n1", "n0", "n1"]), &DataType::LargeUtf8).expect("text"),
        ),
    ];
    // Promoted since: the key was an int.
    table.keys("e2.parquet", pair, 0, 2).await;
    let check = async |table: &Table, scopes: [&[u32]; 2], numbers: [i64; 2], deletes: &dyn Fn(usize, i64) -> bool| {
        let unit = |file: usize| Unit {
            scopes: scopes[file].to_vec(),
            sequence_number: numbers[file],
            ..unit(["a.parquet", "b.parquet"][file])
        };
        let scan = [0, 1].map(|file| (files[file].clone(), Some(unit(file))));
        let rows = [0, 1].into_iter().flat_map(|file| (0..30).map(move |row| (file, 100 * file as i64 + row)));
        let expect: Vec<i64> = rows.filter(|(file, id)| !deletes(*file, *id)).map(|(_, id)| id).collect();
        assert_eq!(table.ids(&scan).await.expect("rows"), expect, "{scopes:?} {numbers:?}");
    };
    let scope_0 = |id: i64| matches!(id % 4, 2 | 3) || matches!(id, 1 | 9);
    check(&table, [&[0], &[0]], [1, 1], &|_, id| scope_0(id)).await;
    // A file as new as the deletes keeps its rows.
    check(&table, [&[0], &[0]], [1, 2], &|file, id| file == 0 && scope_0(id)).await;
    // Scopes: of none, of one, of both.
    check(&table, [&[], &[1]], [1, 1], &|file, id| file == 1 && id % 4 == 0).await;
    check(&table, [&[0, 1], &[]], [1, 1], &|file, id| file == 0 && (scope_0(id) || id % 4 == 0)).await;
    check(&table, [&[0, 1], &[]], [2, 1], &|file, id| file == 0 && id % 4 == 0).await;
    // The largest number of a key counts, whatever file came first.
    table.keys("e3.parquet", names(vec![Some("n2")]), 0, 5).await;
    check(&table, [&[0], &[0]], [3, 3], &|_, id| id % 4 == 2).await;
    check(&table, [&[0], &[0]], [5, 5], &|_, _| false).await;
}

#[tokio::test]
async fn keys_need_not_be_columns_that_are_asked_for() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let gone = vec![(field(3, "gone", DataType::Int32), Arc::new(Int32Array::from(vec![0, 1])) as ArrayRef)];
    table.keys("e0.parquet", gone, 0, 2).await;
    // Dropped from the table, so that it is a hidden column of the scan.
    let mut fields: Vec<Field> = table.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(field(3, "\0key 3", DataType::Int32));
    // Added later: the file lacks it, so that it is NULL there.
    fields.push(field(4, "later", DataType::Utf8View));
    table.schema = Arc::new(Schema::new(fields));
    let files = [(file, Some(Unit { scopes: vec![0, 1], ..unit("a.parquet") }))];
    let left: Vec<i64> = (0..30).filter(|id| id % 5 > 1).collect();
    assert_eq!(table.ids(&files).await.expect("rows"), left);
    // No column at all: rows are only counted.
    let batches = table.run(table.scan(&files, &[]).build()).await.expect("rows");
    assert!(batches.iter().all(|batch| batch.num_columns() == 0));
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), left.len());
    let names = |name: Option<&str>| {
        vec![(field(4, "later", DataType::Utf8), Arc::new(StringArray::from(vec![name])) as ArrayRef)]
    };
    table.keys("e1.parquet", names(Some("x")), 1, 2).await;
    assert_eq!(table.ids(&files).await.expect("rows"), left);
    table.keys("e2.parquet", names(None), 1, 2).await;
    assert_eq!(table.ids(&files).await.expect("rows"), Vec::<i64>::new());
}

#[tokio::test]
async fn a_key_may_be_a_field_of_a_struct() {
    let mut table = Table::new();
    let inner = |fields: Vec<Field>| DataType::Struct(fields.into());
    let structs = |data_type: &DataType, columns: Vec<ArrayRef>| -> ArrayRef {
        let DataType::Struct(fields) = data_type else { panic!("{data_type}") };
        Arc::new(arrow::array::StructArray::new(fields.clone(), columns, None))
    };
    let numbers = |values: std::ops::Range<i32>| Arc::new(Int32Array::from_iter_values(values)) as ArrayRef;
    let written = inner(vec![field(6, "x", DataType::Int32), field(7, "y", DataType::Int32)]);
    let columns = vec![
        Arc::new(Int64Array::from_iter_values(0..10)) as ArrayRef,
        structs(&written, vec![numbers(0..10), numbers(10..20)]),
    ];
    let bytes = parquet(vec![field(1, "id", DataType::Int64), field(5, "s", written)], columns);
    let file = table.put("a.parquet", bytes).await;
    let file = PartitionedFile::new("a.parquet", file.size_bytes);
    // Renamed, and one more field.
    let wanted = inner(vec![field(8, "new", DataType::Int32), field(7, "renamed", DataType::Int64)]);
    table.schema = Arc::new(Schema::new(vec![field(1, "id", DataType::Int64), field(5, "s", wanted)]));
    let key = inner(vec![field(7, "renamed", DataType::Int64)]);
    let values = structs(&key, vec![Arc::new(Int64Array::from(vec![12, 19, 99]))]);
    let bytes = parquet(vec![field(5, "s", key)], vec![values]);
    let content = DeleteContent::Equality { ids: vec![7], scope: 0, sequence_number: 2 };
    table.delete_file("e.parquet", bytes, content).await;
    let files = [(file, Some(Unit { scopes: vec![0], rows: 10, ..unit("a.parquet") }))];
    assert_eq!(table.ids(&files).await.expect("rows"), without(0..10, &[2, 9]));
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

#[tokio::test]
async fn a_digest_deletes_what_its_files_delete() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let rows: Vec<(&str, i64)> = [2, 3, 11, 29].map(|row| ("s3://lake/a.parquet", row)).to_vec();
    let first = table.positions("p1.parquet", &rows[..3]).await;
    let second = table.positions("p2.parquet", &rows[2..]).await;
    let named = Unit { positions: vec![first, second], ..unit("a.parquet") };
    let deletes_of = |scan: FileScanConfig| {
        let file = scan.file_groups[0].iter().next().expect("a file").clone();
        file.extensions.get_arc::<FileDeletes>().expect("deletes")
    };
    let deletes = deletes_of(table.scan(&[(file.clone(), Some(named))], &[0]).build());
    let (bytes, cardinality) = deletes.digest().await.expect("read").expect("deleted rows");
    assert_eq!(cardinality, 4);
    let content = DeleteContent::Vector { offset: 0, bytes: bytes.len() as u64, cardinality };
    let digest = table.delete_file("digest", bytes, content).await;
    let files = [(file.clone(), Some(Unit { vector: Some(digest), ..unit("a.parquet") }))];
    assert_eq!(table.ids(&files).await.expect("rows"), without(0..30, &[2, 3, 11, 29]));
    let none = Unit { positions: vec![first], ..unit("other.parquet") };
    let deletes = deletes_of(table.scan(&[(file, Some(none.clone()))], &[0]).build());
    assert_eq!(deletes.digest().await.expect("read"), None);
    // A reader that was not told of the data file would find none of its rows.
    let stores: Arc<[Arc<dyn ObjectStore>]> = Arc::from([Arc::clone(&table.store) as Arc<dyn ObjectStore>]);
    let schema = Arc::clone(&table.schema);
    let (sets, units) = shared(&[none]);
    let planned = DeletePlan::new("t".to_owned(), table.deletes.clone(), sets);
    let reader = Arc::new(DeleteReader::new(stores, planned, [], schema, &table.pool));
    let error = FileDeletes::new(reader, units[0].clone())
        .expect("a known file")
        .digest()
        .await
        .expect_err("unknown")
        .to_string();
    assert!(error.contains("nobody has said that `s3://lake/other.parquet` needs positions"), "{error}");
}

/// Keys of several fields, scopes and numbers, with NULLs, of a column that was dropped, of a struct's field, and of promoted types.
#[tokio::test]
async fn a_digest_of_keys_deletes_what_its_files_delete() {
    let mut table = Table::new();
    let inner = |fields: Vec<Field>| DataType::Struct(fields.into());
    let structs = |data_type: &DataType, column: ArrayRef| -> ArrayRef {
        let DataType::Struct(fields) = data_type else { panic!("{data_type}") };
        Arc::new(arrow::array::StructArray::new(fields.clone(), vec![column], None))
    };
    let written = inner(vec![field(7, "y", DataType::Int32)]);
    let wanted = inner(vec![field(7, "renamed", DataType::Int64)]);
    table.schema = Arc::new(Schema::new(vec![
        field(1, "id", DataType::Int64),
        field(2, "name", DataType::Utf8View),
        field(3, "\0key 3", DataType::Int32),
        field(5, "s", wanted.clone()),
    ]));
    let ids = || 0..ROWS as i64;
    let names: StringArray = ids().map(|id| (id % 4 != 3).then(|| format!("n{}", id % 4))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids())),
        Arc::new(names),
        Arc::new(Int32Array::from_iter_values(ids().map(|id| (id % 5) as i32))),
        structs(&written, Arc::new(Int32Array::from_iter_values(ids().map(|id| 100 + id as i32)))),
    ];
    let fields = vec![
        field(1, "id", DataType::Int64),
        field(2, "name", DataType::Utf8),
        field(3, "gone", DataType::Int32),
        field(5, "s", written),
    ];
    let file = table.put("a.parquet", parquet(fields, columns)).await;
    let file = PartitionedFile::new("a.parquet", file.size_bytes);
    let names = |names: Vec<Option<&str>>| {
        vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(names)) as ArrayRef)]
    };
    let gone = |values: Vec<i32>| (field(3, "gone", DataType::Int32), Arc::new(Int32Array::from(values)) as ArrayRef);
    let id = |values: Vec<i32>| (field(1, "id", DataType::Int32), Arc::new(Int32Array::from(values)) as ArrayRef);
    // The numbers of keys of one group differ, and `n2` has two.
    table.keys("e0", names(vec![Some("n2"), None]), 0, 2).await;
    table.keys("e1", names(vec![Some("n2"), Some("nobody's")]), 0, 4).await;
    table.keys("e2", names(vec![Some("n0")]), 1, 3).await;
    table.keys("e3", vec![gone(vec![0, 1]), id(vec![5, 11])], 0, 5).await;
    let key = inner(vec![field(7, "renamed", DataType::Int64)]);
    let values = structs(&key, Arc::new(Int64Array::from(vec![Some(101), Some(113), None])));
    let content = DeleteContent::Equality { ids: vec![7], scope: 0, sequence_number: 3 };
    table.delete_file("e4", parquet(vec![field(5, "s", key)], vec![values]), content).await;
    // No key at all.
    table.keys("e5", names(Vec::new()), 2, 9).await;
    let deleted = |id: i64, number: i64, scopes: &[u32]| {
        let zero = scopes.contains(&0);
        zero && number < 4 && id % 4 == 2
            || zero && number < 2 && id % 4 == 3
            || scopes.contains(&1) && number < 3 && id % 4 == 0
            || zero && number < 5 && matches!(id, 5 | 11)
            || zero && number < 3 && matches!(id, 1 | 13)
    };
    let mut gets = Vec::new();
    for is_digested in [false, true] {
        if is_digested {
            table.digest_keys().await;
            assert!(table.deletes.iter().all(|file| file.file.path == "exchange/deletes"));
        }
        let before = table.counters.requests().get;
        for scopes in [&[0][..], &[1], &[0, 1, 2], &[2]] {
            for number in 1..6 {
                let own = Unit { scopes: scopes.to_vec(), sequence_number: number, ..unit("a.parquet") };
                let expect: Vec<i64> = ids().filter(|id| !deleted(*id, number, scopes)).collect();
                let found = table.ids(&[(file.clone(), Some(own))]).await.expect("rows");
                assert_eq!(found, expect, "{scopes:?}, {number}, digested: {is_digested}");
            }
        }
        gets.push(table.counters.requests().get - before);
    }
    assert!(gets[1] < gets[0], "{gets:?}");
}

/// A fragment reads the vectors of its data files with one request.
#[tokio::test]
async fn vectors_of_a_digest_are_read_together() {
    let mut table = Table::new();
    table.pool = Arc::new(GreedyMemoryPool::new(1 << 20));
    let (mut bytes, mut contents) = (Vec::new(), Vec::new());
    for row in 0..4 {
        let vector = vector::encode(&RoaringTreemap::from_iter([row, 20 + row])).expect("short");
        let (offset, length) = (bytes.len() as u64, vector.len() as u64);
        contents.push(DeleteContent::Vector { offset, bytes: length, cardinality: 2 });
        bytes.extend(vector);
    }
    let object = table.put("exchange/deletes", bytes).await;
    table.deletes = contents.into_iter().map(|content| DeleteFile { file: object.clone(), content }).collect();
    let units: Vec<Unit> =
        (0..4).map(|number| Unit { vector: Some(number), ..unit(&format!("{number}.parquet")) }).collect();
    let (sets, units) = shared(&units);
    let counted: Arc<dyn ObjectStore> =
        Arc::new(CountingStore::new(Arc::clone(&table.store) as _, Arc::clone(&table.counters)));
    let planned = DeletePlan::new("t".to_owned(), table.deletes.clone(), sets);
    let reader = DeleteReader::new(Arc::from([counted]), planned, &units, Arc::clone(&table.schema), &table.pool);
    let reader = Arc::new(reader.with_exchange(0));
    let deletes = |unit: &UnitDeletes| FileDeletes::new(Arc::clone(&reader), unit.clone()).expect("known files");
    let deletes: Vec<_> = units.iter().map(deletes).collect();
    // A plan that runs twice.
    for gets in 1..=2 {
        deletes.iter().for_each(FileDeletes::announce);
        for (deletes, row) in deletes.iter().zip(0..) {
            let found = deletes.deleted().await.expect("read").expect("deleted rows");
            assert_eq!(found.rows.iter().collect::<Vec<_>>(), [row, 20 + row]);
        }
        assert_eq!((table.counters.requests().get, table.pool.reserved()), (gets, 0));
        deletes[0].forget().await;
    }
}

#[tokio::test]
async fn a_digest_of_keys_has_bounds() {
    let mut table = Table::new();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
    let schema = Arc::new(Schema::new(vec![field(1, "id", DataType::Int64)]));
    let rows = RecordBatch::try_new(schema, vec![ids]).expect("a batch");
    for sequence_number in [2, 3] {
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).expect("a writer");
        writer.write(&rows).expect("written");
        let content = DeleteContent::Equality { ids: vec![1], scope: 0, sequence_number };
        table.delete_file(&format!("e{sequence_number}"), writer.into_inner().expect("a file"), content).await;
    }
    let digest = async |table: &Table, bytes_max: usize| {
        let made = table.deletes_of(&unit("a.parquet")).digest_keys(0, bytes_max).await;
        assert_eq!(table.pool.reserved(), 0);
        made
    };
    let whole = digest(&table, 1 << 20).await.expect("read").expect("each key once").encoded.len();
    assert!((100_000..800_000).contains(&whole), "{whole} bytes");
    assert!(digest(&table, whole).await.expect("read").is_some());
    assert!(digest(&table, whole - 1).await.expect("read").is_none(), "a byte too many");
    for pool in [1 << 20, 9 << 20] {
        table.pool = Arc::new(GreedyMemoryPool::new(pool));
        let error = digest(&table, 1 << 20).await.expect_err("too little memory");
        assert_eq!(classify(&error).kind, FragmentErrorKind::OutOfMemory, "{error}");
    }
}

/// Reading ahead knows key columns, and leaves a file of which most is deleted to its readers.
#[tokio::test]
async fn reading_ahead_changes_no_row() {
    let mut table = Table::new();
    let files = [table.large("a.parquet", 0).await, table.large("b.parquet", 1 << 20).await];
    let deleted = 5_000..55_000_u64;
    let most = table.vector("most.puffin", deleted.clone()).await;
    let few = table.vector("few.puffin", (0..LARGE_ROWS).step_by(100)).await;
    let keys = vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(vec!["n2"])) as ArrayRef)];
    table.keys("e.parquet", keys, 0, 2).await;
    let large = |path: &str| Unit { rows: LARGE_ROWS, ..unit(path) };
    let url = ObjectStoreUrl::parse("s3://lake").expect("a URL");
    let bounds = AheadBounds { requests_max: 16, bytes_max: 64 << 20 };
    let read = async |files: &[(PartitionedFile, Option<Unit>)]| {
        let mut scan = table.scan(files, &[0]).build();
        scan.object_store_url = url.clone();
        let (budget, account) = (ReadBudget::new(bounds), Arc::<AheadAccount>::default());
        let ahead = budget.query(bounds, &table.pool, Arc::clone(&account));
        let batches = table.run_with(scan, Some(&ahead)).await.expect("rows");
        drop(ahead);
        let mut ids: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        ids.sort_unstable();
        (ids, account.usage())
    };
    // Each row group of the second file is read ahead, with its key column.
    let second = Unit { vector: Some(few), scopes: vec![0], ..large("b.parquet") };
    let (ids, usage) = read(&[(files[1].clone(), Some(second))]).await;
    let rows = (0..LARGE_ROWS as i64).filter(|row| row % 100 != 0).map(|row| row + (1 << 20));
    assert_eq!(ids, rows.filter(|id| id % 4 != 2).collect::<Vec<_>>());
    assert!(usage.taken_bytes > 0 && usage.missed_bytes == 0 && usage.again_bytes == 0, "{usage:?}");
    let first = Unit { vector: Some(most), ..large("a.parquet") };
    let (ids, usage) = read(&[(files[0].clone(), Some(first))]).await;
    assert_eq!(ids, (0..LARGE_ROWS).filter(|row| !deleted.contains(row)).map(|row| row as i64).collect::<Vec<_>>());
    assert_eq!((usage.bytes, usage.taken_bytes), (0, 0), "{usage:?}");
}

/// Random deletes of all kinds over two files, which are read whole or by row groups, against a row-by-row judge.
#[tokio::test]
async fn random_deletes_leave_the_right_rows() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut table = Table::new();
        let files = [table.data("a.parquet", 0).await, table.data("b.parquet", 100).await];
        let paths = ["s3://lake/a.parquet", "s3://lake/b.parquet"];
        let mut units = ["a.parquet", "b.parquet"].map(unit);
        let mut left: Vec<(usize, i64)> =
            [0, 1].into_iter().flat_map(|file| (0..ROWS as i64).map(move |row| (file, row))).collect();
        let share = random.random_range(0.0..1.0);
        if random.random_bool(0.5) {
            let rows: Vec<u64> = (0..ROWS).filter(|_| random.random_bool(share)).collect();
            left.retain(|(file, row)| *file != 0 || !rows.contains(&(*row as u64)));
            units[0].vector = Some(table.vector("v.puffin", rows).await);
        }
        for number in 0..random.random_range(0..3) {
            let all = [0, 1].into_iter().flat_map(|file| (0..ROWS as i64).map(move |row| (file, row)));
            let named: Vec<(usize, i64)> = all.filter(|_| random.random_bool(share)).collect();
            let rows: Vec<(&str, i64)> = named.iter().map(|(file, row)| (paths[*file], *row)).collect();
            let written = table.positions(&format!("p{number}.parquet"), &rows).await;
            // A file that a unit does not name deletes nothing of it.
            let names = [random.random_bool(0.7), random.random_bool(0.7)];
            units.iter_mut().zip(names).filter(|(_, names)| *names).for_each(|(unit, _)| unit.positions.push(written));
            left.retain(|row| !names[row.0] || !named.contains(row));
        }
        for unit in &mut units {
            unit.sequence_number = random.random_range(1..5);
            unit.scopes = (0..2).filter(|_| random.random_bool(0.6)).collect();
        }
        for number in 0..random.random_range(0..3) {
            let (scope, newer) = (random.random_range(0..2), random.random_range(1..6));
            let (key, is_null) = (random.random_range(0..3_i64), random.random_bool(0.3));
            let name = (!is_null).then(|| format!("n{key}"));
            let column: ArrayRef = Arc::new(StringArray::from(vec![name]));
            let fields = vec![(field(2, "name", DataType::Utf8), column)];
            table.keys(&format!("e{number}.parquet"), fields, scope, newer).await;
            let has_key = |file: usize, row: i64| (100 * file as i64 + row) % 4 == if is_null { 3 } else { key };
            left.retain(|(file, row)| {
                let applies = units[*file].scopes.contains(&scope) && newer > units[*file].sequence_number;
                !(applies && has_key(*file, *row))
            });
        }
        let mut parts = Vec::new();
        for (file, unit) in files.iter().zip(units) {
            let whole = vec![file.clone()];
            let own = if random.random_bool(0.5) { whole } else { groups_of(&table, file).await };
            parts.extend(own.into_iter().map(|part| (part, Some(unit.clone()))));
        }
        let expect: Vec<i64> = left.iter().map(|(file, row)| 100 * *file as i64 + row).collect();
        assert_eq!(table.ids(&parts).await.expect("rows"), expect, "seed {seed}");
    }
}

#[tokio::test]
async fn a_scan_whose_deletes_are_not_applied_reads_nothing() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let vector = table.vector("v.puffin", [1]).await;
    let files = [(file, Some(Unit { vector: Some(vector), ..unit("a.parquet") }))];
    // Attached, but not by `attach` of a plan.
    let scan = table.reader().attach(table.scan(&files, &[0]).build()).expect("Parquet");
    let plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(scan);
    let error = collect(plan, Arc::new(TaskContext::default())).await.expect_err("deleted rows").to_string();
    assert!(error.contains("`a.parquet` would be read with its deleted rows"), "{error}");
}

#[tokio::test]
async fn what_is_kept_counts_in_the_pool() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let vector = table.vector("v.puffin", (0..30).step_by(2)).await;
    let keys = vec![(field(1, "id", DataType::Int64), Arc::new(Int64Array::from_iter_values(0..1000)) as ArrayRef)];
    table.keys("e.parquet", keys, 0, 2).await;
    for (deletes, expect) in [
        (Unit { vector: Some(vector), ..unit("a.parquet") }, "deleted rows"),
        (Unit { scopes: vec![0], ..unit("a.parquet") }, "deleted keys"),
    ] {
        table.pool = Arc::new(GreedyMemoryPool::new(100));
        let files = [(file.clone(), Some(deletes))];
        let error = table.ids(&files).await.expect_err(expect);
        assert_eq!(classify(&error).kind, FragmentErrorKind::OutOfMemory, "{error}");
        assert!(error.to_string().contains(expect), "{error}");
        assert_eq!(table.pool.reserved(), 0);
        table.pool = Arc::new(GreedyMemoryPool::new(1 << 20));
        table.ids(&files).await.expect("enough memory");
        assert_eq!(table.pool.reserved(), 0, "it is free after the scan");
    }
}

/// Deletes that were read are let go when the last data file has had it, and a key that many files have is held once.
#[tokio::test]
async fn a_small_pool_serves_one_file_after_the_other() {
    const FILES: u64 = 6;
    let mut table = Table::new();
    let deleted = || (0..LARGE_ROWS).step_by(20);
    let mut vectors = Vec::new();
    for number in 0..FILES {
        let file = table.large(&format!("{number}.parquet"), (number * LARGE_ROWS) as i64).await;
        let vector = table.vector(&format!("{number}.puffin"), deleted()).await;
        let unit = Unit { rows: LARGE_ROWS, vector: Some(vector), ..unit(&format!("{number}.parquet")) };
        // Both halves of the last file need its vector.
        let parts = if number + 1 < FILES { vec![file] } else { groups_of(&table, &file).await };
        vectors.extend(parts.into_iter().map(|part| (part, Some(unit.clone()))));
    }
    let of_one = match &table.deletes[0].content {
        DeleteContent::Vector { bytes, .. } => 2 * *bytes as usize,
        _ => 0,
    };
    let gets = async |table: &Table, files: &[(PartitionedFile, Option<Unit>)], rows: u64| {
        let before = table.counters.requests().get;
        assert_eq!(table.ids(files).await.expect("enough memory for one").len() as u64, rows);
        assert_eq!(table.pool.reserved(), 0);
        table.counters.requests().get - before
    };
    let plain: Vec<_> = vectors.iter().map(|(file, _)| (file.clone(), None)).collect();
    let of_data = gets(&table, &plain, FILES * LARGE_ROWS).await;
    table.pool = Arc::new(GreedyMemoryPool::new(2 * of_one));
    let all = gets(&table, &vectors, FILES * (LARGE_ROWS - deleted().count() as u64)).await;
    assert_eq!(all, of_data + FILES, "each vector is read once");

    // The same keys in five files of each scope.
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..1_000).map(|key| key * 400)));
    table.deletes.clear();
    let mut keyed = Vec::new();
    for (number, (file, _)) in vectors.iter().enumerate().take(FILES as usize) {
        for copy in 0..5 {
            let keys = vec![(field(1, "id", DataType::Int64), Arc::clone(&ids))];
            table.keys(&format!("{number}-{copy}"), keys, number as u32, 2).await;
        }
        let unit = Unit { rows: LARGE_ROWS, scopes: vec![number as u32], ..unit(&format!("{number}.parquet")) };
        keyed.push((file.clone(), Some(unit)));
    }
    // Keys are reserved before it is known that they are held already.
    table.pool = Arc::new(GreedyMemoryPool::new(2 * 1_000 * 80));
    table.ids(&keyed).await.expect("enough memory for one");
    assert_eq!(table.pool.reserved(), 0);
}

/// Makes a table with one damaged delete file, reads its data file, and returns the error.
async fn fault(damage: Damage) -> (FragmentErrorKind, String, Option<String>) {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let mut deletes = unit("a.parquet");
    damage(&mut table, &mut deletes).await;
    let error = table.ids(&[(file, Some(deletes))]).await.expect_err("damaged");
    let told = classify(&error);
    (told.kind, told.message, told.hint)
}

type Damage = for<'a> fn(&'a mut Table, &'a mut Unit) -> futures::future::BoxFuture<'a, ()>;

/// Changes the bytes of a delete file in its place.
async fn change(table: &Table, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = Path::from(name);
    let mut bytes = table.store.get(&path).await.expect("an object").bytes().await.expect("bytes").to_vec();
    change(&mut bytes);
    table.store.put(&path, PutPayload::from(bytes)).await.expect("put");
}

fn set_cardinality(table: &mut Table, wanted: u64) {
    if let DeleteContent::Vector { cardinality, .. } = &mut table.deletes[0].content {
        *cardinality = wanted;
    }
}

#[tokio::test]
async fn each_damage_is_named_with_its_file() {
    use futures::FutureExt;
    let corrupt = FragmentErrorKind::FileCorrupt;
    let cases: [(FragmentErrorKind, &str, Damage); 16] = [
        (
            corrupt,
            "file `v` of table `t`: the deletion vector at byte 4: it has 2 positions, its manifest says 3",
            |table, unit| {
                async move {
                    unit.vector = Some(table.vector("v", [1, 2]).await);
                    set_cardinality(table, 3);
                }
                .boxed()
            },
        ),
        (corrupt, "file `v` of table `t`: the deletion vector at byte 4: its checksum is wrong", |table, unit| {
            async move {
                unit.vector = Some(table.vector("v", [1, 2]).await);
                change(table, "v", |bytes| bytes[20] ^= 1).await;
            }
            .boxed()
        }),
        (
            corrupt,
            "file `v` of table `t`: the deletion vector at byte 4: it does not begin as a vector",
            |table, unit| {
                async move {
                    unit.vector = Some(table.vector("v", [1, 2]).await);
                    change(table, "v", |bytes| bytes[8] ^= 1).await;
                }
                .boxed()
            },
        ),
        (corrupt, "file `v` of table `t`: the deletion vector at byte 4: it has 1000 bytes of", |table, unit| {
            async move {
                unit.vector = Some(table.vector("v", [1, 2]).await);
                table.deletes[0].content = DeleteContent::Vector { offset: 4, bytes: 1000, cardinality: 2 };
            }
            .boxed()
        }),
        (corrupt, "file `v` of table `t`: it deletes row 30 of s3://lake/a.parquet, which has 30", |table, unit| {
            async move { unit.vector = Some(table.vector("v", [1, 30]).await) }.boxed()
        }),
        (corrupt, "file `p` of table `t`: it deletes row 30 of s3://lake/a.parquet, which has 30", |table, unit| {
            async move { unit.positions = vec![table.positions("p", &[("s3://lake/a.parquet", 30)]).await] }.boxed()
        }),
        (corrupt, "file `p` of table `t`: it deletes row -1 of s3://lake/a.parquet", |table, unit| {
            async move { unit.positions = vec![table.positions("p", &[("s3://lake/a.parquet", -1)]).await] }.boxed()
        }),
        (corrupt, "file `p` of table `t`: it has no column with field id 2147483546", |table, unit| {
            async move {
                let bytes = parquet(vec![field(1, "id", DataType::Int64)], vec![Arc::new(Int64Array::from(vec![1]))]);
                unit.positions = vec![table.delete_file("p", bytes, DeleteContent::Positions).await];
            }
            .boxed()
        }),
        (corrupt, "file `p` of table `t`: its column with field id 2147483545 is INT32, not INT64", |table, unit| {
            async move {
                let fields =
                    vec![field(FILE_PATH, "file_path", DataType::Utf8), field(POSITION, "pos", DataType::Int32)];
                let columns: Vec<ArrayRef> =
                    vec![Arc::new(StringArray::from(vec!["x"])), Arc::new(Int32Array::from(vec![1]))];
                let bytes = parquet(fields, columns);
                unit.positions = vec![table.delete_file("p", bytes, DeleteContent::Positions).await];
            }
            .boxed()
        }),
        (corrupt, "file `p` of table `t`: one of its rows has no path or no position", |table, unit| {
            async move {
                let fields =
                    vec![field(FILE_PATH, "file_path", DataType::Utf8), field(POSITION, "pos", DataType::Int64)];
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(StringArray::from(vec!["s3://lake/a.parquet"])),
                    Arc::new(Int64Array::from(vec![None])),
                ];
                let bytes = parquet(fields, columns);
                unit.positions = vec![table.delete_file("p", bytes, DeleteContent::Positions).await];
            }
            .boxed()
        }),
        (corrupt, "file `p` of table `t`: ", |table, unit| {
            async move {
                unit.positions = vec![table.positions("p", &[("s3://lake/a.parquet", 3)]).await];
                change(table, "p", |bytes| {
                    let end = bytes.len() - 20;
                    bytes[end - 40..end].fill(0xff);
                })
                .await;
            }
            .boxed()
        }),
        (corrupt, "file `e` of table `t`: it has no column with field id 2", |table, unit| {
            async move {
                let id = (field(1, "id", DataType::Int64), Arc::new(Int64Array::from(vec![1])) as ArrayRef);
                table.keys("e", vec![id], 0, 2).await;
                let ids = vec![1, 2];
                table.deletes[0].content = DeleteContent::Equality { ids, scope: 0, sequence_number: 2 };
                unit.scopes = vec![0];
            }
            .boxed()
        }),
        (
            FragmentErrorKind::FileMissing,
            "file `p` was not found: it holds deleted rows of s3://lake/a.parquet, of table `t`",
            |table, unit| {
                async move {
                    unit.positions = vec![table.positions("p", &[]).await];
                    table.store.delete(&Path::from("p")).await.expect("deleted");
                }
                .boxed()
            },
        ),
        (FragmentErrorKind::FileMissing, "file `v` was not found: it holds deleted rows of", |table, unit| {
            async move {
                unit.vector = Some(table.vector("v", [1]).await);
                table.store.delete(&Path::from("v")).await.expect("deleted");
            }
            .boxed()
        }),
        (FragmentErrorKind::FileChanged, "file `p` has changed: it has ", |table, unit| {
            async move {
                unit.positions = vec![table.positions("p", &[("s3://lake/a.parquet", 3)]).await];
                change(table, "p", |bytes| bytes.push(0)).await;
            }
            .boxed()
        }),
        (
            corrupt,
            "file `a.parquet`: it has 30 rows, its manifest says 31, so that positions of deleted rows mean nothing",
            |table, unit| {
                async move {
                    unit.vector = Some(table.vector("v", [1]).await);
                    unit.rows = 31;
                }
                .boxed()
            },
        ),
    ];
    for (kind, expect, damage) in cases {
        let (found, message, hint) = fault(damage).await;
        assert_eq!(found, kind, "{expect}: {message}");
        assert!(message.starts_with(expect), "`{expect}` is not in: {message}");
        let of_deletes = kind == corrupt && !expect.contains("a.parquet`");
        assert_eq!(hint.is_some(), of_deletes, "{message}: {hint:?}");
    }
}

/// Nothing is held of a digest that is given up half-way.
#[tokio::test]
async fn what_was_announced_and_never_asked_for_is_forgotten() {
    let mut table = Table::new();
    table.pool = Arc::new(GreedyMemoryPool::new(1 << 20));
    let rows = [("s3://lake/a.parquet", 1), ("s3://lake/b.parquet", 2), ("s3://lake/foreign.parquet", 2)];
    let positions = vec![table.positions("p", &rows).await];
    let units = ["a.parquet", "b.parquet"].map(|path| Unit { positions: positions.clone(), ..unit(path) });
    // It has no set that names the file.
    let foreign = Unit { vector: Some(0), ..unit("foreign.parquet") };
    let (sets, units) = shared(&[units[0].clone(), units[1].clone(), foreign]);
    let stores: Arc<[Arc<dyn ObjectStore>]> = Arc::from([Arc::clone(&table.store) as Arc<dyn ObjectStore>]);
    let planned = DeletePlan::new("t".to_owned(), table.deletes.clone(), sets);
    let reader = Arc::new(DeleteReader::new(stores, planned, &units, Arc::clone(&table.schema), &table.pool));
    let deletes = |unit: &UnitDeletes| FileDeletes::new(Arc::clone(&reader), unit.clone()).expect("known files");
    let deletes: Vec<_> = units.iter().map(deletes).collect();
    deletes[..2].iter().for_each(FileDeletes::announce);
    assert!(deletes[0].digest().await.expect("read").is_some());
    let of_b = table.pool.reserved();
    assert!(of_b > 0, "the positions of the other file are kept");
    deletes[0].forget().await;
    assert_eq!(table.pool.reserved(), 0);
    // What no unit names was never held.
    deletes[..2].iter().for_each(FileDeletes::announce);
    for deletes in &deletes[..2] {
        assert!(deletes.digest().await.expect("read").is_some());
    }
    assert_eq!(table.pool.reserved(), 0);
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

/// An object that the coordinator has written is no file of the table's: it is asked for again.
#[tokio::test]
async fn damage_in_the_exchange_is_no_damage_of_the_table() {
    use futures::FutureExt;
    let cases: [(&str, Damage); 7] = [
        ("the deletion vector at byte 4: its checksum is wrong", |table, unit| {
            async move {
                unit.vector = Some(table.vector("exchange/deletes", [1, 2]).await);
                change(table, "exchange/deletes", |bytes| bytes[20] ^= 1).await;
            }
            .boxed()
        }),
        ("Object at location exchange/deletes not found", |table, unit| {
            async move {
                unit.vector = Some(table.vector("exchange/deletes", [1, 2]).await);
                table.store.delete(&Path::from("exchange/deletes")).await.expect("deleted");
            }
            .boxed()
        }),
        ("the checksum of its keys is wrong", |table, unit| {
            async move {
                table.id_digest(unit).await;
                change(table, "exchange/deletes", |bytes| bytes[200] ^= 1).await;
            }
            .boxed()
        }),
        ("it has ", |table, unit| {
            async move {
                table.id_digest(unit).await;
                change(table, "exchange/deletes", |bytes| bytes.truncate(100)).await;
            }
            .boxed()
        }),
        ("the keys at byte 6: it has 1000000 bytes of ", |table, unit| {
            async move {
                table.id_digest(unit).await;
                change_keys(table, |bytes, _, _| *bytes = 1_000_000);
            }
            .boxed()
        }),
        ("its keys cannot be decoded: ", |table, unit| {
            async move {
                table.id_digest(unit).await;
                // The sum is right, and the bytes are not.
                change(table, "exchange/deletes", |bytes| bytes[6..].fill(7)).await;
                let sum = crc32fast::hash(&vec![7; table.deletes[0].file.size_bytes as usize - 6]);
                change_keys(table, |_, crc32, _| *crc32 = sum);
            }
            .boxed()
        }),
        ("it has keys of other fields", |table, unit| {
            async move {
                table.id_digest(unit).await;
                change_keys(table, |_, _, ids| *ids = vec![2]);
            }
            .boxed()
        }),
    ];
    for (expect, damage) in cases {
        let mut table = Table::new();
        table.data("a.parquet", 0).await;
        let mut own = unit("a.parquet");
        damage(&mut table, &mut own).await;
        let deletes = table.deletes_of(&own);
        let read = async { futures::try_join!(deletes.deleted(), deletes.keys()) };
        let told = classify(&read.await.map(|_| ()).expect_err(expect));
        assert_eq!(told.kind, FragmentErrorKind::Storage, "{told:?}");
        assert!(told.kind.is_retryable() && told.hint.is_none(), "{told:?}");
        let place = "object `exchange/deletes` of the exchange: ";
        assert!(told.message.starts_with(place) && told.message.contains(expect), "{expect}: {told:?}");
    }
}

impl Table {
    /// Makes a digest of keys of ids, which a unit needs.
    async fn id_digest(&mut self, unit: &mut Unit) {
        let ids = vec![(field(1, "id", DataType::Int64), Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)];
        self.keys("e", ids, 0, 2).await;
        self.digest_keys().await;
        unit.scopes = vec![0];
    }
}

/// Changes length, checksum and fields of the keys in a request.
fn change_keys(table: &mut Table, change: impl FnOnce(&mut u64, &mut u32, &mut Vec<i32>)) {
    if let DeleteContent::Keys { bytes, crc32, ids, .. } = &mut table.deletes[0].content {
        change(bytes, crc32, ids);
    }
}

#[test]
fn keys_of_floats_and_of_no_column_are_refused() {
    let schema = Schema::new(vec![field(1, "x", DataType::Float64), field(2, "l", DataType::Struct(Fields::empty()))]);
    let refused = |id: i32| equality::KeyColumn::of(&schema, id).expect_err("no key").to_string();
    assert!(refused(1).contains("rows are deleted by `x` of type Float64"));
    assert!(refused(2).contains("rows are deleted by `l`"));
    assert!(refused(77).contains("rows are deleted by field 77, which the table does not have"));
}
