//! From a logical plan to a plan for a place. [`Planner::plan`] takes these steps from top to bottom:
//!
//! 1. DataFusion's logical rules.
//! 2. The coordinator's own plan, where the query may stay here: DataFusion's, untouched.
//! 3. The fleet's facts, if there is anything to send. Where seconds decide, the query stays here if its scans would not be faster on
//!    functions at their best. A plan with a scan that does not travel is compared in full.
//! 4. [`passes::spread`]: the distributed plan. Before DataFusion's own physical rules, every scan gets as many partitions as the
//!    coordinator has, so that the rules put gathers, merges and partial aggregates where fragments will end.
//! 5. [`passes::aligned`] marks the joins of tables that are parted alike. [`passes::broadcast`] marks the joins whose build side every function can have. [`passes::unions`] moves partition-local operators into
//!    the branches of unions. [`passes::shuffle`] marks the exchanges between functions. [`passes::cut`] finds each scan's maximal partition-local subtree. [`passes::facts`] lets
//!    its joins and sorts tell its scan what they learn, and [`passes::stages`] encodes it once.
//! 6. [`passes::units`] takes the subtree's files apart into scan units, cut at row groups and weighed by projected bytes;
//!    [`passes::pack`] packs the units, largest first, into fragments and lanes.
//!    Where the settings leave open whether functions do more than to scan, and they would, steps 4 to 6 are taken twice: once for all that they may do, once for
//!    scans alone.
//! 7. Forecasts of the query here and of the [`candidates`] there, from [`loads`] by [`crate::model::attempts`]. [`mod@choose`] picks one of all.
//! 8. Leaves that run stages take the place of the subtrees.
//! 9. When a fragment is handed out, [`shipped`] gives it the footers that the session has.
//! 10. When the build sides of a stage's joins are there, [`keys`] leaves out the files that have none of their keys. Where those of joins over exchanges are small, the stage that
//!     [`passes::shuffle`] has made for that takes the place of theirs. Nothing is planned then: what has not started is exchanged for what was planned for it.
//! 11. When the coordinator's own streams start, [`passes::tails`] cuts the last files of their scans at row groups.
//!
//! The passes are pure and do no I/O. Footers that were read anyway are looked up in a cache. Every intermediate plan still runs on one
//! node. Local plans have the rules beside the passes, too: [`rules::unsound`], after DataFusion's own, refuses operators that give wrong rows.
//! DataFusion's own rules are [`rules::filter_names::rules`]: stock, but for a guard and `rules::order_check`.

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use gust_catalog::Pruning;
use url::Url;

pub mod analyzed;
pub mod candidates;
pub mod certain_work;
pub mod choose;
pub mod combining;
mod decide;
mod deletes;
pub mod explain;
mod forwarding;
pub mod graph;
pub mod keys;
pub mod lanes;
pub mod loads;
pub mod passes;
mod quote;
pub mod rules;
mod shipped;

pub use deletes::{DigestBounds, DigestWork, DigestedDeletes, DigestedKeys, GroupWork, StageDeletes, read_bytes};
pub use graph::{DistributedPlan, Placement, Stage};
pub use passes::broadcast::BroadcastExec;
pub use passes::stages::{FunctionAccess, Leaf};

use crate::config::{Config, Prefer, Target};
use crate::exchange::places;
use crate::fleet::Fleet;
use crate::model::{Decision, FleetFacts, FunctionSize, PackedAs, PlatformTraits, Reason, Workload};
use crate::storage::Stores;
use crate::tables::iceberg::ScanPlans;
use crate::tables::pruning::PruningNotes;
use loads::stages::{FunctionReaders, StageMaker};
use passes::broadcast::Joins;
use passes::facts::Facts;
use passes::pack::Packing;
use passes::shuffle::{Shuffles, StageRules};
use passes::spread::distributing;
use passes::stages::CutPlan;

