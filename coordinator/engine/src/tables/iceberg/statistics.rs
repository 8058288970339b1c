//! Statistics of a scan, from the metrics of its files.
//!
//! | fact | without deletes | vectors only | other deletes |
//! |---|---|---|---|
//! | rows | exact | exact: a vector has no position twice | at most |
//! | NULLs | exact, where counts can be right | at most | at most |
//! | least and greatest value | hints: bounds may be cut | hints | hints |

use std::cmp::Ordering;

use arrow::datatypes::{DataType, Schema as ArrowSchema};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use gust_catalog::{ColumnFacts, DeleteContent, Field, FilePlan, Scalar, ScanFile, Schema, Type};

use crate::tables::schema::engine_scalar;

/// Sums the statistics of a plan's files. `schema` may have more columns than the table, of which nothing is known.
pub(super) fn statistics(table: &Schema, schema: &ArrowSchema, plan: &FilePlan) -> Statistics {
    let is_exact = plan.files.iter().all(|file| file.deletes.is_empty());
    let columns = table.fields.iter().zip(schema.fields());
    let columns = columns.map(|(field, arrow)| column_statistics(field, arrow.data_type(), &plan.files));
    let columns = columns.map(|column| if is_exact { column } else { column.to_inexact() });
    let dropped = schema.fields().len().saturating_sub(table.fields.len());
    Statistics {
        num_rows: rows(plan),
        total_byte_size: Precision::Inexact(plan.files.iter().map(|file| file.size_bytes as usize).sum()),
        column_statistics: columns.chain((0..dropped).map(|_| ColumnStatistics::new_unknown())).collect(),
    }
}

fn rows(plan: &FilePlan) -> Precision<usize> {
    let (mut rows, mut is_exact) = (0_u64, true);
    for file in &plan.files {
        let vector = file.deletes.vector.and_then(|vector| plan.deletes.get(vector as usize));
        let deleted = match vector {
            Some(vector) if matches!(vector.content, DeleteContent::Vector { .. }) => vector.record_count,
            _ => 0,
        };
        is_exact &= file.deletes.positions.is_empty() && file.deletes.equality.is_empty();
        rows = rows.saturating_add(file.record_count.saturating_sub(deleted));
    }
    let rows = Precision::Exact(rows as usize);
    if is_exact { rows } else { rows.to_inexact() }
}

fn column_statistics<'a>(field: &Field, arrow: &DataType, files: &'a [ScanFile]) -> ColumnStatistics {
    // Iceberg's bounds leave NaN out, and NaN is the largest value to the engine.
    let is_float = matches!(field.ty, Type::Float | Type::Double);
    let facts = |file: &'a ScanFile| file.column(field.id);
    let bounded = files.iter().all(|file| !is_float || facts(file).and_then(|facts| facts.nans) == Some(0));
    let bound = |of: fn(&ColumnFacts) -> Option<&Scalar>, better: Ordering| {
        let mut found: Option<ScalarValue> = None;
        for file in files.iter().filter(|_| bounded) {
            let value = engine_scalar(of(facts(file)?)?, arrow)?;
            if found.as_ref().is_none_or(|held| value.partial_cmp(held) == Some(better)) {
                found = Some(value);
            }
        }
        found
    };
    let inexact = |value: Option<ScalarValue>| value.map_or(Precision::Absent, Precision::Inexact);
    // A count that cannot be right is not used. Neither is one of a column whose values are the partition's: the file may hold others.
    let nulls = |file: &'a ScanFile| {
        if file.identity_values.iter().any(|value| value.field_id == field.id) {
            return None;
        }
        let facts = facts(file)?;
        let (nulls, values) = (facts.nulls?, facts.values.unwrap_or(file.record_count));
        (nulls <= values && values == file.record_count).then_some(nulls as usize)
    };
    let nulls: Option<usize> = files.iter().map(nulls).sum();
    let min = bound(|facts| facts.lower.as_ref(), Ordering::Less);
    let max = bound(|facts| facts.upper.as_ref(), Ordering::Greater);
    // DataFusion fails over bounds that a bad writer has turned round.
    let (min, max) = if min > max && max.is_some() { (None, None) } else { (min, max) };
    ColumnStatistics {
        null_count: nulls.map_or(Precision::Absent, Precision::Exact),
        min_value: inexact(min),
        max_value: inexact(max),
        ..ColumnStatistics::new_unknown()
    }
}
