//! Predictions against what DataFusion's opener asks for.

use std::collections::HashMap;
use std::sync::Mutex;

use arrow::array::{ArrayRef, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::{
    FileScanConfig, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Operator;
use datafusion::logical_expr::physical_planning_context::{ScalarSubqueryResults, SubqueryIndex};
use datafusion::physical_expr::expressions::{BinaryExpr, DynamicFilterPhysicalExpr, col, lit};
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr, collect};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_protocol::plan;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use url::Url;

use super::*;
use crate::by_name::NameMatching;
use crate::columns::FieldIdMatching;

/// Rows of a file, of which each quarter is a row group.
const ROWS: i64 = 1000;

/// Tables `t` and `h`, and their files. `h` has a partition column `p`.
pub(in crate::ahead) struct Tables {
    pub(in crate::ahead) context: SessionContext,
    files: HashMap<Path, Bytes>,
}

fn schema() -> SchemaRef {
    let batch = batch(0, false);
    let nullable = batch.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    Arc::new(Schema::new(nullable))
}

/// Makes rows from `first` on. An old file has a narrower column `k` and no column `v`.
fn batch(first: i64, is_old: bool) -> RecordBatch {
    let rows = || first..first + ROWS;
    let narrow: ArrayRef = Arc::new(Int32Array::from_iter_values(rows().map(|row| row as i32)));
    let wide: ArrayRef = Arc::new(Int64Array::from_iter_values(rows()));
    let values: ArrayRef =
        Arc::new(Int64Array::from_iter(rows().map(|row| (row % 7 > 0).then_some(row * 7919 % 1013))));
    let text = |row: i64| ["a", "b", "c"][(row % 3) as usize];
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows().map(text)));
    let lists = rows().map(|row| Some((0..row % 3).map(move |n| Some(row + n))));
    let structs = StructArray::from(vec![
        (Arc::new(Field::new("x", DataType::Int64, false)), Arc::clone(&wide)),
        (Arc::new(Field::new("y", DataType::Utf8, false)), Arc::clone(&texts)),
    ]);
    let constant: ArrayRef = Arc::new(Int64Array::from_iter_values(rows().map(|_| 7)));
    let mut columns = vec![
        ("k", if is_old { narrow } else { wide }),
        ("c", constant),
        ("t", texts),
        ("s", Arc::new(structs) as ArrayRef),
        ("l", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)) as ArrayRef),
    ];
    if !is_old {
        columns.push(("v", values));
    }
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn file(rows: &RecordBatch) -> Bytes {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(ROWS as usize / 4))
        .set_write_batch_size(10)
        .set_data_page_row_count_limit(50)
        .set_dictionary_enabled(false)
        .set_column_dictionary_enabled("t".into(), true)
        .set_statistics_enabled(EnabledStatistics::Page)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).expect("a writer");
    writer.write(rows).expect("written");
    writer.into_inner().expect("a file").into()
}

pub(in crate::ahead) async fn tables(config: SessionConfig) -> Tables {
    let store = Arc::new(InMemory::new());
    let mut files = HashMap::new();
    for (name, rows) in [
        ("t/a.parquet", batch(0, false)),
        ("t/b.parquet", batch(ROWS, true)),
        ("h/p=1/a.parquet", batch(0, false)),
        ("h/p=2/b.parquet", batch(ROWS, false)),
    ] {
        let (path, bytes) = (Path::from(name), file(&rows));
        store.put(&path, PutPayload::from(bytes.clone())).await.expect("put");
        files.insert(path, bytes);
    }
    let context = SessionContext::new_with_config(config);
    context.register_object_store(&Url::parse("memory://tables/").expect("a URL"), store);
    let schema = schema();
    let options = ParquetReadOptions::default().schema(&schema);
    context.register_parquet("t", "memory://tables/t/", options.clone()).await.expect("a table");
    let partitioned = options.table_partition_cols(vec![("p".to_owned(), DataType::Int64)]);
    context.register_parquet("h", "memory://tables/h/", partitioned).await.expect("a table");
    Tables { context, files }
}

