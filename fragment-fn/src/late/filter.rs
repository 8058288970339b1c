//! Conjuncts of the predicate of a file whose columns are late.

use std::collections::HashSet;
use std::fmt::{Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::functions::core::input_file_name;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, DynamicFilterPhysicalExpr, InListExpr, Literal, lit,
};
use datafusion::physical_plan::PhysicalExpr;
use gust_protocol::LateUsage;

use super::LateColumns;
use crate::ahead::AheadAccount;

/// Rows after which a filter that keeps too many is given up.
const TRIAL_ROWS: u64 = 4 * 8192;

/// Rows that a filter has seen in a scan, and those that it has kept.
#[derive(Debug)]
pub(super) struct Tally {
    rule: LateColumns,
    rows: AtomicU64,
    kept: AtomicU64,
    is_given_up: AtomicBool,
    /// It is told of all of that, too.
    account: Arc<AheadAccount>,
}

impl Tally {
    pub(super) fn new(rule: LateColumns, account: Arc<AheadAccount>) -> Self {
        Self { rule, rows: AtomicU64::new(0), kept: AtomicU64::new(0), is_given_up: AtomicBool::new(false), account }
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Relaxed)
    }

    /// Returns the share of rows that were kept, 0 before the first.
    pub(super) fn share(&self) -> f64 {
        let (rows, kept) = (self.rows.load(Relaxed), self.kept.load(Relaxed));
        if rows == 0 { 0.0 } else { kept as f64 / rows as f64 }
    }

    pub(super) fn add(&self, rows: usize, kept: usize) {
        let (rows, kept) = (rows as u64, kept as u64);
        self.account.note_late(LateUsage { rows, kept_rows: kept, given_up: 0 });
        let rows = self.rows.fetch_add(rows, Relaxed) + rows;
        self.kept.fetch_add(kept, Relaxed);
        if rows >= TRIAL_ROWS && self.share() * 100.0 > f64::from(self.rule.kept_percent_max) {
            self.give_up();
        }
    }

    fn give_up(&self) {
        if !self.is_given_up.swap(true, Relaxed) {
            self.account.note_late(LateUsage { given_up: 1, ..LateUsage::default() });
        }
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (rows, kept) = (self.rows.load(Relaxed), self.kept.load(Relaxed));
        match (self.is_given_up(), rows) {
            (false, 0) => f.write_str("not used"),
            (false, _) => write!(f, "{kept} of {rows} rows kept"),
            (true, _) => write!(f, "given up, {kept} of {rows} rows kept"),
        }
    }
}

/// Most parts of a join's build side of which each row is compared with all.
const PARTS_MAX: usize = 4;

/// Returns a join's complete filter as files are read by it. It lets more rows through where that is cheaper: a row is compared with the
/// keys of each part of the build side, instead of being sent to its part's, which copies the rows. Each key is listed once.
pub(super) fn settled(filter: &Arc<dyn PhysicalExpr>, table: &TableSchema) -> Arc<dyn PhysicalExpr> {
    let Some(join) = filter.downcast_ref::<DynamicFilterPhysicalExpr>() else { return Arc::clone(filter) };
    let listed = join.current().and_then(|now| now.transform_down(|expr| Ok(keys_once(expr, table.table_schema()))));
    let now = match listed.map(|now| (any_part(&now.data), now)) {
        Ok((Some(parts), _)) => parts,
        Ok((None, now)) if now.transformed => now.data,
        _ => return Arc::clone(filter),
    };
    match table.table_partition_cols().is_empty() {
        true => now,
        // Only by what was a dynamic filter are files without statistics pruned by the values of their partition.
        false => {
            let shorter = DynamicFilterPhysicalExpr::new(join.children().into_iter().cloned().collect(), lit(true));
            if shorter.update(now).is_err() {
                return Arc::clone(filter);
            }
            shorter.mark_complete();
            Arc::new(shorter)
        }
    }
}

/// Leaves out repeated values of a list. DataFusion 55.2 lists a key for each row of a build side (apache/datafusion#24236), and all
/// values are gone through several times for each file.
fn keys_once(expr: Arc<dyn PhysicalExpr>, table: &Schema) -> Transformed<Arc<dyn PhysicalExpr>> {
    let Some(list) = expr.downcast_ref::<InListExpr>() else { return Transformed::no(expr) };
    let (shorter, transformed) = match with_keys_once(list, table) {
        Some(shorter) => (Arc::new(shorter) as _, true),
        None => (expr, false),
    };
    Transformed::new(shorter, transformed, TreeNodeRecursion::Jump)
}

fn with_keys_once(list: &InListExpr, table: &Schema) -> Option<InListExpr> {
    let value = |expr: &Arc<dyn PhysicalExpr>| expr.downcast_ref::<Literal>().map(|literal| literal.value().clone());
    let mut seen = HashSet::new();
    let mut values = list.list().iter().map(value).collect::<Option<Vec<ScalarValue>>>()?;
    values.retain(|value| seen.insert(value.clone()));
    if values.len() == list.len() {
        return None;
    }
    let values = ScalarValue::iter_to_array(values).ok()?;
    InListExpr::try_new_from_array(Arc::clone(list.expr()), values, list.negated(), table).ok()
}

