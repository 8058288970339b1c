//! Plans of the Iceberg scans of one statement, each made once.
//!
//! ```text
//!  logical plan ── tell ──▶ scans by their snapshots            physical plan here ──┐
//!                                   │                           physical plan there ─┴─▶ get ──▶ plan of the scan
//!                                   └── planned together, when the first of them is asked for ───┘
//! ```
//!
//! The scans of one snapshot under one schema are planned together, so that each manifest is decoded once for all of them, whatever the
//! process keeps of it. `auto` plans the same scans for two places. Plans are let go when the statement begins to run.
//!
//! Scans of two versions of a table share what the process keeps of its manifests. So do plans that have no room.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use gust_catalog::{FilePlan, Predicate, ScanRequest, Table};

use super::{IcebergTable, external};
use crate::tables::predicate::predicate;

/// Most bytes of plans that a statement keeps for another scan of the same files. A plan beyond them is handed out once.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Plans of a statement's scans, as an extension of its session. A session without it plans each scan anew.
#[derive(Debug, Default)]
pub struct ScanPlans {
    tables: Mutex<HashMap<Snapshot, Arc<SnapshotScans>>>,
    kept_bytes: Arc<AtomicUsize>,
}

/// Snapshot of a table, as one schema shows it. A statement may have several providers of one, and two schemas of one snapshot: that of
/// the snapshot, for a version, and the current one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Snapshot {
    /// Name in messages.
    table: String,
    metadata_location: String,
    id: Option<i64>,
    schema: Option<i64>,
}

/// Scan of a snapshot.
#[derive(Debug, Clone)]
pub(super) struct AskedScan {
    predicate: Predicate,
    /// Text of the predicate. NaN in one is NaN in another.
    told: Arc<str>,
    /// Ids of the fields that it reads.
    pub(super) columns: BTreeSet<i32>,
}

/// Plan of a scan, without the metrics that its statistics were made of.
#[derive(Debug)]
pub(super) struct KeptPlan {
    pub(super) files: FilePlan,
    /// Columns of the table, and behind them those that only deletes still know.
    pub(super) schema: SchemaRef,
    pub(super) statistics: Statistics,
}

/// Scans of a snapshot, each once.
#[derive(Debug)]
struct SnapshotScans {
    scans: Vec<AskedScan>,
    /// Ids of the fields that scans of other snapshots of the table read: these may have the same manifests.
    also: BTreeSet<i32>,
    /// Plans that are there, by the scans' positions.
    plans: tokio::sync::Mutex<HashMap<usize, Made>>,
    kept_bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Made {
    Kept(Arc<KeptPlan>),
    /// Plan for which there is no room once it was handed out.
    Once(Arc<KeptPlan>),
}

impl AskedScan {
    fn new(predicate: Predicate, columns: BTreeSet<i32>) -> Self {
        Self { told: format!("{predicate:?}").into(), predicate, columns }
    }

    /// Returns true for the same files.
    fn is(&self, other: &AskedScan) -> bool {
        self.columns == other.columns && self.told == other.told
    }

    fn request<'a>(&'a self, also: &'a BTreeSet<i32>) -> ScanRequest<'a> {
        ScanRequest { predicate: &self.predicate, columns: &self.columns, also }
    }
}

impl Snapshot {
    fn of(table: &Table) -> Self {
        Self {
            table: table.name().to_owned(),
            metadata_location: table.metadata_location().to_owned(),
            id: table.snapshot_id(),
            schema: table.schema_id(),
        }
    }
}

impl ScanPlans {
    /// Tells a session the scans of its statement, before the first of them is planned. Plans of the same scans stay.
    pub fn tell(session: &dyn Session, plan: &LogicalPlan) {
        let Some(plans) = session.config().get_extension::<ScanPlans>() else { return };
        let mut told: HashMap<Snapshot, Vec<AskedScan>> = HashMap::new();
        let mut known = HashSet::new();
        let mut also: HashMap<String, BTreeSet<i32>> = HashMap::new();
        for_each_scan(plan, |table, scan| {
            let snapshot = Snapshot::of(&table.table);
            let asked = table.asked(scan.projection.as_deref(), &scan.filters);
            also.entry(snapshot.metadata_location.clone()).or_default().extend(&asked.columns);
            if known.insert((snapshot.clone(), asked.columns.clone(), Arc::clone(&asked.told))) {
                told.entry(snapshot).or_default().push(asked);
            }
        });
        let mut tables = plans.lock();
        for (snapshot, scans) in told {
            let is_same = |known: &Arc<SnapshotScans>| {
                known.scans.len() == scans.len() && known.scans.iter().zip(&scans).all(|(a, b)| a.is(b))
            };
            if tables.get(&snapshot).is_some_and(is_same) {
                continue;
            }
            let also = also.get(&snapshot.metadata_location).cloned().unwrap_or_default();
            let (plans, kept_bytes) = (tokio::sync::Mutex::default(), Arc::clone(&plans.kept_bytes));
            tables.insert(snapshot, Arc::new(SnapshotScans { scans, also, plans, kept_bytes }));
        }
    }

