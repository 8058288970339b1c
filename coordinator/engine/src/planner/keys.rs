//! Keys of build sides that are there before a stage begins: files and row groups without any of them are left out of it.
//!
//! ```text
//!  rows of build sides ─► keys of each column ─► kept units ─► packed anew, as many bytes a fragment as planned ─► Stage
//! ```
//!
//! DataFusion decides for which joins that is right, and which column of the scan a key is compared with: a scan's predicate has a filter that
//! the join will fill ([`super::passes::facts`]). Here the same filter is known before a function is invoked. In functions it leaves out row groups and
//! pages of the files that stay.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::{ColumnStatistics, JoinType, NullEquality, Result};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_expr::expressions::{Column, DynamicFilterPhysicalExpr};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::joins::{HashJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use fragment_fn::file_statistics;
use gust_protocol::ColumnMatching;
use gust_protocol::plan::{ExchangeExec, PartsExec, file_scan};
use parquet::file::metadata::ParquetMetaData;

use super::deletes::StageDeletes;
use super::graph::Stage;
use super::passes::cut::{has_row_over_none, has_rows_over_none};
use super::passes::pack::{Lane, PackedFragment, Packing, loads_by_bytes, pack, times};
use super::passes::units::{Unit, footer, start_of};
use crate::tables::keys::{ColumnKeys, Keys};

/// Key of a build side, and the column of the scan that has to have it.
#[derive(Debug)]
pub struct JoinKey {
    /// Number of the build side.
    pub build: usize,
    /// Key in terms of the build side's rows.
    key: Arc<dyn PhysicalExpr>,
    /// Name of the column.
    pub column: String,
    position: usize,
    /// True if NULL is equal to NULL.
    null_is_a_key: bool,
}

/// Returns the keys by which files of a stage may be left out.
pub fn join_keys(stage: &Stage) -> Vec<JoinKey> {
    let Some(scan) = scan_of(&stage.plan) else { return Vec::new() };
    let source = scan.file_source();
    let columns = source.table_schema().table_schema();
    // Children of the filter that a scan is told, in terms of its own columns, by the filter.
    let mut told: HashMap<u64, Vec<Arc<dyn PhysicalExpr>>> = HashMap::new();
    if let Some(predicate) = source.filter() {
        for filter in
            split_conjunction(&predicate).into_iter().filter(|filter| filter.is::<DynamicFilterPhysicalExpr>())
        {
            let children = filter.children().into_iter().cloned().collect();
            told.extend(filter.expression_id().map(|id| (id, children)));
        }
    }
    let mut found = Vec::new();
    for_each_join(&stage.plan, &mut |build, join| {
        let filled = join.dynamic_expressions_produced();
        let Some(keys) = filled.iter().find_map(|filter| told.get(&filter.expression_id()?)) else { return };
        for ((key, _), compared) in join.on().iter().zip(keys) {
            let Some(column) = compared.downcast_ref::<Column>() else { continue };
            let Some(field) = columns.fields().get(column.index()).filter(|field| field.name() == column.name()) else {
                continue;
            };
            if key.data_type(&join.left().schema()).is_ok_and(|data_type| data_type == *field.data_type()) {
                found.push(JoinKey {
                    build,
                    key: Arc::clone(key),
                    column: field.name().clone(),
                    position: column.index(),
                    null_is_a_key: join.null_equality() == NullEquality::NullEqualsNull,
                });
            }
        }
    });
    found
}

/// Rows that come to a fragment, by the numbers of its plan's leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    Build(usize),
    Parts(usize),
}

/// Returns true if a part of a fragment's plan has no row where `is_empty` says which leaves have none. The row that a partial aggregate makes over no rows
/// is not counted.
pub fn has_no_row(plan: &Arc<dyn ExecutionPlan>, is_empty: &dyn Fn(Came) -> bool) -> bool {
    if let Some(leaf) = plan.downcast_ref::<ExchangeExec>() {
        return is_empty(Came::Build(leaf.input() as usize));
    }
    if let Some(leaf) = plan.downcast_ref::<PartsExec>() {
        return is_empty(Came::Parts(leaf.input() as usize));
    }
    let below: Vec<bool> = plan.children().into_iter().map(|child| has_no_row(child, is_empty)).collect();
    has_no_row_over(plan, &below)
}