/// Sources of a query's plan.
///
/// ```
/// # use std::sync::Arc;
/// use datafusion::prelude::SessionContext;
/// use gust_engine::config::{Config, Target};
/// use gust_engine::exec::RemoteFragmentExec;
/// use gust_engine::fleet::Fleet;
/// use gust_engine::planner::Planner;
/// use gust_engine::storage::Stores;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Arc::new(Config { on: Target::InProcess, ..Config::default() });
/// let (stores, folder) = (Stores::new(config.s3.clone()), tempfile::tempdir()?);
/// let fleet = Arc::new(Fleet::new(&config, &stores, folder.path(), Vec::new())?);
/// let planner = Planner { settings: (&*config).into(), fleet, stores, leaf: &RemoteFragmentExec::leaf };
///
/// let state = SessionContext::new().state();
/// let logical = state.create_logical_plan("SELECT 6 * 7 AS answer").await?;
/// let planned = planner.plan(state, &logical).await?;
/// assert!(planned.stages().is_empty(), "there is no table to scan");
/// # Ok(())
/// # }
/// ```
pub struct Planner {
    pub settings: PlannerSettings,
    pub fleet: Arc<Fleet>,
    /// The query's stores, which count what planning asks of them.
    pub stores: Stores,
    /// Maker of the leaf that runs a stage.
    pub leaf: &'static Leaf<'static>,
}

/// Settings of planning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlannerSettings {
    pub on: Target,
    pub allow_fallback: bool,
    pub prefer: Option<Prefer>,
    pub deadline: Option<Duration>,
    pub fragment_bytes_target: u64,
    /// Memory of the coordinator.
    pub memory_bytes_max: u64,
    /// Bounds above which the coordinator reads delete files for functions.
    pub digest: DigestBounds,
    pub stages: StageRules,
    /// Packing of an earlier coordinator, whose work is gone on with.
    pub packed: Option<PackedAs>,
}

impl From<&Config> for PlannerSettings {
    fn from(config: &Config) -> Self {
        let Config { on, allow_fallback, prefer, deadline, fragment_bytes_target, memory_bytes_max, .. } = *config;
        let digest = DigestBounds::default();
        let joins = Joins::new(config.join, config.broadcast_bytes_max);
        let partitions = config.shuffle_partitions.map(|partitions| partitions as usize);
        let buckets = config.exchange.as_deref().map_or(1, |url| places(url).len());
        let shuffles = Shuffles {
            place: config.shuffle,
            sort: config.sort,
            partitions,
            bytes_min: config.shuffle_bytes_min,
            reads_max: config.shuffle_reads_max.saturating_mul(buckets as u64),
            may_combine: false,
            build_first: config.build_first,
        };
        let stages = StageRules { joins, aligned: config.aligned_joins, shuffles, facts: Facts::NONE };
        Self {
            on,
            allow_fallback,
            prefer,
            deadline,
            fragment_bytes_target,
            memory_bytes_max,
            digest,
            stages,
            packed: None,
        }
    }
}

/// A query that is ready to run.
#[derive(Debug)]
pub struct PlannedQuery {
    pub state: SessionState,
    pub plan: Arc<dyn ExecutionPlan>,
    /// Part that functions run. None where it runs on the coordinator alone.
    pub functions: Option<FunctionsPlan>,
    pub decision: Decision,
    /// Savings by table metadata, by table.
    pub pruning: Vec<(String, Pruning)>,
    /// Reasons of exchanges, by hash or by ranges, to stay on the coordinator.
    pub kept_shuffles: Vec<String>,
    /// Reasons of joins not to be aligned.
    pub not_aligned: Vec<String>,
}

/// Second plan of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It is like the first, as far as the state's settings are.
    Alike,
    /// It is like the first, on functions of the next larger size.
    Larger { memory_mb: u32 },
    /// It has so many fragments for each fragment of the first, and its joins on the coordinator.
    Finer { more: usize },
}

/// The part of a query that functions run.
#[derive(Debug, Clone)]
pub struct FunctionsPlan {
    /// Stages, at least one.
    pub stages: Vec<Arc<Stage>>,
    pub packed: PackedSize,
    /// Environments that are busy at the same time.
    pub at_once: usize,
    /// Rules by which stages were cut off.
    rules: StageRules,
    /// The fleet when it was planned.
    facts: FleetFacts,
}

impl FunctionsPlan {
    /// Returns the next larger size of functions.
    pub fn larger(&self) -> Option<&FunctionSize> {
        larger(&self.facts.sizes, self.packed.size.memory_mb)
    }

    /// Returns the packing, for another coordinator that plans alike.
    pub fn packed_as(&self) -> PackedAs {
        let PackedSize { size, packing } = &self.packed;
        let only_scans = self.rules == StageRules { facts: self.rules.facts, ..StageRules::SCANS };
        PackedAs { memory_mb: size.memory_mb, functions: packing.functions, only_scans }
    }
}

/// Functions of one size, and the packing of fragments for them.
#[derive(Debug, Clone)]
pub struct PackedSize {
    pub size: FunctionSize,
    pub packing: Packing,
}

