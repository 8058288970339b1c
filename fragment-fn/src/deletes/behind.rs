//! Columns behind those that a scan asks for, by which deleted rows are dropped once they are decoded: keys, and the rows' numbers.
//!
//! Numbers are the Parquet reader's virtual column. They are right because [`crate::ScanReader`] serves the footers of files with
//! deleted positions with their row groups in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{Result, internal_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileScanConfig, FileSource, ParquetSource};
use datafusion::datasource::table_schema::{TableSchema, TableSchemaBuilder};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::{ProjectionExpr, ProjectionExprs};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::PhysicalExpr;
use datafusion_datasource::morsel::{MorselPlanner, Morselizer};
use object_store::ObjectStore;
use parquet::arrow::RowNumber;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::equality::KeyColumn;
use crate::columns::{FileConstants, noted};
use crate::fault::mismatch_err;

/// Name of the rows' numbers, which no column of a table has.
const NUMBER: &str = "\u{0}row";

/// Kinds of columns behind those that a scan asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Behind {
    pub(super) keys: bool,
    pub(super) number: bool,
}

/// Source whose batches have columns behind those that the scan asks for.
#[derive(Clone)]
pub(super) struct Widened {
    source: Arc<dyn FileSource>,
    places: Arc<Places>,
}

/// Columns of a widened batch.
#[derive(Debug)]
pub(super) struct Places {
    /// Positions of the key columns, by their field ids.
    pub(super) keys: BTreeMap<i32, usize>,
    /// Position of the rows' numbers.
    pub(super) number: Option<usize>,
    /// Columns before them.
    pub(super) outputs: usize,
}

/// Files of a widened source.
pub(super) struct WidenedFiles {
    files: Arc<dyn Morselizer>,
    /// Numbering of files that may lack columns of their partition. None where rows are not numbered.
    numbering: Option<Numbering>,
    pub(super) places: Arc<Places>,
}

/// Source of numbered rows, opened anew for a file that has values of its own.
struct Numbering {
    source: Arc<dyn FileSource>,
    store: Arc<dyn ObjectStore>,
    /// Scan without its files.
    scan: FileScanConfig,
    adapters: Option<Arc<dyn PhysicalExprAdapterFactory>>,
    partition: usize,
}

impl Widened {
    /// Widens a source by the keys `ids` and by the rows' numbers.
    ///
    /// # Errors
    /// Keys that the table's columns do not have.
    pub(super) fn new(plain: &ParquetSource, ids: &BTreeSet<i32>, has_number: bool) -> Result<Self> {
        let (mut projection, mut places) = with_keys(plain, ids)?;
        let mut table = plain.table_schema().clone();
        if has_number {
            let number = Arc::new(Column::new(NUMBER, table.table_schema().fields().len()));
            table = numbered(&table);
            places.number = Some(projection.len());
            projection.push(ProjectionExpr::new(number, NUMBER));
        }
        let mut source = ParquetSource::new(table).with_table_parquet_options(plain.table_parquet_options().clone());
        if let Some(reader) = plain.parquet_file_reader_factory() {
            source = source.with_parquet_file_reader_factory(Arc::clone(reader));
        }
        if let Some(predicate) = plain.filter() {
            source = source.with_predicate(predicate);
        }
        let source = source.try_pushdown_projection(&ProjectionExprs::new(projection))?;
        let Some(source) = source else { return internal_err!("a scan does not take its keys") };
        Ok(Self { source, places: Arc::new(places) })
    }

    pub(super) fn with_batch_size(&self, batch_size: usize) -> Self {
        Self { source: self.source.with_batch_size(batch_size), places: Arc::clone(&self.places) }
    }

    /// Opens the source. It knows no limit, because rows are dropped after it.
    pub(super) fn files(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<WidenedFiles> {
        let (mut scan, places) = (scan.clone(), Arc::clone(&self.places));
        scan.limit = None;
        if places.number.is_none() {
            let files = self.source.create_morselizer(store, &scan, partition)?.into();
            return Ok(WidenedFiles { files, numbering: None, places });
        }
        scan.file_groups = Vec::new();
        let (source, adapters) = (Arc::clone(&self.source), scan.expr_adapter_factory.take());
        let numbering = Numbering { source, store, scan, adapters, partition };
        Ok(WidenedFiles { files: numbering.files(None)?, numbering: Some(numbering), places })
    }
}

impl WidenedFiles {
    /// Plans a file. The values that its partition has reach its adapters, whether its rows are numbered or not.
    pub(super) fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        match (&self.numbering, file.extensions.get_arc::<FileConstants>()) {
            (Some(numbering), Some(constants)) => numbering.files(Some(constants))?.plan_file(file),
            _ => self.files.plan_file(file),
        }
    }
}

