//! Meaning of a scan's expressions in one file.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, not_impl_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    PagePruningAccessPlanFilter, ParquetFileMetrics, apply_file_schema_type_coercions,
};
use datafusion::physical_expr::PhysicalExprSimplifier;
use datafusion::physical_expr::expressions::{Column, DynamicFilterTracker, DynamicFilterTracking};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr_adapter::replace_columns_with_literals;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Type;
use parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData, RowGroupMetaData};
use parquet::schema::types::SchemaDescPtr;

use super::super::spec::{ScanSpec, is_keyed, is_pending, pending_subqueries};
use super::columns::leaves;
use crate::late;

/// Shapes of files that a scan remembers, at most: those of the writers and partition folders that follow one another.
const SHAPES_MAX: usize = 8;

/// Memory of a scan: the meaning of its last files, and changes of its dynamic filters.
#[derive(Debug)]
pub(in super::super) struct Schemas {
    known: VecDeque<(FileShape, FileMeaning)>,
    /// Columns that the scan's expressions name.
    used: BTreeSet<String>,
    filters: DynamicFilterTracking,
    has_dynamic: bool,
    /// Scalar subqueries of the predicate without a value.
    pending: Vec<Arc<dyn PhysicalExpr>>,
    /// Predicate that prunes more than the planned one, as long as no filter changes.
    predicate: Option<Arc<dyn PhysicalExpr>>,
    metrics: Arc<ParquetFileMetrics>,
}

/// Facts about a file on which a meaning depends.
#[derive(Debug)]
struct FileShape {
    schema: SchemaDescPtr,
    /// Entries of the footer, which may hold an Arrow schema, or constants of absent columns.
    notes: Option<Vec<KeyValue>>,
    arrow: Option<SchemaRef>,
    /// Values of those of its columns that the scan uses and that have one.
    literals: HashMap<String, ScalarValue>,
    /// Keys of deleted rows apply to it.
    is_keyed: bool,
}

impl FileShape {
    fn is_of(&self, file: &PartitionedFile, facts: &FileMetaData, literals: &HashMap<String, ScalarValue>) -> bool {
        self.is_keyed == is_keyed(file)
            && self.arrow == file.arrow_schema
            && self.literals == *literals
            && self.notes.as_ref() == facts.key_value_metadata()
            && *self.schema == *facts.schema_descr()
    }
}

#[derive(Debug)]
pub(super) struct FileMeaning {
    /// Schema that the decoder gives.
    pub(super) physical: SchemaRef,
    /// The same, where the file's own is another.
    pub(super) coerced: Option<SchemaRef>,
    /// Leaves that are read.
    pub(super) leaves: Vec<usize>,
    /// Those of them by which rows of the others may be left out.
    pub(super) late_keys: Vec<usize>,
    pub(super) pruning: Option<Arc<PruningPredicate>>,
    pub(super) page_pruning: Option<PagePruningAccessPlanFilter>,
    /// Leaves that the predicate names. None where the file has them by another name or type than the table.
    compared: Option<Vec<usize>>,
    /// Metrics of pruning, which nobody reads.
    pub(super) metrics: Arc<ParquetFileMetrics>,
}

impl Schemas {
    pub(in super::super) fn new(spec: &ScanSpec) -> Self {
        let filters = match &spec.predicate {
            Some(predicate) => DynamicFilterTracking::classify(predicate),
            None => DynamicFilterTracking::Static,
        };
        let has_dynamic = filters.contains_dynamic_filter();
        let metrics = Arc::new(ParquetFileMetrics::new(0, "", &ExecutionPlanMetricsSet::new()));
        let pending = pending_subqueries(spec.predicate.as_ref());
        Self { known: VecDeque::new(), used: used(spec), filters, has_dynamic, pending, predicate: None, metrics }
    }

    /// Returns true if a dynamic filter has changed since the last call. Layouts made before it may have too many units.
    pub(in super::super) fn filters_changed(&mut self, spec: &ScanSpec) -> bool {
        let mut changed = self.filters.watcher().is_some_and(DynamicFilterTracker::changed);
        self.pending.retain(|subquery| {
            let is_pending = is_pending(subquery);
            changed |= !is_pending;
            is_pending
        });
        if changed {
            self.known.clear();
            self.predicate = None;
        } else if self.predicate.is_none() {
            // A filter may become complete without another value, and then prunes more.
            self.predicate = self.settled(spec);
            if self.predicate.is_some() {
                self.known.clear();
                changed = true;
            }
        }
        changed
    }