impl Tables {
    pub(in crate::ahead) async fn plan(&self, sql: &str) -> Arc<dyn ExecutionPlan> {
        let frame = self.context.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        frame.create_physical_plan().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn footer(&self, path: &Path) -> Arc<ParquetMetaData> {
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        Arc::new(reader.parse_and_finish(&self.files[path]).expect("a footer"))
    }

    fn spec(&self, scan: &FileScanConfig) -> ScanSpec {
        let config = self.context.copied_config();
        ScanSpec::of(scan, Arc::new(NameMatching), Vec::new(), config.options()).expect("a scan of Parquet files")
    }

    async fn scan(&self, sql: &str) -> ScanSpec {
        self.spec(&plan::scans(&self.plan(sql).await)[0])
    }

    fn layout(&self, spec: &ScanSpec, known: &mut Schemas, number: usize) -> FileLayout {
        let file = &spec.files[number];
        layout(spec, known, file, &self.footer(&file.object_meta.location)).expect("a layout")
    }

    fn predict(&self, plan: &Arc<dyn ExecutionPlan>) -> Vec<Asked> {
        let mut predicted = Vec::new();
        for scan in plan::scans(plan) {
            let spec = self.spec(&scan);
            let mut known = Schemas::new(&spec);
            for (number, file) in spec.files.iter().enumerate() {
                let ranges = self.layout(&spec, &mut known, number).units.into_iter().flat_map(|unit| unit.ranges);
                predicted.extend(ranges.map(|range| Asked { path: file.object_meta.location.clone(), range }));
            }
        }
        predicted
    }

    /// Runs a plan and returns what its scans ask for.
    async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> Vec<Asked> {
        let readers = Arc::new(RecordingReaders { files: self.files.clone(), asked: Arc::default() });
        let recorded = plan.transform_up(|node| {
            let Some(scan) = plan::file_scan(&node) else { return Ok(Transformed::no(node)) };
            let source = scan.file_source().downcast_ref::<ParquetSource>().expect("Parquet").clone();
            let source = source.with_parquet_file_reader_factory(Arc::clone(&readers) as _);
            let scan = FileScanConfigBuilder::from(scan.clone())
                .with_source(Arc::new(source))
                .with_expr_adapter(Some(Arc::new(NameMatching)))
                .build();
            Ok(Transformed::yes(DataSourceExec::from_data_source(scan) as Arc<dyn ExecutionPlan>))
        });
        collect(recorded.data().expect("a plan"), self.context.task_ctx()).await.expect("rows");
        std::mem::take(&mut *readers.asked.lock().expect("no holder panics"))
    }
}

/// Range that a reader was asked for, or that was predicted.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    path: Path,
    range: Range<u64>,
}

fn bytes(asked: &[Asked]) -> u64 {
    asked.iter().map(|asked| asked.range.end - asked.range.start).sum()
}

#[derive(Debug)]
struct RecordingReaders {
    files: HashMap<Path, Bytes>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

struct RecordingReader {
    path: Path,
    bytes: Bytes,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl ParquetFileReaderFactory for RecordingReaders {
    fn create_reader(
        &self,
        _partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let path = file.object_meta.location;
        Ok(Box::new(RecordingReader { bytes: self.files[&path].clone(), path, asked: Arc::clone(&self.asked) }))
    }
}

impl AsyncFileReader for RecordingReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let bytes = self.bytes.slice(range.start as usize..range.end as usize);
        self.asked.lock().expect("no holder panics").push(Asked { path: self.path.clone(), range });
        async move { Ok(bytes) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
            Ok(Arc::new(reader.parse_and_finish(&self.bytes)?))
        }
        .boxed()
    }
}

/// Settings under which the statements are run.
#[derive(Debug, Clone, Copy)]
struct Settings {
    partitions: usize,
    pushdown: bool,
    page_index: bool,
}

impl Settings {
    fn config(self) -> SessionConfig {
        let mut config = SessionConfig::new().with_target_partitions(self.partitions);
        // Files are cut into ranges where there are more partitions than files.
        config.options_mut().optimizer.repartition_file_min_size = 1;
        config.options_mut().execution.parquet.pushdown_filters = self.pushdown;
        config.options_mut().execution.parquet.enable_page_index = self.page_index;
        // No file has such times, so that it changes nothing.
        config.options_mut().execution.parquet.coerce_int96 = self.page_index.then(|| "us".to_owned());
        config
    }
}

