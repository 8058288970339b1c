//! Partition fields that the files of several scans share, by the keys that their rows meet by. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::{JoinType, Result, internal_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use gust_catalog::Transform;
use gust_protocol::plan::file_scan;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use crate::planner::graph::is_parquet;
use crate::tables::facts::{FileFacts, FilePartition, PartField, PartKey};

/// Rows that meet others by keys.
#[derive(Debug, Clone)]
pub(super) struct Side {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    /// Keys, which are equal to those of the other sides position by position.
    pub(super) keys: Vec<Arc<dyn PhysicalExpr>>,
}

/// Values of the fields that part a scan's files. Files of one key, in all scans, have all rows that can meet.
pub type GroupKey = Vec<Option<PartKey>>;

/// Column of a scan.
struct Origin<'a> {
    scan: &'a FileScanConfig,
    /// Iceberg's id of the column.
    field: i32,
}

/// Returns true if a plan is one scan whose files may be grouped anyhow, with operators above it that change no column in place and keep no order.
pub(super) fn is_one_scan(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(scan) = file_scan(plan) {
        return is_parquet(scan)
            && scan.limit.is_none()
            && scan.output_partitioning.is_none()
            && !scan.preserve_order
            && scan.output_ordering.is_empty();
    }
    below(plan).is_some_and(is_one_scan)
}

/// Returns the input of an operator that may stand over an aligned scan.
fn below(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    let is_grouped = |aggregate: &AggregateExec| {
        // A grouping set makes NULLs of keys.
        *aggregate.mode() == AggregateMode::Partial
            && aggregate.group_expr().is_single()
            && aggregate.limit_options().is_none()
    };
    let may_stand = plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<CooperativeExec>()
        || plan.downcast_ref::<AggregateExec>().is_some_and(is_grouped);
    match plan.children().as_slice() {
        [input] if may_stand && plan.fetch().is_none() => Some(input),
        _ => None,
    }
}

/// Returns the input of an operator through which columns can be followed to a scan.
pub(super) fn through(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    let is_final = |aggregate: &&AggregateExec| {
        *aggregate.mode() == AggregateMode::FinalPartitioned
            && aggregate.group_expr().is_single()
            && aggregate.limit_options().is_none()
    };
    below(plan).or_else(|| plan.downcast_ref::<AggregateExec>().filter(is_final).map(AggregateExec::input))
}

/// Returns the scan under a plan that is one.
pub(super) fn scan_of(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    match file_scan(plan) {
        Some(scan) => Some(scan),
        None => scan_of(below(plan)?),
    }
}

/// Finds the column of a scan that a key is, as it is or widened from `int` to `long`. Joins whose sides are parted by their keys are looked through.
fn origin<'a>(plan: &'a Arc<dyn ExecutionPlan>, key: &Arc<dyn PhysicalExpr>) -> Option<Origin<'a>> {
    let index = column(key, &plan.schema())?;
    if let Some(scan) = file_scan(plan) {
        let table = scan.file_source().table_schema().table_schema();
        let index = match scan.file_source().projection() {
            Some(projection) => column(&projection.iter().nth(index)?.expr, table)?,
            None => index,
        };
        let field = table.fields().get(index)?.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()?;
        return Some(Origin { scan, field });
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let (side, index) = side_of(join, index)?;
        return origin(side, &column_at(side, index)?);
    }
    let input = through(plan)?;
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        return origin(input, &projection.expr().get(index)?.expr);
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return origin(input, &aggregate.group_expr().expr().get(index)?.0);
    }
    let projection = plan.downcast_ref::<FilterExec>().and_then(|filter| filter.projection().as_ref());
    let index = match projection {
        Some(projection) => *projection.get(index)?,
        None => index,
    };
    origin(input, &column_at(input, index)?)
}

fn column_at(plan: &Arc<dyn ExecutionPlan>, index: usize) -> Option<Arc<dyn PhysicalExpr>> {
    Some(Arc::new(Column::new(plan.schema().fields().get(index)?.name(), index)))
}

/// Returns the position of the column that an expression is. A number keeps its bucket and its truncated value where it is widened.
fn column(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<usize> {
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let from = cast.expr().data_type(schema).ok()?;
        let is_widening = from == DataType::Int32 && *cast.cast_type() == DataType::Int64;
        return if is_widening { column(cast.expr(), schema) } else { None };
    }
    expr.downcast_ref::<Column>().map(Column::index)
}

/// Returns the side of a join that its column at `index` comes from, with the position there.
fn side_of(join: &HashJoinExec, index: usize) -> Option<(&Arc<dyn ExecutionPlan>, usize)> {
    if *join.partition_mode() != PartitionMode::Partitioned {
        return None;
    }
    let index = match &join.projection {
        Some(projection) => *projection.get(index)?,
        None => index,
    };
    let left = join.left().schema().fields().len();
    match join.join_type() {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full if index >= left => {
            Some((join.right(), index - left))
        }
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => Some((join.right(), index)),
        _ => Some((join.left(), index)),
    }
}

/// Lists the files of a scan, group by group.
pub(super) fn files(scan: &FileScanConfig) -> impl Iterator<Item = &PartitionedFile> {
    scan.file_groups.iter().flat_map(FileGroup::iter)
}