    /// Returns the predicate that prunes more than the planned one.
    fn settled(&self, spec: &ScanSpec) -> Option<Arc<dyn PhysicalExpr>> {
        let planned = spec.predicate.as_ref().filter(|_| self.has_dynamic)?;
        late::pruned_by(planned, &spec.table)
    }

    /// Returns the meaning of a file. Files of one shape share it.
    pub(super) fn of(
        &mut self,
        spec: &ScanSpec,
        file: &PartitionedFile,
        footer: &Arc<ParquetMetaData>,
    ) -> Result<&FileMeaning> {
        let (facts, literals) = (footer.file_metadata(), literals(spec, file, &self.used));
        let place = match self.known.iter().position(|(shape, _)| shape.is_of(file, facts, &literals)) {
            Some(place) => place,
            None => {
                let shape = FileShape {
                    schema: facts.schema_descr_ptr(),
                    notes: facts.key_value_metadata().cloned(),
                    arrow: file.arrow_schema.clone(),
                    literals,
                    is_keyed: is_keyed(file),
                };
                let planned = spec.predicate.as_ref();
                if self.predicate.is_none() {
                    self.predicate = self.settled(spec);
                }
                let predicate = self.predicate.as_ref().or(planned).cloned();
                let meaning = FileMeaning::new(spec, predicate, &shape, footer, Arc::clone(&self.metrics))?;
                if self.known.len() >= SHAPES_MAX {
                    self.known.pop_front();
                }
                self.known.push_back((shape, meaning));
                self.known.len() - 1
            }
        };
        Ok(&self.known[place].1)
    }
}

/// Lists the columns that a scan's expressions name.
fn used(spec: &ScanSpec) -> BTreeSet<String> {
    let projected = [false, true].into_iter().flat_map(|is_keyed| expressions(spec.projection(is_keyed)));
    let all = projected.chain(spec.predicate.clone()).chain(spec.late_keys.iter().cloned());
    all.flat_map(|expr| collect_columns(&expr)).map(|column| column.name().to_owned()).collect()
}

impl FileMeaning {
    fn new(
        spec: &ScanSpec,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        shape: &FileShape,
        footer: &Arc<ParquetMetaData>,
        metrics: Arc<ParquetFileMetrics>,
    ) -> Result<Self> {
        let logical = spec.table.file_schema();
        let mut columns = shape.schema.columns().iter();
        if spec.options.coerce_int96.is_some() && columns.any(|column| column.physical_type() == Type::INT96) {
            // The opener gives them another type than the reader does.
            return not_impl_err!("files with times of 96 bits are not predicted");
        }
        let own = decoded(shape, footer)?;
        let coerced = apply_file_schema_type_coercions(logical, &own).map(Arc::new);
        let physical = coerced.clone().unwrap_or(own);
        let literal = |expr: Arc<dyn PhysicalExpr>| match shape.literals.is_empty() {
            true => Ok(expr),
            false => replace_columns_with_literals(expr, &shape.literals),
        };
        let mut projection = spec.projection(shape.is_keyed).clone().try_map_exprs(literal)?;
        let mut predicate = predicate.map(literal).transpose()?;
        let mut late_keys = spec.late_keys.iter().cloned().map(literal).collect::<Result<Vec<_>>>()?;
        if predicate.is_some() || *logical != physical {
            let adapter = spec.adapter.create(Arc::clone(logical), Arc::clone(&physical))?;
            let simplifier = PhysicalExprSimplifier::new(&physical);
            let adapt = |expr: Arc<dyn PhysicalExpr>| simplifier.simplify(adapter.rewrite(expr)?);
            predicate = predicate.map(adapt).transpose()?;
            projection = projection.try_map_exprs(adapt)?;
            late_keys = late_keys.into_iter().map(adapt).collect::<Result<_>>()?;
        }
        let compared = predicate.as_ref().map_or(Some(Vec::new()), |predicate| {
            let is_same = |column: &Column| {
                let own = physical.fields().get(column.index()).map(|field| field.data_type());
                own.is_some() && own == logical.field_with_name(column.name()).ok().map(|field| field.data_type())
            };
            let columns = collect_columns(predicate);
            columns.iter().all(is_same).then(|| leaves(std::slice::from_ref(predicate), None, &physical, &shape.schema))
        });
        let row_filter = predicate.as_ref().filter(|_| spec.row_filter().is_some());
        let late_keys = leaves(&late_keys, None, &physical, &shape.schema);
        let leaves = leaves(&expressions(&projection), row_filter, &physical, &shape.schema);
        let pruning = predicate.as_ref().and_then(|predicate| {
            PruningPredicateBuilder::new()
                .with_file_schema(Arc::clone(&physical))
                .with_max_in_list_size(spec.options.max_in_list_size)
                .build(Arc::clone(predicate))
        });
        let page_pruning = predicate
            .filter(|_| spec.options.enable_page_index)
            .map(|predicate| PagePruningAccessPlanFilter::new(&predicate, Arc::clone(&physical)))
            .filter(|pages| pages.filter_number() > 0);
        Ok(Self { physical, coerced, leaves, late_keys, pruning, page_pruning, compared, metrics })
    }