#[tokio::test]
async fn what_is_predicted_is_what_is_read() {
    // The second value is the most that may be predicted, in times what is read. Whole chunks are predicted where most of
    // their pages are read.
    const ANY: f64 = f64::INFINITY;
    const PAGES: f64 = 4.0 / 3.0;
    let statements = [
        ("SELECT k FROM t", 1.0),
        ("SELECT * FROM t", 1.0),
        ("SELECT v + 1, k FROM t", 1.0),
        ("SELECT c, k FROM t", 1.0),
        ("SELECT v FROM t WHERE k > 600", PAGES),
        ("SELECT v FROM t WHERE k BETWEEN 310 AND 320", PAGES),
        ("SELECT v FROM t WHERE k BETWEEN 310 AND 320 AND t = 'a'", PAGES),
        ("SELECT t FROM t WHERE t = 'b'", PAGES),
        ("SELECT v FROM t WHERE c = 7 AND k < 100", PAGES),
        ("SELECT v FROM t WHERE v IS NULL AND k < 1500", PAGES),
        ("SELECT s FROM t", 1.0),
        ("SELECT s['x'] FROM t", 1.0),
        ("SELECT s['x'] + k FROM t WHERE s['y'] = 'b'", 1.0),
        ("SELECT s['x'], s FROM t", 1.0),
        ("SELECT l[1], k FROM t", 1.0),
        ("SELECT p, k FROM h WHERE p = 1 AND k > 3", PAGES),
        ("SELECT t, sum(v) FROM t GROUP BY t", 1.0),
        ("SELECT v FROM t LIMIT 5", ANY),
        ("SELECT v FROM t WHERE k > 10 LIMIT 5", ANY),
        ("SELECT a.k FROM t a JOIN h b ON a.k = b.k + 5 WHERE b.v > 3", ANY),
    ];
    for settings in [
        Settings { partitions: 1, pushdown: false, page_index: true },
        Settings { partitions: 1, pushdown: false, page_index: false },
        Settings { partitions: 5, pushdown: false, page_index: true },
        Settings { partitions: 2, pushdown: true, page_index: true },
        Settings { partitions: 3, pushdown: true, page_index: false },
    ] {
        let tables = tables(settings.config()).await;
        for (sql, most) in statements {
            let plan = tables.plan(sql).await;
            let predicted = tables.predict(&plan);
            let asked = tables.run(plan).await;
            assert!(!asked.is_empty(), "{sql} reads nothing with {settings:?}");
            for asked in &asked {
                let holds = |p: &Asked| p.range.start <= asked.range.start && asked.range.end <= p.range.end;
                let is_predicted = predicted.iter().any(|p| p.path == asked.path && holds(p));
                assert!(is_predicted, "{sql} with {settings:?}: {asked:?} is not in {predicted:?}");
            }
            let filters_rows = settings.pushdown && sql.contains("WHERE");
            let most = if filters_rows { ANY } else { most };
            let (predicted, asked) = (bytes(&predicted), bytes(&asked));
            assert!(predicted as f64 <= asked as f64 * most, "{sql} with {settings:?}: {predicted}, {asked} are read");
        }
    }
}

#[tokio::test]
async fn a_limit_reads_the_first_pages() {
    let tables = tables(SessionConfig::new().with_target_partitions(1)).await;
    let plan = tables.plan("SELECT k FROM t LIMIT 5").await;
    let first = tables.predict(&plan).remove(0);
    let spec = tables.spec(&plan::scans(&plan)[0]);
    let layout = tables.layout(&spec, &mut Schemas::new(&spec), 0);
    assert_eq!(layout.units.iter().map(|unit| (unit.row_group, unit.rows)).collect::<Vec<_>>(), [(0, 5)]);
    assert_eq!(tables.run(plan).await, [first]);
}

#[tokio::test]
async fn sorted_row_groups_are_not_predicted() {
    let tables = tables(SessionConfig::new()).await;
    let spec = tables.scan("SELECT k FROM t ORDER BY v DESC LIMIT 3").await;
    assert!(spec.is_reordered, "DataFusion tells it in other words");
    let file = &spec.files[0];
    let footer = tables.footer(&file.object_meta.location);
    assert!(layout(&spec, &mut Schemas::new(&spec), file, &footer).is_err());
    assert!(!tables.scan("SELECT k FROM t WHERE t = 'sort_order'").await.is_reordered);
}

