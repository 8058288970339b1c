//! A stage: one fragment plan over many inputs, and the coordinator plan that its results flow into.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::logical_expr::physical_planning_context::SubqueryIndex;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, PhysicalExpr};
use fragment_fn::FileConstants;
use gust_protocol::plan::{encode_checked, encode_scalar, scans};
use gust_protocol::{
    Base64, ColumnMatching, Input, LeafSpec, ObjectRef, Output, PlanRef, ScanUnit, StagePlan, StoreAccess,
};

use super::passes::cut::{cut, is_sorted};
use super::passes::pack::{Packing, pack};
use super::passes::spread::keeps_groups;
use super::passes::units::{Unit, units};
use crate::exchange::DATA;
use crate::tables::facts::MATCHING_KEY;

/// Everything that the passes look things up in.
pub struct Surroundings<'a> {
    pub packing: Packing,
    pub footers: &'a FileMetadataCache,
    /// How the functions reach a store, by its URL.
    pub access: &'a dyn Fn(&str) -> Result<StoreAccess>,
    /// Makes the leaf that runs a stage in the place of its subtree.
    pub leaf: &'a Leaf<'a>,
}

/// From a stage and its subtree to what runs it.
pub type Leaf<'a> = dyn Fn(Arc<Stage>, &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> + 'a;

/// A distributed plan.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Runs on the coordinator; its leaves are those of [`Surroundings::leaf`] where functions take over.
    pub plan: Arc<dyn ExecutionPlan>,
    pub stages: Vec<Arc<Stage>>,
    /// Of what would have been a stage and stays in the coordinator's plan, why: it does not arrive at functions as it is.
    pub kept: Vec<String>,
}

/// Fragments that run the same plan over different inputs.
#[derive(Debug)]
pub struct Stage {
    pub index: u32,
    /// What each function runs, over all of the stage's files.
    pub plan: Arc<dyn ExecutionPlan>,
    /// [`encode_checked`] once.
    encoded: Base64,
    matching: ColumnMatching,
    /// How the functions reach the data.
    pub access: StoreAccess,
    pub units: Vec<Unit>,
    /// Fragments, lanes, positions in `units`.
    pub fragments: Vec<Vec<Vec<usize>>>,
    /// Whether each fragment's rows come sorted and are merged, not concatenated.
    pub sorted: bool,
    /// Whether output partition `i` must hold exactly the rows of fragment `i`.
    pub keeps_groups: bool,
}

/// Cuts `plan`, packs each scan's files, and puts a stage in the place of each subtree. A subtree that cannot travel to functions
/// stays where it is, which is planning and no fallback: nothing has failed.
///
/// # Errors
/// [`DataFusionError::NotImplemented`] where a store cannot be reached by functions.
pub fn plan_stages(plan: &Arc<dyn ExecutionPlan>, surroundings: &Surroundings<'_>) -> Result<Planned> {
    plan_stages_after(0, plan, surroundings)
}

/// The same for a query that has had `earlier` stages: it is planned again, and what is booked and written is told apart.
///
/// # Errors
/// Those of [`plan_stages`].
pub fn plan_stages_after(
    earlier: u32,
    plan: &Arc<dyn ExecutionPlan>,
    surroundings: &Surroundings<'_>,
) -> Result<Planned> {
    let (mut stages, mut kept) = (Vec::new(), Vec::new());
    let plan = cut(plan, &mut |subtree| {
        let plan = merged(&subtree);
        let encoded = match encode_checked(&plan) {
            Ok(encoded) => Base64(encoded),
            Err(obstacle) => {
                kept.push(obstacle);
                return Ok(subtree);
            }
        };
        let index = earlier + stages.len() as u32;
        let stage = Arc::new(Stage::new(index, &subtree, (plan, encoded), surroundings)?);
        stages.push(Arc::clone(&stage));
        Ok((surroundings.leaf)(stage, &subtree))
    })?;
    Ok(Planned { plan, stages, kept })
}

/// What a function runs in the place of `subtree`.
fn merged(subtree: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match subtree.output_ordering() {
        // The lanes of a function are merged there: one sorted stream a fragment.
        Some(order) => {
            Arc::new(SortPreservingMergeExec::new(order.clone(), Arc::clone(subtree)).with_fetch(subtree.fetch()))
        }
        None => Arc::clone(subtree),
    }
}

impl Stage {
    fn new(
        index: u32,
        subtree: &Arc<dyn ExecutionPlan>,
        (plan, encoded): (Arc<dyn ExecutionPlan>, Base64),
        surroundings: &Surroundings<'_>,
    ) -> Result<Self> {
        let scans = scans(subtree);
        let [scan] = scans.as_slice() else {
            return Err(DataFusionError::NotImplemented(format!("a fragment over {} scans", scans.len())));
        };
        let sorted = is_sorted(subtree);
        let keeps_groups = keeps_groups(scan);
        let (units, fragments) = if keeps_groups { grouped(scan, surroundings) } else { packed(scan, surroundings) };
        let access = (surroundings.access)(scan.object_store_url.as_str())?;
        Ok(Self { index, plan, encoded, matching: matching(scan)?, access, units, fragments, sorted, keeps_groups })
    }

