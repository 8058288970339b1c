//! Plans of the Iceberg scans of one statement, each made once.
//!
//! ```text
//!  logical plan ── tell ──▶ scans by their tables              physical plan here ──┐
//!                                   │                          physical plan there ─┴─▶ get ──▶ plan of the scan
//!                                   └── planned together, when the first of them is asked for ───┘
//! ```
//!
//! The scans of one table are planned together, also those of its versions, so that each manifest is decoded once for all of them, whatever
//! the process keeps of it. `auto` plans the same scans for two places. Plans count in the query's memory, and are let go when the
//! statement begins to run.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::datasource::source_as_provider;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::logical_expr::{LogicalPlan, TableScan};
use gust_catalog::{FilePlan, Predicate, ScanRequest, Table, VersionRequest, plan_versions};
use tokio::sync::OnceCell;

use super::{IcebergTable, external};
use crate::tables::predicate::predicate;

/// Plans of a statement's scans, as an extension of its session. A session without it plans each scan anew.
#[derive(Debug, Default)]
pub struct ScanPlans {
    tables: Mutex<HashMap<TableName, Arc<TableScans>>>,
    /// Memory of the files of its scans.
    files: Mutex<Vec<MemoryReservation>>,
}

/// Table of a statement, by what messages call it and the metadata file that all of its versions have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TableName {
    name: String,
    metadata_location: String,
}

/// Snapshot as one schema shows it. A statement may have two schemas of one snapshot: that of the snapshot, for a version, and the
/// current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    snapshot: Option<i64>,
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
    /// True where an aggregate over the scan may count its rows.
    pub(super) is_counted: bool,
    /// Set once its vectors were read, and are as their manifests say.
    pub(super) are_vectors_right: OnceCell<()>,
    _memory: MemoryReservation,
}

/// Scans of a table, each once.
#[derive(Debug)]
struct TableScans {
    scans: Vec<ToldScan>,
    /// Ids of the fields that scans of tables with the same metadata file read: these have the same manifests.
    also: BTreeSet<i32>,
    /// Plans that are there, by the scans' positions.
    plans: tokio::sync::Mutex<HashMap<usize, Arc<KeptPlan>>>,
}

#[derive(Debug, Clone)]
struct ToldScan {
    /// Table that the scan is of, an [`IcebergTable`].
    provider: Arc<dyn TableProvider>,
    version: Version,
    asked: AskedScan,
    is_counted: bool,
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

impl TableName {
    fn of(table: &Table) -> Self {
        Self { name: table.name().to_owned(), metadata_location: table.metadata_location().to_owned() }
    }
}

impl Version {
    fn of(table: &Table) -> Self {
        Self { snapshot: table.snapshot_id(), schema: table.schema_id() }
    }
}

impl KeptPlan {
    /// Makes a plan whose memory counts in a session's pool.
    ///
    /// # Errors
    /// The pool's.
    pub(super) fn new(
        files: FilePlan,
        schema: SchemaRef,
        statistics: Statistics,
        session: &dyn Session,
    ) -> Result<Self> {
        let memory = MemoryConsumer::new("plan of a scan").register(&session.runtime_env().memory_pool);
        memory.try_grow(files.held_bytes())?;
        Ok(Self { files, schema, statistics, is_counted: true, are_vectors_right: OnceCell::new(), _memory: memory })
    }
}

impl ToldScan {
    fn is(&self, other: &ToldScan) -> bool {
        self.version == other.version && self.is_counted == other.is_counted && self.asked.is(&other.asked)
    }

