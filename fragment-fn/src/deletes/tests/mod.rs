//! Scans over files with deletes: the rows that are left, the requests, and the faults of delete files.

mod digests;
mod faults;
mod keys;
mod memory;
mod positions;
mod scans;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::{ColumnMatching, DeleteFile, DeleteSet, FieldIdRules, FragmentErrorKind, ObjectRef};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use parquet::file::properties::WriterProperties;
use roaring::RoaringTreemap;

use super::*;
use crate::ahead::{ReadAhead, attach};
use crate::late::LateColumns;
use crate::metering::{Counters, CountingStore};
use crate::{PinnedFile, ScanReader, classify, read_footer};

/// Turns of a digest. One at a time will do.
static TURNS: Semaphore = Semaphore::const_new(1);

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
    // The writer calls itself for each row group of a batch.
    for first in (0..rows.num_rows()).step_by(100) {
        writer.write(&rows.slice(first, (rows.num_rows() - first).min(100))).expect("written");
    }
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
            let keys = deletes.digest_keys(group, i64::MIN, 1 << 20, &TURNS).await.expect("read").expect("few keys");
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