#[tokio::test]
async fn a_struct_that_is_cast_is_left_to_readers() {
    let tables = tables(SessionConfig::new().with_target_partitions(1)).await;
    let narrow = Field::new("x", DataType::Int32, true);
    let fields = vec![Field::new("k", DataType::Int64, true), Field::new_struct("s", vec![narrow], true)];
    let schema = Schema::new(fields);
    let options = ParquetReadOptions::default().schema(&schema);
    tables.context.register_parquet("n", "memory://tables/h/p=1/", options).await.expect("a table");
    let columns = |spec: &ScanSpec| {
        let layout = tables.layout(spec, &mut Schemas::new(spec), 0);
        layout.units[0].ranges.len()
    };
    assert_eq!(columns(&tables.scan("SELECT k, s FROM n").await), 1);
    assert_eq!(columns(&tables.scan("SELECT k, s FROM t").await), 3);
}

#[tokio::test]
async fn filters_that_change_prune_again() {
    let tables = tables(SessionConfig::new().with_target_partitions(1)).await;
    let mut spec = tables.scan("SELECT k FROM t").await;
    let k = col("k", spec.table.table_schema()).expect("a column");
    let above = |value: Arc<dyn PhysicalExpr>| {
        Arc::new(BinaryExpr::new(Arc::clone(&k), Operator::Gt, value)) as Arc<dyn PhysicalExpr>
    };

    let filter = Arc::new(DynamicFilterPhysicalExpr::new(vec![Arc::clone(&k)], lit(true)));
    spec.predicate = Some(Arc::clone(&filter) as _);
    let mut known = Schemas::new(&spec);
    assert_eq!(tables.layout(&spec, &mut known, 0).units.len(), 4);
    assert!(!known.filters_changed(&spec));
    filter.update(above(lit(600_i64))).expect("a filter");
    assert!(known.filters_changed(&spec));
    assert_eq!(tables.layout(&spec, &mut known, 0).units.len(), 2);
    assert!(!known.filters_changed(&spec));
    // Complete without another value.
    filter.mark_complete();
    assert!(known.filters_changed(&spec));
    assert!(!known.filters_changed(&spec));
    assert_eq!(tables.layout(&spec, &mut known, 0).units.len(), 2);

    let values = ScalarSubqueryResults::new(1);
    let subquery = ScalarSubqueryExpr::new(DataType::Int64, true, SubqueryIndex::new(0), values.clone());
    spec.predicate = Some(above(Arc::new(subquery)));
    let mut known = Schemas::new(&spec);
    assert_eq!(tables.layout(&spec, &mut known, 0).units.len(), 4);
    assert!(!known.filters_changed(&spec));
    values.set(SubqueryIndex::new(0), ScalarValue::from(600_i64)).expect("a value");
    assert!(known.filters_changed(&spec));
    assert_eq!(tables.layout(&spec, &mut known, 0).units.len(), 2);
}

#[tokio::test]
async fn the_opener_prunes_where_a_table_knows_more_than_its_file() {
    let tables = tables(SessionConfig::new().with_target_partitions(1)).await;
    let mut spec = tables.scan("SELECT v FROM t WHERE k > 600").await;
    spec.options.enable_page_index = false;
    let is_pruned = |spec: &ScanSpec| tables.layout(spec, &mut Schemas::new(spec), 0).pruned.is_some();
    assert!(spec.files[0].has_statistics() && is_pruned(&spec));
    // Footers that lost their statistics.
    let file = &spec.files[0];
    let mut builder = tables.footer(&file.object_meta.location).as_ref().clone().into_builder();
    let bare = |group: RowGroupMetaData| {
        let columns = group.columns().iter().map(|column| column.clone().into_builder().clear_statistics().build());
        let columns = columns.collect::<Result<Vec<_>, _>>().expect("columns");
        group.into_builder().set_column_metadata(columns).build().expect("a row group")
    };
    let groups = builder.take_row_groups().into_iter().map(bare).collect();
    let footer = Arc::new(builder.set_row_groups(groups).build());
    let of_bare = |spec: &ScanSpec| layout(spec, &mut Schemas::new(spec), &spec.files[0], &footer).expect("a layout");
    assert_eq!((of_bare(&spec).units.len(), of_bare(&spec).pruned), (4, None));
    spec.files[0].statistics = None;
    assert!(of_bare(&spec).pruned.is_some());
}

