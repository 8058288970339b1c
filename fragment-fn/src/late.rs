//! Late columns: where the keys of a join let few rows through, other columns are decoded for these rows only.
//!
//! A hash join tells the scans of its probe side which keys it has, once its build side is complete. DataFusion prunes row
//! groups by that. It compares rows only where all filters are pushed down, which decodes them twice where most rows stay. Here
//! each file that is opened is read in one of four ways:
//!
//! ```text
//!  file ─► plan_file ─┬─ a filter has a value and will have others ─► as planned
//!                     ├─ reading ahead has chosen its rows ─► these, and a KeyFilter for each filter that decides about rows
//!                     ├─ else a filter has become complete ─► such KeyFilters, and PruningOnly for the rest of the predicate
//!                     └─ else ─► as planned
//! ```
//!
//! - No row is lost: the join compares each row again. So a filter may be left out at any time, and is once it keeps too many
//!   rows, or fails.
//! - Row groups and pages are pruned at least as without it, by DataFusion or by the whole predicate. They are pruned once: what
//!   reading ahead has chosen (`ahead/layout.rs`) is no work of the opener, whose metrics then count the chosen row groups alone. `row_groups_pruned_ahead` has the others.
//!   Many small files cost as much by that work as by their rows.
//! - A scan with a limit is read as planned, because the limit counts rows before the join. So is one that decodes by filters
//!   already: its filters are nowhere else. And columns are not late beside nested ones, because some writers let a row begin in
//!   one page and end in the next, and rows are left out page by page.
//!
//! Non-goals: filters of the statement itself, and keys that are expressions, which could fail on rows that the statement has
//! filtered before. Reading ahead asks for all columns at once, because asking in two steps would take twice the latency. Pages
//! without a row that is left count as unused then; with pages of 20,000 rows they are few. Without reading ahead the decoder
//! asks for the keys, and then for the pages that are left.

mod filter;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::DataType;
use datafusion::datasource::physical_plan::{FileScanConfig, FileSource, ParquetSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::conjunction;
use datafusion::physical_expr::expressions::{Column, DynamicFilterPhysicalExpr, DynamicFilterTracking};
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_expr::utils::{collect_columns, split_conjunction};
use datafusion::physical_plan::PhysicalExpr;

use crate::ahead::AheadAccount;
use filter::{KeyFilter, PruningOnly, Tally, settled};
pub(crate) use source::{Decides, opening_each};

/// Rule by which a scan's columns are late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateColumns {
    /// Largest percentage of a scan's rows that a join's keys may keep. 0 is never, 100 always.
    pub kept_percent_max: u32,
}

impl LateColumns {
    pub const NEVER: Self = Self { kept_percent_max: 0 };
}