    fn table(&self) -> Result<&IcebergTable> {
        match self.provider.downcast_ref::<IcebergTable>() {
            Some(table) => Ok(table),
            None => internal_err!("a scan of an Iceberg table is none"),
        }
    }
}

impl ScanPlans {
    /// Tells a session the scans of its statement, before the first of them is planned. Plans of the same scans stay.
    pub fn tell(session: &dyn Session, plan: &LogicalPlan) {
        let Some(plans) = session.config().get_extension::<ScanPlans>() else { return };
        let mut told: HashMap<TableName, Vec<ToldScan>> = HashMap::new();
        let mut known = HashMap::new();
        let mut also: HashMap<String, BTreeSet<i32>> = HashMap::new();
        for_each_scan(plan, |provider, scan, is_counted| {
            let Some(IcebergTable { table, .. }) = provider.downcast_ref() else { return };
            let (name, version) = (TableName::of(table), Version::of(table));
            let asked = asked(table, scan.projection.as_deref(), &scan.filters);
            also.entry(name.metadata_location.clone()).or_default().extend(&asked.columns);
            let scans = told.entry(name.clone()).or_default();
            let key = (name, version, asked.columns.clone(), Arc::clone(&asked.told));
            let place = *known.entry(key).or_insert(scans.len());
            match scans.get_mut(place) {
                Some(same) => same.is_counted |= is_counted,
                None => scans.push(ToldScan { provider: Arc::clone(provider), version, asked, is_counted }),
            }
        });
        let mut tables = plans.lock();
        for (name, scans) in told {
            let is_same = |known: &Arc<TableScans>| {
                known.scans.len() == scans.len() && known.scans.iter().zip(&scans).all(|(a, b)| a.is(b))
            };
            if tables.get(&name).is_some_and(is_same) {
                continue;
            }
            let also = also.get(&name.metadata_location).cloned().unwrap_or_default();
            tables.insert(name, Arc::new(TableScans { scans, also, plans: tokio::sync::Mutex::default() }));
        }
    }

