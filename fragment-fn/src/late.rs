//! Late columns: where the keys of a join let few rows through, other columns are decoded for these rows only.
//!
//! A hash join tells the scans of its probe side which keys it has, once its build side is complete. DataFusion prunes row
//! groups by that. It compares rows only where all filters are pushed down, which decodes them twice where most rows stay. Here
//! each file that is opened is read in one of three ways:
//!
//! ```text
//!  file ─► plan_file ─┬─ no complete filter ─► as planned
//!                     ├─ those that decide about rows proved useless ─► as planned, pruned by the predicate with each key once
//!                     └─ else ─► decoder with a KeyFilter for each filter, and PruningOnly for the rest of the predicate
//! ```
//!
//! - No row is lost: the join compares each row again. So a filter may be left out at any time, and is once it keeps too many
//!   rows, or fails.
//! - Row groups and pages are pruned at least as without it, by DataFusion and by the whole predicate.
//! - A scan with a limit is read as planned, because the limit counts rows before the join. So is one that decodes by filters
//!   already: its filters are nowhere else. And one of nested columns, because some writers let a row begin in one page and end
//!   in the next, and rows are left out page by page.
//!
//! Non-goals: filters of the statement itself, and keys that are expressions, which could fail on rows that the statement has
//! filtered before. Reading ahead asks for all columns at once, because asking in two steps would take twice the latency. Pages
//! without a row that is left count as unused then; with pages of 20,000 rows they are few. Without reading ahead the decoder
//! asks for the keys, and then for the pages that are left.

mod filter;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::conjunction;
use datafusion::physical_expr::expressions::{Column, DynamicFilterPhysicalExpr, DynamicFilterTracking};
use datafusion::physical_expr::utils::{collect_columns, split_conjunction};
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use datafusion_datasource::morsel::{MorselPlanner, Morselizer};
use object_store::ObjectStore;

use crate::forwarding::forwarding_to;
use filter::{KeyFilter, PruningOnly, Tally, settled};

/// Largest size of the keys that a stream keeps decoded between its filter and its rows. Beyond it they are decoded twice.
const KEYS_BYTES_MAX: usize = 16 << 20;

/// Rule by which a scan's columns are late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateColumns {
    /// Largest percentage of a scan's rows that a join's keys may keep. 0 is never, 100 always.
    pub kept_percent_max: u32,
}

impl LateColumns {
    pub const NEVER: Self = Self { kept_percent_max: 0 };
}

/// Makes a Parquet scan decode columns late where that pays. Returns other scans as they are.
pub(crate) fn with_late_columns(mut scan: FileScanConfig, rule: LateColumns) -> FileScanConfig {
    match LateSource::of(&mut scan, rule) {
        Some(source) => FileScanConfigBuilder::from(scan).with_source(Arc::new(source)).build(),
        None => scan,
    }
}