/// Returns true if an operator has no row where `below` says which of its inputs have none.
pub(super) fn has_no_row_over(plan: &Arc<dyn ExecutionPlan>, below: &[bool]) -> bool {
    let no_row = |child: usize| below.get(child).copied().unwrap_or_default();
    let hash = plan.downcast_ref::<HashJoinExec>().map(|join| *join.join_type());
    let sorted = || plan.downcast_ref::<SortMergeJoinExec>().map(SortMergeJoinExec::join_type);
    if let Some(join_type) = hash.or_else(sorted) {
        return match join_type {
            JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => no_row(0) || no_row(1),
            JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => no_row(0),
            JoinType::Right | JoinType::RightAnti | JoinType::RightMark => no_row(1),
            JoinType::Full => no_row(0) && no_row(1),
        };
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>()
        && *aggregate.mode() != AggregateMode::Partial
        && (aggregate.group_expr().is_true_no_grouping() || has_row_over_none(aggregate))
    {
        return false;
    }
    below.len() == 1 && no_row(0)
}

/// Visits the joins with build sides that every fragment gets, with the numbers of these.
fn for_each_join(plan: &Arc<dyn ExecutionPlan>, visit: &mut dyn FnMut(usize, &HashJoinExec)) {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>()
        && let Some(leaf) = join.left().downcast_ref::<ExchangeExec>()
    {
        visit(leaf.input() as usize, join);
    }
    plan.children().into_iter().for_each(|child| for_each_join(child, visit));
}

impl JoinKey {
    /// Collects the keys of a build side's rows. None where its values have no exact order.
    ///
    /// # Errors
    /// Those of the key.
    pub fn of_rows(&self, schema: &Schema, rows: &[RecordBatch]) -> Result<Option<ColumnKeys>> {
        let column = |batch: &RecordBatch| self.key.evaluate(batch)?.into_array(batch.num_rows());
        let columns: Vec<ArrayRef> = rows.iter().map(column).collect::<Result<_>>()?;
        let has_null = self.null_is_a_key && columns.iter().any(|column| column.logical_null_count() > 0);
        let keys = Keys::of(&self.key.data_type(schema)?, &columns)?;
        let (column, position) = (self.column.clone(), self.position);
        Ok(keys.map(|keys| ColumnKeys { column, position, keys, has_null }))
    }
}

/// Filter of a stage's units by keys, all of which a row has to have.
#[derive(Debug)]
pub struct UnitFilter {
    pub keys: Vec<ColumnKeys>,
    /// Columns of the keys in files, with the positions of these keys. No columns where footers do not tell them by their names.
    of_files: Vec<(usize, FieldRef)>,
}

impl UnitFilter {
    pub fn new(stage: &Stage, keys: Vec<ColumnKeys>) -> Self {
        let columns = scan_of(&stage.plan)
            .filter(|_| stage.leaves.first().is_some_and(|leaf| leaf.matching == ColumnMatching::Name));
        let fields = columns.map_or(&[][..], |scan| &scan.file_schema().fields()[..]);
        // Partition columns are not in a file.
        let field = |(place, keys): (usize, &ColumnKeys)| Some((place, Arc::clone(fields.get(keys.position)?)));
        Self { of_files: keys.iter().enumerate().filter_map(field).collect(), keys }
    }

    /// Returns true if a unit may have rows with all keys, by the statistics that are at hand.
    pub fn may_have(&self, unit: &Unit, footers: &FileMetadataCache) -> bool {
        let of_file = unit.file.statistics.as_ref().map(|known| known.column_statistics.as_slice()).unwrap_or_default();
        if !self.keys.iter().all(|keys| keys.may_be_in(of_file.get(keys.position))) {
            return false;
        }
        let footer = footer(&unit.file, footers).filter(|_| !self.of_files.is_empty());
        let fields = || Schema::new(self.of_files.iter().map(|(_, field)| Arc::clone(field)).collect::<Vec<_>>());
        let known = footer.and_then(|footer| of_row_groups(unit, fields(), &footer).ok().flatten());
        let mut known = known.iter().flatten().zip(&self.of_files);
        known.all(|(known, (place, _))| self.keys[*place].may_be_in(Some(known)))
    }
}

/// Finds the scan of a fragment's plan.
fn scan_of(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    file_scan(plan).or_else(|| plan.children().into_iter().find_map(scan_of))
}

/// Computes the statistics of some columns in a unit's row groups. None for a unit without row groups.
fn of_row_groups(unit: &Unit, columns: Schema, footer: &ParquetMetaData) -> Result<Option<Vec<ColumnStatistics>>> {
    let is_in = |start: u64| {
        let range = unit.file.range.as_ref();
        range.is_none_or(|range| i64::try_from(start).is_ok_and(|start| (range.start..range.end).contains(&start)))
    };
    let groups = footer.row_groups().iter().filter(|group| is_in(start_of(group))).cloned().collect();
    let part = ParquetMetaData::new(footer.file_metadata().clone(), groups);
    let known = file_statistics(&part, &Arc::new(columns))?;
    Ok((part.num_row_groups() > 0).then_some(known.column_statistics))
}

impl Stage {
    /// Makes the stage over none of its units, if its plan has no row where `is_empty` says which build sides have none. None if it may have one. A stage
    /// that keeps groups may begin with fewer fragments, too: no row is at another place than its group's.
    pub fn without_rows(&self, is_empty: &dyn Fn(Came) -> bool) -> Option<Self> {
        (!self.units.is_empty() && has_no_row(&self.plan, is_empty)).then(|| self.over(Vec::new()))
    }

    /// Makes the stage over some of its units. Its fragments have as many bytes each as those that were planned.
    #[must_use]
    pub fn over(&self, units: Vec<Unit>) -> Self {
        let kept_bytes: u64 = units.iter().map(|unit| unit.weight_bytes).sum();
        // Units without bytes count by their number.
        let (kept, all) = match kept_bytes {
            0 => (units.len() as u64, self.units.len() as u64),
            _ => (kept_bytes, self.weight_bytes()),
        };
        let planned = self.fragments.len() as u128;
        let wanted = (planned * u128::from(kept)).div_ceil(u128::from(all.max(1))).max(1);
        let packing = Packing { functions: usize::try_from(wanted).ok(), ..self.packing };
        let mut fragments = pack(&units.iter().map(|unit| unit.weight_bytes).collect::<Vec<_>>(), &packing);
        if fragments.is_empty() && has_rows_over_none(&self.plan) {
            fragments.push(PackedFragment { lanes: vec![Lane { units: Vec::new() }] });
        }
        let mut load = self.load.clone();
        load.fragments = loads_by_bytes(&units, &fragments);
        Self {
            deletes: StageDeletes::of(&units, &fragments, &packing.digest),
            expected: times(&load.fragments, &packing),
            load,
            fragments,
            units,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use datafusion::common::ScalarValue;
    use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
    use datafusion::execution::cache::default_cache::DefaultCache;
    use gust_protocol::StoreAccess;
    use object_store::path::Path;

    use super::*;
    use crate::config::JoinPlace;
    use crate::model::TimeModel;
    use crate::planner::deletes::DigestBounds;
    use crate::planner::passes::broadcast::Joins;
    use crate::planner::passes::facts::Facts;
    use crate::planner::passes::samples::Sample;
    use crate::planner::passes::shuffle::StageRules;
    use crate::planner::passes::stages::{CutPlan, FunctionAccess};

    /// Makes the last stage of a query, whose joins are done by functions, one for each of the two files.
    async fn stage(sample: &Sample, sql: &str) -> Stage {
        let facts = Facts { joins: true, ..Facts::NONE };
        let rules = StageRules { joins: Joins::new(JoinPlace::Broadcast, 1 << 20), facts, ..StageRules::SCANS };
        let through =
            |url: &str| Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }));
        let plan = sample.plan_by(rules, sql).await;
        let cut = CutPlan::of(&plan, rules, &through).expect("a plan").on_functions().expect("it travels");
        let packing = Packing {
            fragment_bytes_target: 1,
            model: TimeModel::laptop(1),
            functions_max: 2,
            functions: Some(2),
            lanes_max: 1,
            function_memory_bytes: 2 << 30,
            digest: DigestBounds::default(),
        };
        let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
        cut.packer(&footers).stages(0, &packing).pop().expect("a stage")
    }

    #[tokio::test]
    async fn keys_are_those_of_joins_whose_unmatched_rows_leave_no_trace() {
        let sample = Sample::new().await;
        for (sql, expect) in [
            ("SELECT x.b FROM t AS x JOIN t AS y ON x.a = y.a WHERE x.b > 3", &[(0, "a")][..]),
            ("SELECT x.b FROM t AS x JOIN t AS y ON x.a = y.a AND x.b = y.b WHERE x.b > 3", &[(0, "a"), (0, "b")]),
            ("SELECT b FROM t WHERE a IN (SELECT a FROM t WHERE b > 3)", &[(0, "a")]),
            ("SELECT b, count(*) FROM t WHERE a IN (SELECT a FROM t WHERE b > 3) AND b > 1 GROUP BY b", &[(0, "a")]),
            ("SELECT x.b FROM t AS x JOIN t AS y ON x.a + 0 = y.a + 0 WHERE x.b > 3", &[]),
            ("SELECT x.b, y.b FROM t AS x RIGHT JOIN t AS y ON x.a = y.a AND x.b > 3", &[]),
            ("SELECT b FROM t AS x WHERE NOT EXISTS (SELECT 1 FROM t AS y WHERE x.a = y.a AND y.b > 3)", &[]),
            ("SELECT b FROM t", &[]),
        ] {
            let stage = stage(&sample, sql).await;
            let keys = join_keys(&stage);
            let found: Vec<(usize, &str)> = keys.iter().map(|key| (key.build, key.column.as_str())).collect();
            assert_eq!(found, expect, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_part_without_rows_is_found() {
        let sample = Sample::new().await;
        for (sql, expect) in [
            ("SELECT x.b FROM t AS x JOIN t AS y ON x.a + 0 = y.a + 0 WHERE x.b > 3", true),
            ("SELECT b, count(*) FROM t WHERE a IN (SELECT a FROM t WHERE b > 3) GROUP BY ROLLUP (b)", true),
            ("SELECT x.b, y.b FROM t AS x RIGHT JOIN t AS y ON x.a = y.a AND x.b > 3", false),
            ("SELECT b FROM t AS x WHERE NOT EXISTS (SELECT 1 FROM t AS y WHERE x.a = y.a AND y.b > 3)", false),
            ("SELECT b FROM t", false),
        ] {
            let stage = stage(&sample, sql).await;
            assert_eq!(has_no_row(&stage.plan, &|came| came == Came::Build(0)), expect, "{sql}");
            assert!(!has_no_row(&stage.plan, &|_| false), "{sql}");
            // Only a row over no rows needs a fragment.
            let fragments = expect.then_some(usize::from(sql.contains("ROLLUP")));
            for stage in [stage.clone(), Stage { keeps_groups: true, ..stage }] {
                let none = stage.without_rows(&|came| came == Came::Build(0));
                assert_eq!(none.map(|none| none.fragments.len()), fragments, "{sql}");
            }
        }
    }

    #[tokio::test]
    async fn a_stage_over_fewer_units_has_fewer_fragments() {
        let sample = Sample::new().await;
        let plain = stage(&sample, "SELECT b FROM t").await;
        let rollup = stage(&sample, "SELECT b, count(*) FROM t GROUP BY ROLLUP (b)").await;
        for (stage, kept, expect) in [(&plain, 2, 2), (&plain, 1, 1), (&plain, 0, 0), (&rollup, 0, 1)] {
            assert_eq!((stage.units.len(), stage.fragments.len()), (2, 2));
            let narrowed = stage.over(stage.units[..kept].to_vec());
            assert_eq!((narrowed.units.len(), narrowed.fragments.len()), (kept, expect));
            assert_eq!((narrowed.expected.len(), narrowed.load.fragments.len()), (expect, expect));
            let read: Vec<usize> = narrowed.fragments.iter().flat_map(PackedFragment::units).collect();
            assert_eq!(read.len(), kept);
            // Without bytes, units count.
            let mut units = stage.units[..kept].to_vec();
            units.iter_mut().for_each(|unit| unit.weight_bytes = 0);
            assert_eq!(stage.over(units).fragments.len(), expect, "{kept}");
        }
    }

    #[tokio::test]
    async fn a_unit_is_ruled_out_by_what_is_known_of_its_file() {
        let sample = Sample::new().await;
        let stage = stage(&sample, "SELECT x.b FROM t AS x JOIN t AS y ON x.a = y.a WHERE x.b > 3").await;
        let [key] = &join_keys(&stage)[..] else { panic!("one key") };
        let batch = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![3, 500])) as ArrayRef)]);
        let batch = batch.expect("a column");
        let key = JoinKey { key: Arc::new(Column::new("a", 0)), column: key.column.clone(), ..*key };
        let keys = key.of_rows(&batch.schema(), std::slice::from_ref(&batch)).expect("keys").expect("numbers");
        let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
        let filter = UnitFilter::new(&stage, vec![keys]);
        let mut kept: Vec<bool> = Vec::new();
        for unit in &stage.units {
            let known = unit.file.statistics.as_ref().expect("statistics").column_statistics[0].clone();
            let least = known.min_value.get_value().expect("a bound").clone();
            kept.push(filter.may_have(unit, &footers));
            // The other file begins with 101.
            assert_eq!(kept.last(), Some(&(least == ScalarValue::from(1_i64))), "{known:?}");
            let mut unknown = unit.clone();
            unknown.file.statistics = None;
            assert!(filter.may_have(&unknown, &footers));
        }
        assert_eq!(kept.iter().filter(|kept| **kept).count(), 1);
    }
}