    /// Lets go of all plans.
    pub fn forget(session: &dyn Session) {
        if let Some(plans) = session.config().get_extension::<ScanPlans>() {
            plans.lock().clear();
        }
    }

    /// Returns the plan of a scan, or makes those of all scans of its snapshot that are not there.
    ///
    /// # Errors
    /// Those of planning, and of `keep`, which makes a plan ready for its scans.
    pub(super) async fn get(
        session: &dyn Session,
        table: &Table,
        asked: &AskedScan,
        keep: impl Fn(FilePlan) -> Result<KeptPlan> + Send + Sync,
    ) -> Result<Arc<KeptPlan>> {
        let told = session.config().get_extension::<ScanPlans>();
        let scans = told.and_then(|plans| plans.lock().get(&Snapshot::of(table)).cloned());
        let place = |scans: &Arc<SnapshotScans>| scans.scans.iter().position(|known| known.is(asked));
        match scans.and_then(|scans| Some((place(&scans)?, scans))) {
            Some((place, scans)) => scans.get(place, table, keep).await,
            // Nobody has told of it.
            None => {
                let plan = table.plan(&asked.request(&BTreeSet::new())).await.map_err(external)?;
                Ok(Arc::new(keep(plan)?))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Snapshot, Arc<SnapshotScans>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotScans {
    async fn get(
        &self,
        place: usize,
        table: &Table,
        keep: impl Fn(FilePlan) -> Result<KeptPlan> + Send + Sync,
    ) -> Result<Arc<KeptPlan>> {
        let mut made = self.plans.lock().await;
        if !made.contains_key(&place) {
            let missing: Vec<(usize, &AskedScan)> =
                self.scans.iter().enumerate().filter(|(place, _)| !made.contains_key(place)).collect();
            let requests: Vec<ScanRequest<'_>> = missing.iter().map(|(_, scan)| scan.request(&self.also)).collect();
            let plans = table.plans(&requests).await.map_err(external)?;
            for ((place, _), plan) in missing.into_iter().zip(plans) {
                made.insert(place, self.counted(keep(plan)?));
            }
        }
        let plan = match made.get(&place) {
            Some(Made::Kept(plan) | Made::Once(plan)) => Arc::clone(plan),
            None => return datafusion::common::internal_err!("a scan has no plan"),
        };
        if matches!(made.get(&place), Some(Made::Once(_))) {
            made.remove(&place);
        }
        Ok(plan)
    }

    /// Counts a plan, where there is room for it.
    fn counted(&self, plan: KeptPlan) -> Made {
        let bytes = plan.files.held_bytes();
        let room = |held: usize| held.checked_add(bytes).filter(|held| *held <= KEPT_BYTES_MAX);
        let has_room = self.kept_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        let plan = Arc::new(plan);
        if has_room { Made::Kept(plan) } else { Made::Once(plan) }
    }
}

impl Drop for SnapshotScans {
    fn drop(&mut self) {
        let bytes = |made: &Made| match made {
            Made::Kept(plan) => plan.files.held_bytes(),
            Made::Once(_) => 0,
        };
        let held = self.plans.get_mut().values().map(bytes).sum();
        self.kept_bytes.fetch_sub(held, Ordering::Relaxed);
    }
}

fn for_each_scan(plan: &LogicalPlan, mut visit: impl FnMut(&IcebergTable, &TableScan)) {
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = provider.downcast_ref::<IcebergTable>()
        {
            visit(table, scan);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "the visit never fails");
}

impl IcebergTable {
    /// Describes a scan. The columns of its filters are among those of its projection.
    pub(super) fn asked(&self, projection: Option<&[usize]>, filters: &[datafusion::prelude::Expr]) -> AskedScan {
        let schema = self.table.schema();
        let fields = schema.fields.iter().enumerate();
        let read = fields.filter(|(position, _)| projection.is_none_or(|columns| columns.contains(position)));
        AskedScan::new(predicate(filters, schema), read.map(|(_, field)| field.id).collect())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{SessionConfig, SessionContext};
    use gust_catalog::{PartitionHit, Route, Scalar};

    use super::*;
    use crate::config::S3Config;
    use crate::storage::Stores;

    #[tokio::test]
    async fn a_statement_tells_each_of_its_scans_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("v1.metadata.json");
        let column =
            |id: i32, name: &str| format!(r#"{{"id": {id}, "name": "{name}", "required": false, "type": "int"}}"#);
        let columns = ["a", "b", "c", "d"].iter().zip(11..).map(|(name, id)| column(id, name)).collect::<Vec<_>>();
        let metadata = format!(
            r#"{{"format-version": 2, "location": "/t", "current-schema-id": 0,
            "schemas": [{{"schema-id": 0, "type": "struct", "fields": [{}]}}]}}"#,
            columns.join(", ")
        );
        std::fs::write(&file, metadata).expect("written");
        let stores = Stores::new(S3Config::default()).for_catalog();
        let config = SessionConfig::new().with_extension(Arc::<ScanPlans>::default());
        let context = SessionContext::new_with_config(config);
        for name in ["t", "again"] {
            let table = Table::open(file.to_str().expect("a path"), &stores).await.expect("a table");
            context.register_table(name, Arc::new(IcebergTable::new(table).expect("a table"))).expect("registered");
        }
        let told = async |sql: &str| {
            let plan = context.sql(sql).await.expect("SQL").into_optimized_plan().expect("a plan");
            let state = context.state();
            ScanPlans::tell(&state, &plan);
            let plans = state.config().get_extension::<ScanPlans>().expect("plans");
            let tables: Vec<Arc<SnapshotScans>> = plans.lock().values().cloned().collect();
            assert_eq!(tables.len(), 1, "two names of one snapshot");
            let scans = &tables[0].scans;
            let mut columns: Vec<Vec<i32>> = scans.iter().map(|scan| scan.columns.iter().copied().collect()).collect();
            columns.sort();
            (columns, tables[0].also.iter().copied().collect::<Vec<_>>(), Arc::clone(&tables[0]))
        };
        let sql = "SELECT a FROM t WHERE b IN (SELECT c FROM again)";
        let (columns, also, first) = told(sql).await;
        assert_eq!((columns, also), (vec![vec![11, 12], vec![13]], vec![11, 12, 13]));
        assert!(Arc::ptr_eq(&first, &told(sql).await.2), "planning again finds the plans");
        let (columns, _, other) = told("SELECT a FROM t UNION ALL SELECT a FROM again").await;
        assert_eq!(columns, [[11]], "one scan");
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(told("SELECT a FROM t WHERE a > 1 UNION ALL SELECT a FROM again").await.0, [[11], [11]]);
    }

    #[test]
    fn scans_are_the_same_by_their_columns_and_conditions() {
        let scan = |value: f64, columns: &[i32]| {
            let (column, op) = ("x".to_owned(), gust_catalog::CompareOp::Gt);
            let predicate = Predicate::Compare { column, op, value: Scalar::Double(value) };
            AskedScan::new(predicate, columns.iter().copied().collect())
        };
        assert!(scan(f64::NAN, &[1]).is(&scan(f64::NAN, &[1])));
        assert!(!scan(0.0, &[1]).is(&scan(-0.0, &[1])));
        assert!(!scan(0.0, &[1]).is(&scan(0.0, &[1, 2])));
    }

    #[test]
    fn plans_are_kept_while_there_is_room() {
        let plan = || {
            let hit = PartitionHit { spec_id: 0, text: "p=1".to_owned(), files: 1 };
            let route = Route { is_pinned: true, partitions: vec![hit] };
            KeptPlan {
                files: FilePlan { route, ..FilePlan::default() },
                schema: Arc::new(arrow::datatypes::Schema::empty()),
                statistics: Statistics::default(),
            }
        };
        let bytes = plan().files.held_bytes();
        assert!(bytes > 3, "{bytes}");
        let kept_bytes = Arc::new(AtomicUsize::new(KEPT_BYTES_MAX - 2 * bytes));
        let scans = || SnapshotScans {
            scans: Vec::new(),
            also: BTreeSet::new(),
            plans: tokio::sync::Mutex::default(),
            kept_bytes: Arc::clone(&kept_bytes),
        };
        let (mut one, mut other) = (scans(), scans());
        for place in 0..2 {
            let made = one.counted(plan());
            assert!(matches!(made, Made::Kept(_)));
            one.plans.get_mut().insert(place, made);
        }
        let made = other.counted(plan());
        assert!(matches!(made, Made::Once(_)), "the statement has no more room");
        other.plans.get_mut().insert(0, made);
        drop(other);
        assert_eq!(kept_bytes.load(Ordering::Relaxed), KEPT_BYTES_MAX);
        drop(one);
        assert_eq!(kept_bytes.load(Ordering::Relaxed), KEPT_BYTES_MAX - 2 * bytes);
    }
}