impl PlannedQuery {
    /// Returns the stages of its plan; none where it runs on the coordinator alone.
    pub fn stages(&self) -> &[Arc<Stage>] {
        self.functions.as_ref().map_or(&[], |functions| &functions.stages)
    }

    fn here(state: SessionState, plan: Arc<dyn ExecutionPlan>, decision: Decision) -> Self {
        let (pruning, kept_shuffles, not_aligned) = (Vec::new(), Vec::new(), Vec::new());
        Self { state, plan, functions: None, decision, pruning, kept_shuffles, not_aligned }
    }

    fn on_functions(
        state: SessionState,
        DistributedPlan { plan, stages, kept, kept_shuffles, not_aligned }: DistributedPlan,
        packed: PackedSize,
        rules: StageRules,
        facts: FleetFacts,
        decision: Decision,
    ) -> Result<Self> {
        let plan = Facts::of(state.config_options()).told(plan)?;
        let fragments = stages.iter().map(|stage| stage.fragments.len()).sum();
        let at_once = packed.size.at_once(fragments);
        // Without a stage the decision's own reason tells them.
        let others = if stages.is_empty() { Vec::new() } else { graph::other_formats(&plan) };
        let others = others.into_iter().map(|format| Reason::NoParquet(format).to_string());
        let decision = decision.keeping(&kept.into_iter().chain(others).collect::<Vec<_>>());
        let functions = FunctionsPlan { stages, packed, at_once, rules, facts };
        let functions = Some(functions).filter(|functions| !functions.stages.is_empty());
        Ok(Self { state, plan, functions, decision, pruning: Vec::new(), kept_shuffles, not_aligned })
    }
}

impl Planner {
    /// Plans a query for the place that is decided on.
    ///
    /// # Errors
    /// The engine's, and a [`crate::error::QueryError`] in them where functions are asked for and cannot be used.
    pub async fn plan(&self, mut state: SessionState, logical: &LogicalPlan) -> Result<PlannedQuery> {
        let notes = PruningNotes::default();
        state.config_mut().set_extension(Arc::new(notes.clone()));
        let planned = match self.settings.on {
            Target::Local => self.here(state, logical, Decision::local(Reason::Requested, Workload::default())).await,
            _ if self.settings.compares() && self.settings.packed.is_none() => {
                Box::pin(self.by_estimate(state, logical, &notes)).await
            }
            _ => Box::pin(self.as_asked(state, logical, &notes)).await,
        };
        Ok(PlannedQuery { pruning: notes.take(), ..planned? })
    }

    /// Plans for the coordinator alone, however that was decided: stock planning, nothing else.
    pub async fn here(&self, state: SessionState, logical: &LogicalPlan, decision: Decision) -> Result<PlannedQuery> {
        let optimized = optimized(&state, logical)?;
        let plan = state.query_planner().create_physical_plan(&optimized, &state).await?;
        Ok(PlannedQuery::here(state, plan, decision))
    }

    /// Plans a query anew that has run with `first`: at the same place, with another state.
    pub async fn again(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        first: &FunctionsPlan,
        again: Again,
        decision: Decision,
    ) -> Result<PlannedQuery> {
        let FunctionsPlan { stages, packed: PackedSize { size, packing }, rules, facts, .. } = first;
        let rules = StageRules { facts: Facts::of(state.config_options()), ..*rules };
        let (more, rules) = match again {
            Again::Alike | Again::Larger { .. } => (1, rules),
            // The first run has shown that memory is short: joins stay here, where they spill.
            Again::Finer { more } => (more, StageRules { facts: rules.facts, ..StageRules::SCANS }),
        };
        let packing = Packing {
            functions_max: packing.functions_max * more,
            functions: packing.functions.map(|functions| functions * more),
            fragment_bytes_target: packing.fragment_bytes_target / more as u64,
            ..*packing
        };
        // The lanes are as many as before, and share more memory.
        let is_chosen =
            |size: &&FunctionSize| matches!(again, Again::Larger { memory_mb } if size.memory_mb == memory_mb);
        let (size, packing) = match facts.sizes.iter().find(is_chosen) {
            Some(larger) => {
                let (model, functions_max) = (larger.model, larger.functions_max);
                let function_memory_bytes = larger.limits.memory_bytes_max;
                (larger, Packing { model, functions_max, function_memory_bytes, ..packing })
            }
            None => (size, packing),
        };
        let optimized = optimized(&state, logical)?;
        let (distributing, plan) = distributed(&state, &optimized, rules).await?;
        match self.cut(&plan, rules)? {
            Placement::Here(reason) => self.here(state, logical, Decision::local(reason, decision.workload)).await,
            Placement::Functions(cut) => {
                // Books and results are told apart by the number of a stage.
                let footers = footers(&state);
                let mut maker = StageMaker::of(&cut, footers.as_ref());
                let readers = FunctionReaders { facts, size };
                let numbered = stages.iter().flat_map(|stage| std::iter::once(stage).chain(stage.stand_ins()));
                let numbers = numbered.map(|stage| stage.index + 1).max().unwrap_or(0);
                let stages = maker.stages(numbers, &packing, self.settings.memory_bytes_max, readers);
                let distributed = cut.with_leaves(stages.into_iter().map(Arc::new).collect(), self.leaf)?;
                let packed = PackedSize { size: size.clone(), packing };
                PlannedQuery::on_functions(distributing, distributed, packed, rules, facts.clone(), decision)
            }
        }
    }