fn partition(file: &PartitionedFile) -> Option<&FilePartition> {
    file.extensions.get::<FileFacts>()?.parted.as_ref()
}

/// Lists the fields by which all files of a scan are parted, of whatever specs they are. None for a scan without files.
fn fields(scan: &FileScanConfig) -> Option<Vec<PartField>> {
    let (mut common, mut seen): (Option<Vec<PartField>>, _) = (None, BTreeSet::new());
    for file in files(scan) {
        let Some(partition) = partition(file) else { return Some(Vec::new()) };
        if !seen.insert(partition.number()) {
            continue;
        }
        let own = || partition.values().iter().map(|value| &value.field);
        match &mut common {
            Some(common) => common.retain(|field| own().any(|own| own == field)),
            None => common = Some(own().cloned().collect()),
        }
    }
    common
}

/// Returns the values of a file's partition fields. None where it lacks one.
fn group_key(file: &PartitionedFile, fields: &[PartField]) -> Option<GroupKey> {
    let values = partition(file)?.values();
    let key = |field: &PartField| Some(values.iter().find(|value| value.field == *field)?.key.clone());
    fields.iter().map(key).collect()
}

/// Returns the keys of all files of a scan.
///
/// # Errors
/// A file that lacks a field.
pub fn group_keys(scan: &FileScanConfig, fields: &[PartField]) -> Result<Vec<GroupKey>> {
    let key = |file| match group_key(file, fields) {
        Some(key) => Ok(key),
        None => internal_err!("`{}` is not of the partitions of its scan", file.object_meta.location),
    };
    files(scan).map(key).collect()
}

/// Finds the fields by which the files of all sides are parted alike: for each side its own, all in one order.
///
/// # Errors
/// The reason why there are none, for a person.
pub(super) fn common_fields(sides: &[Side]) -> std::result::Result<Vec<Arc<[PartField]>>, String> {
    let mut found: Vec<Vec<PartField>> = vec![Vec::new(); sides.len()];
    let positions = sides.first().map_or(0, |side| side.keys.len());
    if sides.iter().any(|side| side.keys.len() != positions) {
        return Err("its sides have keys of several joins".to_owned());
    }
    let mut of_scans: BTreeMap<usize, Option<Vec<PartField>>> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for position in 0..positions {
        let origins: Option<Vec<Origin<'_>>> =
            sides.iter().map(|side| origin(&side.plan, side.keys.get(position)?)).collect();
        let Some(origins) = origins else { continue };
        let own: Vec<Option<Vec<PartField>>> = origins
            .iter()
            .map(|Origin { scan, field }| {
                let known = of_scans.entry(std::ptr::from_ref(*scan).addr()).or_insert_with(|| fields(scan));
                Some(known.as_ref()?.iter().filter(|part| part.column == *field).cloned().collect())
            })
            .collect();
        let Some(first) = own.iter().flatten().next() else { return Err("its tables have no files".to_owned()) };
        for part in first {
            let alike = |of: &PartField| of.transform == part.transform && of.source_type == part.source_type;
            let same = own.iter().zip(&origins).map(|(own, origin)| match own {
                Some(own) => own.iter().find(|of| alike(of)).cloned(),
                // Without files, it is parted in any way.
                None => Some(PartField { column: origin.field, ..part.clone() }),
            });
            if let Some(same) = same.collect::<Option<Vec<PartField>>>() {
                found.iter_mut().zip(same).for_each(|(found, part)| found.push(part));
            }
        }
        let side = |(own, origin): (&Option<Vec<PartField>>, &Origin<'_>)| {
            let parts: Vec<String> = own.iter().flatten().map(|part| words(part, origin.scan)).collect();
            match parts.is_empty() {
                true => format!("not by {}", column_name(origin.scan, origin.field)),
                false => format!("by {}", parts.join(" and ")),
            }
        };
        told.insert(own.iter().zip(&origins).map(side).collect::<Vec<_>>().join(", "));
    }
    if found.first().is_some_and(|fields| !fields.is_empty()) {
        return Ok(found.into_iter().map(Arc::from).collect());
    }
    match told.is_empty() {
        true => Err("no key is a column of a table on each side".to_owned()),
        false => Err(format!("all files of its sides are parted {}", told.into_iter().collect::<Vec<_>>().join("; "))),
    }
}

/// Names a field, `bucket[4] of k`.
pub(super) fn words(part: &PartField, scan: &FileScanConfig) -> String {
    let column = column_name(scan, part.column);
    match part.transform {
        Transform::Identity => column,
        transform => format!("{transform} of {column}"),
    }
}

fn column_name(scan: &FileScanConfig, id: i32) -> String {
    let table = scan.file_source().table_schema().table_schema();
    let is_it = |metadata: Option<&String>| metadata.and_then(|id| id.parse().ok()) == Some(id);
    let field = table.fields().iter().find(|field| is_it(field.metadata().get(PARQUET_FIELD_ID_META_KEY)));
    field.map_or_else(|| format!("column {id}"), |field| field.name().clone())
}