/// Returns the columns of a scan, by name, whose values may decide which rows of the others are decoded. `joins` has the identities of the
/// filters that joins fill: sorts fill filters, too, which change until the scan has ended.
pub fn key_columns(scan: &FileScanConfig, joins: &BTreeSet<u64>) -> Vec<String> {
    let Some((parquet, filters)) = filters(scan) else { return Vec::new() };
    let is_of_join = |filter: &&Arc<dyn PhysicalExpr>| filter.expression_id().is_some_and(|id| joins.contains(&id));
    let filters = filters.iter().filter(is_of_join).filter(|filter| is_of_keys(filter, parquet.table_schema()));
    let names: BTreeSet<&str> = filters.flat_map(names).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// Returns the columns of a scan that [`key_columns`] names; none where the rule is never.
pub(crate) fn keys(scan: &FileScanConfig, rule: LateColumns) -> Vec<Arc<dyn PhysicalExpr>> {
    if rule == LateColumns::NEVER {
        return Vec::new();
    }
    let Some((parquet, filters)) = filters(scan) else { return Vec::new() };
    let filters = filters.iter().filter(|filter| is_of_keys(filter, parquet.table_schema()));
    filters.flat_map(|filter| filter.children()).cloned().collect()
}

/// Returns the predicate of a scan of `table` as files are pruned by it now: by more than the planned one. None where that one prunes as
/// much, or will change.
pub(crate) fn pruned_by(predicate: &Arc<dyn PhysicalExpr>, table: &TableSchema) -> Option<Arc<dyn PhysicalExpr>> {
    let conjuncts = split_conjunction(predicate);
    let is_changing = conjuncts.iter().any(|conjunct| matches!(State::of(conjunct), State::Changing));
    if is_changing || !conjuncts.iter().any(|conjunct| has_changed(conjunct)) {
        return None;
    }
    Some(conjunction(conjuncts.into_iter().map(|conjunct| match has_changed(conjunct) {
        true => settled(conjunct, table),
        false => Arc::clone(conjunct),
    })))
}

/// Returns the names of a filter's columns.
fn names(filter: &Arc<dyn PhysicalExpr>) -> impl Iterator<Item = &str> {
    filter.children().into_iter().filter_map(|key| key.downcast_ref::<Column>()).map(Column::name)
}

/// Returns a scan's source if each of its files may be read in its own way.
fn source(scan: &FileScanConfig) -> Option<&ParquetSource> {
    let source = scan.file_source().downcast_ref::<ParquetSource>()?;
    let decodes_by_filters = source.table_parquet_options().global.pushdown_filters;
    let is_plain = scan.limit.is_none() && !decodes_by_filters && source.table_schema().virtual_columns().is_empty();
    is_plain.then_some(source)
}

/// Returns the conjuncts of a source's predicate.
fn conjuncts(source: &ParquetSource) -> Vec<Arc<dyn PhysicalExpr>> {
    source.filter().iter().flat_map(split_conjunction).cloned().collect()
}

/// Returns a scan's source and the conjuncts of its predicate, if rows may be left out of it.
fn filters(scan: &FileScanConfig) -> Option<(&ParquetSource, Vec<Arc<dyn PhysicalExpr>>)> {
    let source = source(scan)?;
    let is_nested = |projected: &ProjectionExpr| reads_nested(&projected.expr, source.table_schema());
    (!source.projection()?.iter().any(is_nested)).then(|| (source, conjuncts(source)))
}

fn reads_nested(expr: &Arc<dyn PhysicalExpr>, table: &TableSchema) -> bool {
    let columns = table.table_schema().fields();
    collect_columns(expr).iter().any(|column| columns.get(column.index()).is_none_or(|of| of.data_type().is_nested()))
}

/// Returns true for the filter of a join whose keys are columns of the files.
fn is_of_keys(filter: &Arc<dyn PhysicalExpr>, table: &TableSchema) -> bool {
    let columns = table.file_schema().fields();
    let is_key = |key: &&Arc<dyn PhysicalExpr>| {
        let column = key.downcast_ref::<Column>().and_then(|column| columns.get(column.index()));
        column.is_some_and(|column| has_exact_keys(column.data_type()))
    };
    filter.is::<DynamicFilterPhysicalExpr>() && !filter.children().is_empty() && filter.children().iter().all(is_key)
}

/// Returns true for types of which equal values have equal bytes, unlike 0.0 and -0.0.
fn has_exact_keys(of: &DataType) -> bool {
    !of.is_nested() && !of.is_floating() && !matches!(of, DataType::Dictionary(..) | DataType::Null)
}

/// Conjuncts of a scan's predicate, of which some may decide about rows.
#[derive(Clone)]
struct Filters(Arc<[Filter]>);

/// Conjunct of a scan's predicate.
struct Filter {
    expr: Arc<dyn PhysicalExpr>,
    /// None for one that does not decide about rows here.
    tally: Option<Arc<Tally>>,
    /// Its value, once it will stay as it is.
    known: OnceLock<Arc<dyn PhysicalExpr>>,
}

/// Way in which a file is read that is opened now. Filters are named by their positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Way {
    /// Filters that decide about rows. The one that keeps least comes first.
    rows: Vec<usize>,
    /// Filters that prune, and will stay as they are.
    prunes: Vec<usize>,
    /// Filters without a value.
    unknown: Vec<usize>,
    /// A dynamic filter has its value.
    has_news: bool,
    /// Row groups and pages are chosen.
    is_pruned: bool,
}

impl Way {
    /// Returns true where a file is read in another way than planned.
    fn differs(&self) -> bool {
        !self.rows.is_empty() || self.has_news || self.is_pruned
    }