    /// Lets go of all plans, and of the memory of the files of scans.
    pub fn forget(session: &dyn Session) {
        if let Some(plans) = session.config().get_extension::<ScanPlans>() {
            plans.lock().clear();
            plans.files.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Counts the files of a scan until the plans are let go.
    pub(super) fn hold(session: &dyn Session, files: MemoryReservation) {
        if let Some(plans) = session.config().get_extension::<ScanPlans>() {
            plans.files.lock().unwrap_or_else(PoisonError::into_inner).push(files);
        }
    }

    /// Returns the plan of a scan, or makes those of all scans of its table that are not there.
    ///
    /// # Errors
    /// Those of planning, and the memory pool's.
    pub(super) async fn get(session: &dyn Session, own: &IcebergTable, asked: &AskedScan) -> Result<Arc<KeptPlan>> {
        let version = Version::of(&own.table);
        let told = session.config().get_extension::<ScanPlans>();
        let scans = told.and_then(|plans| plans.lock().get(&TableName::of(&own.table)).cloned());
        let is = |known: &ToldScan| known.version == version && known.asked.is(asked);
        let place = |scans: &Arc<TableScans>| scans.scans.iter().position(is);
        match scans.and_then(|scans| Some((place(&scans)?, scans))) {
            Some((place, scans)) => scans.get(place, session).await,
            // Nobody has told of it.
            None => {
                let table = own.at_hand(session)?;
                let plan = table.plan(&asked.request(&BTreeSet::new())).await.map_err(external)?;
                Ok(Arc::new(own.kept(plan, true, session)?))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TableName, Arc<TableScans>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TableScans {
    async fn get(&self, place: usize, session: &dyn Session) -> Result<Arc<KeptPlan>> {
        let mut made = self.plans.lock().await;
        if !made.contains_key(&place) {
            let missing: Vec<(usize, &ToldScan)> =
                self.scans.iter().enumerate().filter(|(place, _)| !made.contains_key(place)).collect();
            let tables = missing.iter().map(|(_, scan)| scan.table()?.at_hand(session)).collect::<Result<Vec<_>>>()?;
            let requests = missing.iter().zip(&tables);
            let requests = requests
                .map(|((_, scan), table)| VersionRequest { table, request: scan.asked.request(&self.also) })
                .collect::<Vec<_>>();
            let plans = plan_versions(&requests).await.map_err(external)?;
            for ((place, scan), plan) in missing.into_iter().zip(plans) {
                made.insert(place, Arc::new(scan.table()?.kept(plan, scan.is_counted, session)?));
            }
        }
        match made.get(&place) {
            Some(plan) => Ok(Arc::clone(plan)),
            None => internal_err!("a scan has no plan"),
        }
    }
}

/// Visits the scans of a statement, each with the answer whether an aggregate may count its rows.
fn for_each_scan(plan: &LogicalPlan, mut visit: impl FnMut(&Arc<dyn TableProvider>, &TableScan, bool)) {
    let mut counted: HashSet<*const TableScan> = HashSet::new();
    let visited = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => {
                counted.extend(scans_below(&aggregate.input).into_iter().map(std::ptr::from_ref));
            }
            LogicalPlan::TableScan(scan) => {
                if let Ok(provider) = source_as_provider(&scan.source) {
                    visit(&provider, scan, counted.contains(&std::ptr::from_ref(scan)));
                }
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "the visit never fails");
}

/// Lists the scans whose rows a plan has, all of them and no others.
fn scans_below(plan: &LogicalPlan) -> Vec<&TableScan> {
    let (mut found, mut plans) = (Vec::new(), vec![plan]);
    while let Some(next) = plans.pop() {
        match next {
            LogicalPlan::TableScan(scan) => found.push(scan),
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Union(_) => {
                plans.extend(next.inputs());
            }
            _ => {}
        }
    }
    found
}

/// Describes a scan. The columns of its filters are among those of its projection.
pub(super) fn asked(table: &Table, projection: Option<&[usize]>, filters: &[datafusion::prelude::Expr]) -> AskedScan {
    let schema = table.schema();
    let fields = schema.fields.iter().enumerate();
    let read = fields.filter(|(position, _)| projection.is_none_or(|columns| columns.contains(position)));
    AskedScan::new(predicate(filters, schema), read.map(|(_, field)| field.id).collect())
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
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
            let tables: Vec<Arc<TableScans>> = plans.lock().values().cloned().collect();
            assert_eq!(tables.len(), 1, "two names of one table");
            let scans = tables[0].scans.iter().map(|scan| &scan.asked.columns);
            let mut columns: Vec<Vec<i32>> = scans.map(|columns| columns.iter().copied().collect()).collect();
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
        for (sql, expect) in [
            ("SELECT count(*) FROM t", true),
            ("SELECT count(*) FROM (SELECT 1 FROM t UNION ALL SELECT 2 FROM again)", true),
            ("SELECT 1 FROM t LIMIT 1", false),
            ("SELECT count(*) FROM (SELECT 1 FROM t LIMIT 1)", false),
            ("SELECT a FROM again WHERE EXISTS (SELECT 1 FROM t)", false),
            ("SELECT 1 FROM t UNION ALL SELECT count(*) FROM again", true),
        ] {
            let is_counted = told(sql).await.2.scans.iter().any(|scan| scan.is_counted);
            assert_eq!(is_counted, expect, "{sql}");
        }
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
    fn plans_count_in_the_memory_of_their_query() {
        let plan = || {
            let hit = PartitionHit { spec_id: 0, text: "p=1".to_owned(), files: 1 };
            FilePlan { route: Route { is_pinned: true, partitions: vec![hit] }, ..FilePlan::default() }
        };
        let bytes = plan().held_bytes();
        assert!(bytes > 3, "{bytes}");
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(2 * bytes));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool)).build_arc().expect("a runtime");
        let state = SessionContext::new_with_config_rt(SessionConfig::new(), runtime).state();
        let kept = || KeptPlan::new(plan(), Arc::new(arrow::datatypes::Schema::empty()), Statistics::default(), &state);
        let two = [kept().expect("room"), kept().expect("room")];
        let error = kept().map(|_| ()).expect_err("no room").to_string();
        assert!(error.contains("plan of a scan"), "{error}");
        drop(two);
        assert_eq!(pool.reserved(), 0);
    }
}