    /// Compressed bytes of the projected columns over all units.
    pub fn weight_bytes(&self) -> u64 {
        self.units.iter().map(|unit| unit.weight_bytes).sum()
    }

    /// Weight of one fragment.
    pub fn fragment_weight_bytes(&self, fragment: usize) -> u64 {
        self.fragments[fragment].iter().flatten().map(|unit| self.units[*unit].weight_bytes).sum()
    }

    /// Length of the encoded plan.
    pub fn plan_bytes(&self) -> usize {
        self.encoded.0.len()
    }

    /// What travels with every fragment. `options` are the session's settings that matter to a function.
    pub fn stage_plan(&self, output: Output, options: BTreeMap<String, String>) -> Result<StagePlan> {
        Ok(StagePlan {
            plan: PlanRef::Inline(self.encoded.clone()),
            leaves: vec![LeafSpec { matching: self.matching }],
            scalars: scalars(&self.plan)?,
            output,
            options,
        })
    }

    /// The inputs of one fragment.
    pub fn inputs(&self, fragment: usize) -> Result<Vec<(u32, Input)>> {
        let lane = |lane: &Vec<usize>| lane.iter().map(|unit| scan_unit(&self.units[*unit])).collect::<Result<_>>();
        let lanes = self.fragments[fragment].iter().map(lane).collect::<Result<_>>()?;
        Ok(vec![(0, Input::Scan(lanes))])
    }
}

/// Files cut at row groups and packed by weight.
fn packed(scan: &FileScanConfig, surroundings: &Surroundings<'_>) -> (Vec<Unit>, Vec<Vec<Vec<usize>>>) {
    let packing = &surroundings.packing;
    let files = scan.file_groups.iter().flat_map(|group| group.iter());
    // About four units a fragment: enough to balance, few enough that footers are not read all over.
    let unit_bytes_min = |total: u64| {
        let fragments = packing.functions.unwrap_or(packing.functions_max).max(1) as u64;
        (total / (4 * fragments)).min(packing.fragment_bytes_target / 4).max(1)
    };
    let units = units(scan, files, surroundings.footers, unit_bytes_min);
    let weights: Vec<u64> = units.iter().map(|unit| unit.weight_bytes).collect();
    let fragments = pack(&weights, packing);
    (units, fragments)
}

/// One fragment with one lane a file group, in the groups' order.
fn grouped(scan: &FileScanConfig, surroundings: &Surroundings<'_>) -> (Vec<Unit>, Vec<Vec<Vec<usize>>>) {
    let (mut all, mut fragments) = (Vec::new(), Vec::new());
    for group in &scan.file_groups {
        let group = units(scan, group.iter(), surroundings.footers, |_| u64::MAX);
        fragments.push(vec![(all.len()..all.len() + group.len()).collect()]);
        all.extend(group);
    }
    (all, fragments)
}

/// How the files' columns are matched: as the table provider said in its schema.
fn matching(scan: &FileScanConfig) -> Result<ColumnMatching> {
    let Some(matching) = scan.file_schema().metadata().get(MATCHING_KEY) else { return Ok(ColumnMatching::Name) };
    serde_json::from_str(matching).map_err(|e| DataFusionError::External(Box::new(e)))
}

fn scan_unit(unit: &Unit) -> Result<ScanUnit> {
    let meta = &unit.file.object_meta;
    let unsigned = |offset: i64| u64::try_from(offset).unwrap_or_default();
    Ok(ScanUnit {
        file: ObjectRef {
            access: DATA,
            path: meta.location.to_string(),
            size_bytes: meta.size,
            etag: meta.e_tag.clone(),
            footer_bytes: unit.file.metadata_size_hint.map(|bytes| bytes as u64),
        },
        range: unit.file.range.as_ref().map(|range| (unsigned(range.start), unsigned(range.end))),
        partition_values: unit.file.partition_values.iter().map(encode_scalar).collect::<Result<_>>()?,
        constants: unit.file.extensions.get::<FileConstants>().map(|constants| constants.0.clone()).unwrap_or_default(),
    })
}

/// Values of the scalar subqueries of the fragment's scope, if its expressions refer to one.
///
/// All of a scope's subqueries are computed before anything else in it runs, and they are numbered without gaps.
fn scalars(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Base64>> {
    let mut scope = None;
    plan.apply(|node| {
        node.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
            expr.apply(|expr| {
                let subquery = expr.downcast_ref::<ScalarSubqueryExpr>();
                scope = scope.take().or_else(|| subquery.map(|subquery| subquery.results().clone()));
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    let Some(results) = scope else { return Ok(Vec::new()) };
    (0..).map_while(|index| results.get(SubqueryIndex::new(index))).map(|value| encode_scalar(&value)).collect()
}

/// Whether a scan reads Parquet: the only format that fragments know.
pub fn is_parquet(scan: &FileScanConfig) -> bool {
    scan.file_source().downcast_ref::<ParquetSource>().is_some()
}