/// Joins the parts of a CASE over a row's part, also below the OR that keeps NULL keys.
fn any_part(expr: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    let or = |one, other| Arc::new(BinaryExpr::new(one, Operator::Or, other)) as Arc<dyn PhysicalExpr>;
    if let Some(both) = expr.downcast_ref::<BinaryExpr>().filter(|both| *both.op() == Operator::Or) {
        return Some(or(Arc::clone(both.left()), any_part(both.right())?));
    }
    let case = expr.downcast_ref::<CaseExpr>().filter(|case| case.expr().is_some())?;
    let is_false = |part: &Arc<dyn PhysicalExpr>| {
        part.downcast_ref::<Literal>().is_some_and(|part| *part.value() == ScalarValue::Boolean(Some(false)))
    };
    let parts = case.when_then_expr().iter().map(|(_, part)| part).chain(case.else_expr());
    let parts: Vec<_> = parts.filter(|part| !is_false(part)).cloned().collect();
    if parts.len() > PARTS_MAX {
        return None;
    }
    parts.into_iter().reduce(or)
}

/// Filter of a join's keys, which the decoder evaluates. All rows pass once it is given up.
#[derive(Debug)]
pub(super) struct KeyFilter {
    filter: Arc<dyn PhysicalExpr>,
    tally: Arc<Tally>,
    /// Row groups and pages are pruned by it, too.
    prunes_too: bool,
}

impl KeyFilter {
    pub(super) fn over(filter: Arc<dyn PhysicalExpr>, tally: Arc<Tally>, prunes_too: bool) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { filter, tally, prunes_too })
    }
}

fn all_rows() -> ColumnarValue {
    ColumnarValue::Scalar(ScalarValue::Boolean(Some(true)))
}

impl PhysicalExpr for KeyFilter {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if self.tally.is_given_up() {
            return Ok(all_rows());
        }
        match self.filter.evaluate(batch).and_then(|kept| kept.into_array(batch.num_rows())) {
            Ok(kept) => {
                let Some(is_kept) = kept.as_boolean_opt() else { return Ok(all_rows()) };
                self.tally.add(is_kept.len(), is_kept.true_count());
                Ok(ColumnarValue::Array(kept))
            }
            // Whoever needs the value reports what is wrong with it.
            Err(error) => {
                tracing::debug!(%error, "a join's keys decide about no rows");
                self.tally.give_up();
                Ok(all_rows())
            }
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.filter]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let filter = children.pop().ok_or_else(no_child)?;
        Ok(Self::over(filter, Arc::clone(&self.tally), self.prunes_too))
    }

    /// Returns what row groups and pages are pruned by.
    fn snapshot(&self) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        Ok(Some(if self.prunes_too { Arc::clone(&self.filter) } else { lit(true) }))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.filter.fmt_sql(f)
    }
}

impl Display for KeyFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Display::fmt(&self.filter, f)
    }
}

impl PartialEq for KeyFilter {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tally, &other.tally)
            && self.prunes_too == other.prunes_too
            && self.filter.as_ref() == other.filter.as_ref()
    }
}

impl Eq for KeyFilter {}

impl Hash for KeyFilter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.filter.as_ref().hash(state);
    }
}

/// Conjunct by which row groups and pages are pruned, and no rows: an operator above the scan does that.
///
/// DataFusion 55.2 evaluates each conjunct in the decoder or none. It leaves out those that name the file, because the
/// decoder does not know it (`PushdownChecker`); pruning sees the snapshot, which does not name it. Were that to change, all
/// rows would pass.
#[derive(Debug)]
pub(super) struct PruningOnly {
    filter: Arc<dyn PhysicalExpr>,
    file_name: Arc<dyn PhysicalExpr>,
}

static FILE_NAME: LazyLock<Arc<dyn PhysicalExpr>> = LazyLock::new(|| {
    let name = Arc::new(Field::new("input_file_name", DataType::Utf8, true));
    let options = Arc::new(ConfigOptions::default());
    Arc::new(ScalarFunctionExpr::new("input_file_name", input_file_name(), Vec::new(), name, options))
});

impl PruningOnly {
    pub(super) fn over(filter: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { filter, file_name: Arc::clone(&FILE_NAME) })
    }
}

impl PhysicalExpr for PruningOnly {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, _: &RecordBatch) -> Result<ColumnarValue> {
        Ok(all_rows())
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.filter, &self.file_name]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let [filter, file_name] = <[_; 2]>::try_from(children).map_err(|_| no_child())?;
        Ok(Arc::new(Self { filter, file_name }))
    }

    fn snapshot(&self) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        Ok(Some(Arc::clone(&self.filter)))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.filter.fmt_sql(f)
    }
}

impl Display for PruningOnly {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Display::fmt(&self.filter, f)
    }
}

impl PartialEq for PruningOnly {
    fn eq(&self, other: &Self) -> bool {
        self.filter.as_ref() == other.filter.as_ref()
    }
}

impl Eq for PruningOnly {}

impl Hash for PruningOnly {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.filter.as_ref().hash(state);
    }
}

fn no_child() -> DataFusionError {
    DataFusionError::Internal("an expression is rebuilt with its children".to_owned())
}