    /// Returns the way for a file of which row groups and pages are chosen.
    fn once_pruned(self) -> Self {
        Self { rows: self.rows, is_pruned: true, ..Self::default() }
    }
}

impl Filters {
    /// Finds the filters of a scan; none of them decides about rows where `rule` is never.
    fn of(scan: &FileScanConfig, parquet: &ParquetSource, rule: LateColumns, account: &Arc<AheadAccount>) -> Self {
        let may_be_late = rule != LateColumns::NEVER && filters(scan).is_some();
        let filter = |expr: Arc<dyn PhysicalExpr>| {
            let is_late = may_be_late && is_of_keys(&expr, parquet.table_schema());
            let tally = is_late.then(|| Arc::new(Tally::new(rule, Arc::clone(account))));
            Filter { expr, tally, known: OnceLock::new() }
        };
        Self(conjuncts(parquet).into_iter().map(filter).collect())
    }

    fn may_decide_rows(&self) -> bool {
        self.0.iter().any(|filter| filter.tally.is_some())
    }

    /// Returns the way for a file that is opened now. None while a filter has a value and will have others: what changes while the
    /// file is read prunes more than keys do.
    fn way(&self, table: &TableSchema) -> Option<Way> {
        let (mut way, mut keys) = (Way::default(), Vec::new());
        for (place, filter) in self.0.iter().enumerate() {
            match filter.state() {
                State::Changing => return None,
                State::Unknown => way.unknown.push(place),
                State::Known => {
                    let has_changed = has_changed(&filter.expr);
                    way.has_news |= has_changed;
                    filter.known.get_or_init(|| match has_changed {
                        true => settled(&filter.expr, table),
                        false => Arc::clone(&filter.expr),
                    });
                    match filter.tally.as_ref().filter(|tally| has_changed && !tally.is_given_up()) {
                        Some(tally) => keys.push((tally.share(), place)),
                        None => way.prunes.push(place),
                    }
                }
            }
        }
        keys.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        way.rows = keys.into_iter().map(|(_, place)| place).collect();
        if !way.rows.is_empty() {
            // The decoder would evaluate them, too.
            way.unknown.clear();
        }
        Some(way)
    }

    /// Returns the predicate of a file that is read in a way. TRUE where nothing decides and nothing prunes.
    fn predicate(&self, way: &Way) -> Arc<dyn PhysicalExpr> {
        let known = |place: &usize| Arc::clone(self.0[*place].known.get().unwrap_or(&self.0[*place].expr));
        let prunes_too = !way.is_pruned;
        let rows = way.rows.iter().filter_map(|place| {
            let tally = Arc::clone(self.0[*place].tally.as_ref()?);
            Some(KeyFilter::over(known(place), tally, prunes_too))
        });
        let prunes = way.prunes.iter().map(|place| PruningOnly::over(known(place)));
        let unknown = way.unknown.iter().map(|place| Arc::clone(&self.0[*place].expr));
        conjunction(rows.chain(prunes).chain(unknown))
    }
}

impl Filter {
    fn state(&self) -> State {
        if self.known.get().is_some() { State::Known } else { State::of(&self.expr) }
    }

    /// Returns the words for a join's filter: its columns, and the rows that it has let through.
    fn told(&self) -> Option<String> {
        let tally = self.tally.as_ref()?;
        Some(format!("{}: {tally}", names(&self.expr).collect::<Vec<_>>().join(" and ")))
    }
}

/// State of a conjunct.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It will stay as it is.
    Known,
    /// It has no value yet.
    Unknown,
    /// It has a value, and will have others.
    Changing,
}

impl State {
    fn of(expr: &Arc<dyn PhysicalExpr>) -> Self {
        match DynamicFilterTracking::classify(expr) {
            DynamicFilterTracking::Static | DynamicFilterTracking::AllComplete => Self::Known,
            DynamicFilterTracking::Watching(_) if expr.is::<DynamicFilterPhysicalExpr>() && !has_changed(expr) => {
                Self::Unknown
            }
            DynamicFilterTracking::Watching(_) => Self::Changing,
        }
    }
}

/// Returns true for a dynamic filter that was given a value. Its generations begin with 1.
fn has_changed(filter: &Arc<dyn PhysicalExpr>) -> bool {
    filter.snapshot_generation() > 1
}
