//! Meaning of a scan's expressions in one file.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, not_impl_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{PagePruningAccessPlanFilter, apply_file_schema_type_coercions};
use datafusion::physical_expr::PhysicalExprSimplifier;
use datafusion::physical_expr::expressions::{DynamicFilterTracker, DynamicFilterTracking};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr_adapter::replace_columns_with_literals;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use datafusion::physical_plan::PhysicalExpr;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Type;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::schema::types::SchemaDescPtr;

use super::super::spec::{ScanSpec, is_keyed, is_pending, pending_subqueries};
use super::columns::leaves;
use crate::late;

/// Memory of a scan: the meaning of its last file, and changes of its dynamic filters.
#[derive(Debug)]
pub(in super::super) struct Schemas {
    last: Option<(FileShape, FileMeaning)>,
    filters: DynamicFilterTracking,
    /// Scalar subqueries of the predicate without a value.
    pending: Vec<Arc<dyn PhysicalExpr>>,
    /// Predicate that prunes more than the planned one, as long as no filter changes.
    predicate: Option<Arc<dyn PhysicalExpr>>,
}

/// Facts about a file on which a meaning depends.
#[derive(Debug, PartialEq)]
struct FileShape {
    schema: SchemaDescPtr,
    /// Entries of the footer, which may hold an Arrow schema, or constants of absent columns.
    notes: Option<Vec<KeyValue>>,
    arrow: Option<SchemaRef>,
    literals: HashMap<String, ScalarValue>,
    /// Keys of deleted rows apply to it.
    is_keyed: bool,
}

#[derive(Debug)]
pub(super) struct FileMeaning {
    /// Schema that the decoder gives.
    pub(super) physical: SchemaRef,
    /// Leaves that are read.
    pub(super) leaves: Vec<usize>,
    /// Those of them by which rows of the others may be left out.
    pub(super) late_keys: Vec<usize>,
    pub(super) pruning: Option<Arc<PruningPredicate>>,
    pub(super) page_pruning: Option<PagePruningAccessPlanFilter>,
}

impl Schemas {
    pub(in super::super) fn new(spec: &ScanSpec) -> Self {
        let filters = match &spec.predicate {
            Some(predicate) => DynamicFilterTracking::classify(predicate),
            None => DynamicFilterTracking::Static,
        };
        Self { last: None, filters, pending: pending_subqueries(spec.predicate.as_ref()), predicate: None }
    }

    /// Returns true if a dynamic filter has changed since the last call. Layouts made before it may have too many units.
    pub(in super::super) fn filters_changed(&mut self) -> bool {
        let mut changed = self.filters.watcher().is_some_and(DynamicFilterTracker::changed);
        self.pending.retain(|subquery| {
            let is_pending = is_pending(subquery);
            changed |= !is_pending;
            is_pending
        });
        if changed {
            (self.last, self.predicate) = (None, None);
        }
        changed
    }

    /// Returns the meaning of a file. Files of one shape, one after the other, share it.
    pub(super) fn of(
        &mut self,
        spec: &ScanSpec,
        file: &PartitionedFile,
        footer: &Arc<ParquetMetaData>,
    ) -> Result<&FileMeaning> {
        let shape = FileShape {
            schema: footer.file_metadata().schema_descr_ptr(),
            notes: footer.file_metadata().key_value_metadata().cloned(),
            arrow: file.arrow_schema.clone(),
            literals: literals(spec, file),
            is_keyed: is_keyed(file),
        };
        let last = match self.last.take() {
            Some(last) if last.0 == shape => last,
            _ => {
                let planned = spec.predicate.as_ref();
                if !spec.late_keys.is_empty() && self.predicate.is_none() {
                    self.predicate = planned.and_then(|planned| late::pruned_by(planned, &spec.table));
                }
                let meaning = FileMeaning::new(spec, self.predicate.as_ref().or(planned).cloned(), &shape, footer)?;
                (shape, meaning)
            }
        };
        Ok(&self.last.insert(last).1)
    }
}

impl FileMeaning {
    fn new(
        spec: &ScanSpec,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        shape: &FileShape,
        footer: &Arc<ParquetMetaData>,
    ) -> Result<Self> {
        let logical = spec.table.file_schema();
        let mut columns = shape.schema.columns().iter();
        if spec.options.coerce_int96.is_some() && columns.any(|column| column.physical_type() == Type::INT96) {
            // The opener gives them another type than the reader does.
            return not_impl_err!("files with times of 96 bits are not predicted");
        }
        let physical = physical(logical, shape, footer)?;
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
        Ok(Self { physical, leaves, late_keys, pruning, page_pruning })
    }
}

fn expressions(projection: &ProjectionExprs) -> Vec<Arc<dyn PhysicalExpr>> {
    projection.iter().map(|projected| Arc::clone(&projected.expr)).collect()
}

/// Returns the schema that the decoder gives for a file.
fn physical(logical: &Schema, shape: &FileShape, footer: &Arc<ParquetMetaData>) -> Result<SchemaRef> {
    let options = match &shape.arrow {
        Some(schema) => ArrowReaderOptions::new().with_schema(Arc::clone(schema)),
        None => ArrowReaderOptions::new(),
    };
    let own = Arc::clone(ArrowReaderMetadata::try_new(Arc::clone(footer), options)?.schema());
    Ok(apply_file_schema_type_coercions(logical, &own).map_or(own, Arc::new))
}

/// Returns the columns of which all rows of the file have one value: those of its partition, and by its statistics.
fn literals(spec: &ScanSpec, file: &PartitionedFile) -> HashMap<String, ScalarValue> {
    let partition = spec.table.table_partition_cols().iter().zip(&file.partition_values);
    let mut literals: HashMap<_, _> = partition.map(|(field, value)| (field.name().clone(), value.clone())).collect();
    let Some(statistics) = &file.statistics else { return literals };
    let rows = match statistics.num_rows {
        Precision::Exact(rows) => Some(rows),
        _ => None,
    };
    for (field, column) in spec.table.file_schema().fields().iter().zip(&statistics.column_statistics) {
        if let Some(value) = constant(column, rows, field.data_type()) {
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