    /// Returns true where the row groups have statistics of all columns that the predicate names.
    pub(super) fn knows_statistics(&self, footer: &ParquetMetaData) -> bool {
        let has = |group: &RowGroupMetaData, leaf: &usize| group.column(*leaf).statistics().is_some();
        let knows =
            |leaves: &Vec<usize>| footer.row_groups().iter().all(|group| leaves.iter().all(|leaf| has(group, leaf)));
        self.compared.as_ref().is_some_and(knows)
    }
}

fn expressions(projection: &ProjectionExprs) -> Vec<Arc<dyn PhysicalExpr>> {
    projection.iter().map(|projected| Arc::clone(&projected.expr)).collect()
}

/// Returns the schema that the decoder gives for a file by itself.
fn decoded(shape: &FileShape, footer: &Arc<ParquetMetaData>) -> Result<SchemaRef> {
    let options = match &shape.arrow {
        Some(schema) => ArrowReaderOptions::new().with_schema(Arc::clone(schema)),
        None => ArrowReaderOptions::new(),
    };
    Ok(Arc::clone(ArrowReaderMetadata::try_new(Arc::clone(footer), options)?.schema()))
}

/// Returns those of the `used` columns of which all rows of the file have one value: of its partition, and by its statistics.
fn literals(spec: &ScanSpec, file: &PartitionedFile, used: &BTreeSet<String>) -> HashMap<String, ScalarValue> {
    let partition = spec.table.table_partition_cols().iter().zip(&file.partition_values);
    let partition = partition.filter(|(field, _)| used.contains(field.name()));
    let mut literals: HashMap<_, _> = partition.map(|(field, value)| (field.name().clone(), value.clone())).collect();
    let Some(statistics) = &file.statistics else { return literals };
    let rows = match statistics.num_rows {
        Precision::Exact(rows) => Some(rows),
        _ => None,
    };
    for (field, column) in spec.table.file_schema().fields().iter().zip(&statistics.column_statistics) {
        if used.contains(field.name())
            && let Some(value) = constant(column, rows, field.data_type())
        {
            literals.insert(field.name().clone(), value);
        }
    }
    literals
}

/// Returns the value of all rows of a column, by the rule of `constant_value_from_stats` of the opener.
fn constant(column: &ColumnStatistics, rows: Option<usize>, of: &DataType) -> Option<ScalarValue> {
    if let (Precision::Exact(min), Precision::Exact(max)) = (&column.min_value, &column.max_value)
        && min == max
        && !min.is_null()
        && column.null_count == Precision::Exact(0)
    {
        return if min.data_type() == *of { Some(min.clone()) } else { min.cast_to(of).ok() };
    }
    match (rows, &column.null_count) {
        (Some(rows), Precision::Exact(nulls)) if *nulls == rows => ScalarValue::try_new_null(of).ok(),
        _ => None,
    }
}