#[tokio::test]
async fn a_file_has_one_number() {
    let tables = tables(SessionConfig::new().with_target_partitions(1)).await;
    let scan = plan::scans(&tables.plan("SELECT k FROM t").await).remove(0);
    let twice = [scan.file_groups.clone(), scan.file_groups.clone()].concat();
    let scan = FileScanConfigBuilder::from(scan).with_file_groups(twice).build();
    let spec = tables.spec(&scan);
    assert_eq!((spec.files.len(), spec.lanes.streams()), (2, 2));
    for (number, file) in spec.files.iter().enumerate() {
        assert_eq!(spec.number(file), Some(number as u32));
        assert_eq!(spec.number(&file.clone().with_range(0, 10)), None);
    }
}

#[test]
fn columns_of_other_names_are_predicted_by_their_ids() {
    let field = |id: i32, name: &str| {
        let id = [(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into();
        Field::new(name, DataType::Int64, true).with_metadata(id)
    };
    let written = Arc::new(Schema::new(vec![field(1, "a"), field(2, "b"), field(3, "c")]));
    let column = |step: i64| Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| row * step))) as ArrayRef;
    let bytes = file(&RecordBatch::try_new(written, (1..4).map(column).collect()).expect("rows"));
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
    let footer = Arc::new(reader.parse_and_finish(&bytes).expect("a footer"));
    // `a` is called `x` now, `b` was dropped and `c` has its name, and `n` is new.
    let table = Arc::new(Schema::new(vec![field(1, "x"), field(3, "b"), field(4, "n")]));
    let x = || col("x", &table).expect("a column");
    let from_the_middle: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(x(), Operator::GtEq, lit(ROWS / 2)));
    for (projected, predicate, groups, leaves) in [
        (vec![0, 1, 2], None, 0..4, vec![0, 2]),
        (vec![1], Some(Arc::clone(&from_the_middle)), 2..4, vec![2]),
        (vec![0, 2], Some(from_the_middle), 2..4, vec![0]),
    ] {
        let source = ParquetSource::new(Arc::clone(&table));
        let source = match predicate {
            Some(predicate) => source.with_predicate(predicate),
            None => source,
        };
        let url = ObjectStoreUrl::parse("memory://tables").expect("a URL");
        let scan = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_projection_indices(Some(projected.clone()))
            .expect("columns of the table")
            .with_file(PartitionedFile::new("t/a.parquet", bytes.len() as u64))
            .build();
        let adapter = Arc::new(FieldIdMatching::default());
        let spec = ScanSpec::of(&scan, adapter, Vec::new(), &ConfigOptions::default()).expect("a scan of Parquet");
        let found = layout(&spec, &mut Schemas::new(&spec), &spec.files[0], &footer).expect("a layout");
        let chunk = |group: usize, leaf: usize| {
            let (start, bytes) = footer.row_group(group).column(leaf).byte_range();
            start..start + bytes
        };
        let of_group = |group: usize| (group, leaves.iter().map(|leaf| chunk(group, *leaf)).collect());
        let expect: Vec<(usize, Vec<Range<u64>>)> = groups.map(of_group).collect();
        let found: Vec<_> = found.units.into_iter().map(|unit| (unit.row_group, unit.ranges)).collect();
        assert_eq!(found, expect, "{projected:?}");
    }
}

#[test]
fn keys_of_late_columns_are_read_by_whole_batches() {
    type Pairs<'a> = &'a [(usize, usize)];
    let cases: [(Pairs<'_>, usize, Pairs<'_>); 5] = [
        (&[(0, 1)], 100, &[(0, 10)]),
        (&[(9, 11), (12, 13)], 100, &[(0, 20)]),
        (&[(5, 6), (35, 36), (41, 42)], 44, &[(0, 10), (30, 44)]),
        (&[(20, 30)], 100, &[(20, 30)]),
        (&[], 100, &[]),
    ];
    for (selected, rows, expect) in cases {
        let selection = |ranges: Pairs<'_>| {
            RowSelection::from_consecutive_ranges(ranges.iter().map(|(start, end)| *start..*end), rows)
        };
        assert_eq!(in_whole_batches(&selection(selected), rows, 10), selection(expect), "{selected:?}");
    }
}