impl Numbering {
    fn files(&self, constants: Option<Arc<FileConstants>>) -> Result<Arc<dyn Morselizer>> {
        let (mut scan, adapters) = (self.scan.clone(), self.adapters.clone());
        scan.expr_adapter_factory = adapters.map(|inner| Arc::new(PassingNumbers { inner, constants }) as _);
        Ok(self.source.create_morselizer(Arc::clone(&self.store), &scan, self.partition)?.into())
    }
}

impl Debug for WidenedFiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WidenedFiles").field("files", &self.files).field("places", &self.places).finish_non_exhaustive()
    }
}

/// Puts the key columns behind the projection of a scan.
pub(super) fn with_keys(plain: &ParquetSource, ids: &BTreeSet<i32>) -> Result<(Vec<ProjectionExpr>, Places)> {
    let columns = plain.table_schema().table_schema();
    let mut projection: Vec<ProjectionExpr> =
        plain.projection().into_iter().flat_map(ProjectionExprs::iter).cloned().collect();
    let outputs = projection.len();
    let mut keys = BTreeMap::new();
    for id in ids {
        keys.insert(*id, projection.len());
        let key = KeyColumn::of(columns, *id)?.expr(columns)?;
        projection.push(ProjectionExpr::new(key, format!("\u{0}key {id}")));
    }
    Ok((projection, Places { keys, number: None, outputs }))
}

/// Puts the rows' numbers behind the columns of a table.
fn numbered(table: &TableSchema) -> TableSchema {
    let number = Field::new(NUMBER, DataType::Int64, false).with_extension_type(RowNumber);
    TableSchemaBuilder::new(Arc::clone(table.file_schema()))
        .with_table_partition_cols(table.table_partition_cols().clone())
        .with_virtual_columns(vec![Arc::new(number) as FieldRef])
        .build()
}

/// Numbers row groups by their order, by which the Parquet reader numbers rows. A file may number them otherwise.
///
/// # Errors
/// The builder's.
pub(crate) fn with_ordinals(footer: Arc<ParquetMetaData>) -> Result<Arc<ParquetMetaData>, ParquetError> {
    let ordinal = |place: usize| i16::try_from(place).ok();
    let mut groups = footer.row_groups().iter().enumerate();
    if groups.all(|(place, group)| group.ordinal() == ordinal(place)) {
        return Ok(footer);
    }
    let mut builder = footer.as_ref().clone().into_builder();
    let groups = builder.take_row_groups().into_iter().zip(0..);
    let groups = groups.map(|(group, ordinal)| group.into_builder().set_ordinal(ordinal).build());
    Ok(Arc::new(builder.set_row_groups(groups.collect::<Result<_, _>>()?).build()))
}

/// Makes adapters that leave the rows' numbers as they are, around those of another factory.
///
/// DataFusion's opener (55.2, `append_fields`) hands over a schema with row numbers without its notes, in which the values of columns
/// travel that the file lacks. So they are noted again.
#[derive(Debug)]
struct PassingNumbers {
    inner: Arc<dyn PhysicalExprAdapterFactory>,
    /// Values that the file's partition has.
    constants: Option<Arc<FileConstants>>,
}

impl PhysicalExprAdapterFactory for PassingNumbers {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let ((logical, planned), (physical, number)) = (without_number(&logical)?, without_number(&physical)?);
        if physical.index_of(NUMBER).is_ok() {
            return mismatch_err!("a column of the file has the name of its rows' numbers");
        }
        let physical = match &self.constants {
            Some(constants) => noted(physical, constants),
            None => physical,
        };
        Ok(Arc::new(PassingNumber { inner: self.inner.create(logical, physical)?, planned, number }))
    }
}

/// Takes the rows' numbers from the end of a schema, and returns their position there.
fn without_number(schema: &Schema) -> Result<(SchemaRef, usize)> {
    match schema.fields().split_last() {
        Some((number, fields)) if number.has_valid_extension_type::<RowNumber>() => {
            let columns = Schema::new_with_metadata(fields.to_vec(), schema.metadata().clone());
            Ok((Arc::new(columns), fields.len()))
        }
        _ => internal_err!("a scan of numbered rows has no numbers"),
    }
}

#[derive(Debug)]
struct PassingNumber {
    inner: Arc<dyn PhysicalExprAdapter>,
    /// Position of the rows' numbers behind the columns of the table.
    planned: usize,
    /// Position of the rows' numbers behind the columns of the file.
    number: usize,
}

impl PhysicalExprAdapter for PassingNumber {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let column = expr.downcast_ref::<Column>();
        match column.is_some_and(|column| column.name() == NUMBER && column.index() == self.planned) {
            true => Ok(Arc::new(Column::new(NUMBER, self.number))),
            false => self.inner.rewrite(expr),
        }
    }
}