    /// Makes a packing with `fan_out` fragments a stage. None makes fragments of a size that pays.
    fn packing(&self, size: &FunctionSize, fan_out: Option<usize>) -> Packing {
        Packing {
            fragment_bytes_target: self.settings.fragment_bytes_target,
            model: size.model,
            functions_max: size.functions_max,
            functions: fan_out,
            lanes_max: size.lanes,
            function_memory_bytes: size.limits.memory_bytes_max,
            digest: DigestBounds { bridge_bytes: size.limits.bridge_bytes, ..self.settings.digest },
        }
    }

    /// Returns the rules for a session's statements on these functions.
    fn rules(&self, state: &SessionState, FleetFacts { sizes, .. }: &FleetFacts) -> StageRules {
        let shuffles = self.settings.stages.shuffles.among(sizes);
        StageRules { facts: Facts::of(state.config_options()), shuffles, ..self.settings.stages }
    }

    fn cut(&self, plan: &Arc<dyn ExecutionPlan>, rules: StageRules) -> Result<Placement<CutPlan>> {
        let PlatformTraits { name, shares_machine, .. } = self.fleet.platform().traits();
        let reach = |url: &str| -> Result<FunctionAccess> {
            let url = Url::parse(url).map_err(|e| DataFusionError::External(Box::new(e)))?;
            if url.scheme() == "file" && !shares_machine {
                let why = format!("functions on {name} cannot read this machine's files; put the table into S3");
                return Ok(FunctionAccess::Never(why));
            }
            Ok(FunctionAccess::Through(self.stores.access_root(&url)?))
        };
        CutPlan::of(plan, rules, &reach)
    }
}

/// Optimizes a query's plan. The session learns of all its scans before the first of them is planned.
fn optimized(state: &SessionState, logical: &LogicalPlan) -> Result<LogicalPlan> {
    let optimized = state.optimize(logical)?;
    ScanPlans::tell(state, &optimized);
    Ok(optimized)
}

/// Makes the physical plan that stages are cut from, and returns it with its state.
async fn distributed(
    state: &SessionState,
    optimized: &LogicalPlan,
    rules: StageRules,
) -> Result<(SessionState, Arc<dyn ExecutionPlan>)> {
    let state = distributing(state, rules);
    let plan = state.query_planner().create_physical_plan(optimized, &state).await?;
    Ok((state, plan))
}

/// Returns the smallest size with more memory.
fn larger(sizes: &[FunctionSize], memory_mb: u32) -> Option<&FunctionSize> {
    sizes.iter().filter(|size| size.memory_mb > memory_mb).min_by_key(|size| size.memory_mb)
}

fn footers(state: &SessionState) -> Arc<FileMetadataCache> {
    state.runtime_env().cache_manager.get_file_metadata_cache()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Asking, Fleet};

    #[tokio::test]
    async fn the_next_size_is_the_smallest_with_more_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Arc::new(Config { on: Target::InProcess, ..Config::default() });
        let stores = Stores::new(config.s3.clone());
        let fleet = Fleet::new(&config, &stores, folder.path(), Vec::new()).expect("a fleet");
        let size = fleet.facts(Asking::Always).await.expect("a size").sizes.remove(0);
        let sizes = [2048, 512, 8192].map(|memory_mb| FunctionSize { memory_mb, ..size.clone() });
        for (memory_mb, expect) in [(512, Some(2048)), (2048, Some(8192)), (8192, None), (100, Some(512))] {
            assert_eq!(larger(&sizes, memory_mb).map(|size| size.memory_mb), expect, "{memory_mb}");
        }
    }
}