/// Returns the columns of a scan, by name, whose values may decide which rows of the others are decoded.
pub fn key_columns(scan: &FileScanConfig) -> Vec<String> {
    let Some((parquet, filters)) = filters(scan) else { return Vec::new() };
    let filters = filters.iter().filter(|filter| is_of_keys(filter, parquet.table_schema()));
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

/// Returns a scan's source and the conjuncts of its predicate, if rows may be left out of it.
fn filters(scan: &FileScanConfig) -> Option<(&ParquetSource, Vec<Arc<dyn PhysicalExpr>>)> {
    let source = scan.file_source().downcast_ref::<ParquetSource>()?;
    let decodes_by_filters = source.table_parquet_options().global.pushdown_filters;
    if scan.limit.is_some() || decodes_by_filters || !source.table_schema().virtual_columns().is_empty() {
        return None;
    }
    if source.projection()?.iter().any(|projected| reads_nested(&projected.expr, source.table_schema())) {
        return None;
    }
    Some((source, split_conjunction(&source.filter()?).into_iter().cloned().collect()))
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

/// Parquet source that decides for each file how it is decoded.
#[derive(Clone)]
struct LateSource {
    parquet: ParquetSource,
    /// The scan without its files.
    scan: Arc<FileScanConfig>,
    filters: Arc<[Filter]>,
}

/// Conjunct of a scan's predicate.
struct Filter {
    expr: Arc<dyn PhysicalExpr>,
    /// None for one that does not decide about rows here.
    tally: Option<Arc<Tally>>,
    /// Its value, once it will stay as it is.
    known: OnceLock<Arc<dyn PhysicalExpr>>,
}

impl LateSource {
    fn of(scan: &mut FileScanConfig, rule: LateColumns) -> Option<Self> {
        if rule == LateColumns::NEVER {
            return None;
        }
        let (parquet, filters) = filters(scan)?;
        let filter = |expr: Arc<dyn PhysicalExpr>| {
            let tally = is_of_keys(&expr, parquet.table_schema()).then(|| Arc::new(Tally::new(rule)));
            Filter { expr, tally, known: OnceLock::new() }
        };
        let filters: Arc<[Filter]> = filters.into_iter().map(filter).collect();
        if filters.iter().all(|filter| filter.tally.is_none()) {
            return None;
        }
        let parquet = parquet.clone();
        let files = std::mem::take(&mut scan.file_groups);
        let without_files = Arc::new(scan.clone());
        scan.file_groups = files;
        Some(Self { parquet, scan: without_files, filters })
    }

    /// Returns the predicate for a file that is opened now, None to read it as planned.
    fn predicate(&self) -> Option<Predicate> {
        let table = self.parquet.table_schema();
        let (mut keys, mut others, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        let mut some_changed = false;
        for filter in self.filters.iter() {
            match State::of(&filter.expr) {
                // What changes while the file is read prunes more than keys do.
                State::Changing => return None,
                State::Unknown => unknown.push(Arc::clone(&filter.expr)),
                State::Known => {
                    let has_changed = has_changed(&filter.expr);
                    some_changed |= has_changed;
                    let known = Arc::clone(filter.known.get_or_init(|| match has_changed {
                        true => settled(&filter.expr, table),
                        false => Arc::clone(&filter.expr),
                    }));
                    match filter.tally.as_ref().filter(|tally| has_changed && !tally.is_given_up()) {
                        Some(tally) => keys.push((tally, known)),
                        None => others.push(PruningOnly::over(known)),
                    }
                }
            }
        }
        let decides_rows = !keys.is_empty();
        if !decides_rows && !some_changed {
            return None;
        }
        if !decides_rows {
            // They prune once they have a value, and the decoder evaluates nothing.
            others.append(&mut unknown);
        }
        // The one that keeps least comes first.
        keys.sort_by(|(one, _), (other, _)| one.share().total_cmp(&other.share()));
        let keys = keys.into_iter().map(|(tally, known)| KeyFilter::over(known, Arc::clone(tally)));
        Some(Predicate { expr: conjunction(keys.chain(others)), decides_rows })
    }

    fn with_parquet(&self, parquet: &Arc<dyn FileSource>) -> Self {
        let parquet = parquet.downcast_ref::<ParquetSource>().unwrap_or(&self.parquet).clone();
        Self { parquet, ..self.clone() }
    }
}

/// Predicate of one file. It prunes, and may decide about rows.
struct Predicate {
    expr: Arc<dyn PhysicalExpr>,
    decides_rows: bool,
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

impl FileSource for LateSource {
    forwarding_to!(parquet);

    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.parquet.create_file_opener(store, scan, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let planned = self.parquet.create_morselizer(Arc::clone(&store), scan, partition)?;
        Ok(Box::new(LateMorselizer { source: self.clone(), store, partition, planned }))
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(self.with_parquet(&self.parquet.with_batch_size(batch_size)))
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.parquet.fmt_extra(kind, f)?;
        let told: Vec<String> = self.filters.iter().filter_map(Filter::told).collect();
        match kind {
            DisplayFormatType::TreeRender => Ok(()),
            _ => write!(f, ", late_columns=[{}]", told.join(", ")),
        }
    }
}

impl Filter {
    /// Returns the words for a join's filter: its columns, and the rows that it has let through.
    fn told(&self) -> Option<String> {
        let tally = self.tally.as_ref()?;
        Some(format!("{}: {tally}", names(&self.expr).collect::<Vec<_>>().join(" and ")))
    }
}

/// Plans each file in the way that pays when it is opened.
struct LateMorselizer {
    source: LateSource,
    store: Arc<dyn ObjectStore>,
    partition: usize,
    planned: Box<dyn Morselizer>,
}

impl Morselizer for LateMorselizer {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let Some(predicate) = self.source.predicate() else { return self.planned.plan_file(file) };
        let LateSource { parquet, scan, .. } = &self.source;
        let mut late = parquet.with_predicate(predicate.expr);
        if predicate.decides_rows {
            let mut options = parquet.table_parquet_options().clone();
            options.global.pushdown_filters = true;
            options.global.reorder_filters = false;
            options.global.max_predicate_cache_size.get_or_insert(KEYS_BYTES_MAX);
            late = late.with_table_parquet_options(options);
        }
        late.create_morselizer(Arc::clone(&self.store), scan, self.partition)?.plan_file(file)
    }
}

impl Debug for LateMorselizer {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LateMorselizer").field("planned", &self.planned).finish_non_exhaustive()
    }
}
