//! Pass 6: each subtree that was cut off becomes the template of a stage, encoded once for all packings.
//!
//! ```text
//!  plan ─► marked ─► cut ─► subtree ─► merged, encoded, its store ─► StageTemplate ─► weighed files ─► units, pack ─► Stage
//!                                 └─► does not arrive as it is ─► stays in the coordinator's plan
//! ```
//!
//! A stage over exchanges has no files. Its fragments have lanes for partitions of the rows that other stages send.

mod copies;
mod packer;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::repartition::RepartitionExec;
use gust_protocol::StoreAccess;
use gust_protocol::plan::Obstacle;

use super::aligned::{Aligned, aligned, aligned_scans};
use super::broadcast::{Joins, broadcasts, marked, unmarked};
use super::cut::cut;
use super::pack::Packing;
use super::shuffle::{Shuffled, Shuffles, StageRules, shuffled, shuffles};
use super::unions::into_branches;
use crate::config::AlignedPlace;
use crate::model::Reason;
use crate::planner::graph::{DistributedPlan, Placement, Stage};
use crate::planner::loads::operators::{OperatorsBeside, operators_beside};

pub use packer::Packer;

use template::{NoStage, StageTemplate};

/// Access of functions to a store.
#[derive(Debug, Clone)]
pub enum FunctionAccess {
    Through(StoreAccess),
    /// No access, with the reason.
    Never(Obstacle),
}

/// Maker of the leaf that runs a stage, from the stage and its subtree.
pub type Leaf<'a> = dyn Fn(Arc<Stage>, &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> + Sync + 'a;

/// A distributed plan and its templates.
#[derive(Debug)]
pub struct CutPlan {
    plan: Arc<dyn ExecutionPlan>,
    /// Templates in the order in which [`cut`] finds subtrees.
    templates: Vec<Result<StageTemplate, KeptSubtree>>,
    /// Reasons of exchanges, by hash or by ranges, to stay on the coordinator.
    kept_shuffles: Vec<String>,
    /// Reasons of joins not to be aligned.
    not_aligned: Vec<String>,
}

/// A subtree that stays in the coordinator's plan.
#[derive(Debug)]
struct KeptSubtree {
    subtree: Arc<dyn ExecutionPlan>,
    obstacle: Obstacle,
}

impl CutPlan {
    /// Cuts `plan`. A subtree that cannot travel to functions stays in place, which is planning and no fallback: nothing has failed. If it has
    /// joins, all joins stay on the coordinator, so that the scans below them may travel. If it is a stage over exchanges or below one, all of these stay there, and
    /// so do all aligned joins if it has one.
    ///
    /// # Errors
    /// The engine's, and those of `reach`.
    pub fn of(
        plan: &Arc<dyn ExecutionPlan>,
        rules: StageRules,
        reach: &dyn Fn(&str) -> Result<FunctionAccess>,
    ) -> Result<Placement<Self>> {
        let whole = plan;
        let Aligned { plan, kept: not_aligned } = aligned(plan, rules.aligned)?;
        let Shuffled { plan, kept } = shuffled(&into_branches(&marked(&plan, rules.joins)?)?, rules.shuffles)?;
        let (mut templates, mut unreachable) = (Vec::new(), None);
        let (mut stuck_joins, mut stuck_shuffles, mut stuck_aligned) = (false, None, None);
        // Producers are cut right before the stage that reads their rows.
        let (mut stages, mut producers) = (0, Vec::new());
        cut(&plan, &mut |subtree| {
            let read = shuffles(&subtree);
            let read_from = producers.split_off(producers.len().saturating_sub(read.len()));
            let is_producer = subtree.is::<RepartitionExec>();
            match StageTemplate::of(&subtree, rules, reach)? {
                Ok(template) => {
                    let produced = read.iter().map(|mark| mark.bytes()).collect();
                    let reason = read.first().map_or_else(|| "".into(), |mark| Arc::clone(mark.reason()));
                    templates.push(Ok(StageTemplate { producers: read_from, produced, reason, ..template }));
                    if is_producer {
                        producers.push(stages);
                    }
                    stages += 1;
                }
                Err(NoStage::Unreachable(obstacle)) => unreachable = unreachable.take().or(Some(obstacle)),
                Err(NoStage::Kept(obstacle)) => {
                    stuck_joins |= !broadcasts(&subtree).is_empty();
                    if !aligned_scans(&subtree).is_empty() {
                        stuck_aligned = stuck_aligned.take().or_else(|| Some(obstacle.clone()));
                    }
                    if is_producer || !read.is_empty() {
                        stuck_shuffles = stuck_shuffles.take().or_else(|| Some(obstacle.clone()));
                    }
                    templates.push(Err(KeptSubtree { subtree: Arc::clone(&subtree), obstacle }));
                }
            }
            Ok(subtree)
        })?;
        if let Some(obstacle) = stuck_aligned {
            let mut placed = Self::of(whole, StageRules { aligned: AlignedPlace::Local, ..rules }, reach)?;
            if let Placement::Functions(cut) = &mut placed {
                cut.not_aligned.push(format!("all of them: a stage cannot travel: {obstacle}"));
            }
            return Ok(placed);
        }
        if let Some(obstacle) = stuck_shuffles {
            let mut placed = Self::of(whole, StageRules { shuffles: Shuffles::NONE, ..rules }, reach)?;
            if let Placement::Functions(cut) = &mut placed {
                cut.kept_shuffles.push(format!("all of them: a stage cannot travel: {obstacle}"));
            }
            return Ok(placed);
        }
        if stuck_joins {
            return Self::of(whole, StageRules { joins: Joins::LOCAL, ..rules }, reach);
        }
        if let Some(obstacle) = unreachable {
            return Ok(Placement::Here(Reason::PlanNotSupported(obstacle)));
        }
        if let Some(Err(KeptSubtree { obstacle, .. })) = templates.first()
            && templates.iter().all(Result::is_err)
        {
            return Ok(Placement::Here(Reason::NothingTravels(obstacle.clone())));
        }
        Ok(Placement::Functions(Self { plan, templates, kept_shuffles: kept, not_aligned }))
    }

    /// Lists the subtrees that stay in the coordinator's plan.
    pub fn kept(&self) -> impl Iterator<Item = &Arc<dyn ExecutionPlan>> {
        self.templates.iter().filter_map(|template| Some(&template.as_ref().err()?.subtree))
    }

    /// Returns true if functions do more than to scan: they join, or get rows from one another.
    pub fn is_staged(&self) -> bool {
        self.templates.iter().flatten().any(|template| template.stages_before > 0 || template.aligned.is_some())
    }

    /// Lists the reasons of exchanges, by hash or by ranges, to stay on the coordinator.
    pub fn kept_shuffles(&self) -> &[String] {
        &self.kept_shuffles
    }

    /// Sums up the work of the coordinator's operators, without that of the subtrees that stay. Subtrees have the positions of their stages.
    pub fn operators_beside(&self) -> OperatorsBeside {
        let kept: Vec<bool> = self.templates.iter().map(Result::is_err).collect();
        let mut found = operators_beside(&self.plan, &kept);
        for over in &mut found.over_results {
            over.subtree -= kept.iter().take(over.subtree).filter(|is_kept| **is_kept).count();
        }
        found
    }

    /// Lists the scans of its stages, stage by stage: none of a stage over exchanges.
    pub fn scans(&self) -> impl Iterator<Item = Vec<&FileScanConfig>> {
        self.templates.iter().flatten().map(|template| template.scans.iter().map(|scan| &scan.scan).collect())
    }

    /// Lists the plans of its stages.
    pub fn plans(&self) -> impl Iterator<Item = &Arc<dyn ExecutionPlan>> {
        self.templates.iter().flatten().map(|template| &template.plan)
    }

    /// Weighs the files of its stages once, for any number of packings.
    pub fn packer(&self, footers: &FileMetadataCache) -> Packer<'_> {
        Packer::of(self.templates.iter().flatten(), footers)
    }

    /// Puts a leaf in the place of each of its stages.
    pub fn with_leaves(&self, stages: Vec<Arc<Stage>>, leaf: &Leaf<'_>) -> Result<DistributedPlan> {
        let (mut next, mut templates) = (stages.iter(), self.templates.iter());
        let plan = cut(&self.plan, &mut |subtree| match templates.next() {
            Some(Ok(_)) => {
                let stage = next.next().ok_or_else(|| DataFusionError::Internal("a stage is missing".to_owned()))?;
                Ok(leaf(Arc::clone(stage), &subtree))
            }
            _ => unmarked(&subtree),
        })?;
        let kept =
            self.templates.iter().filter_map(|template| Some(template.as_ref().err()?.obstacle.clone())).collect();
        let (kept_shuffles, not_aligned) = (self.kept_shuffles.clone(), self.not_aligned.clone());
        Ok(DistributedPlan { plan, stages, kept, kept_shuffles, not_aligned })
    }
}

/// Cuts a plan, packs its files, and puts leaves in the place of its stages.
pub fn plan_stages(
    plan: &Arc<dyn ExecutionPlan>,
    packing: &Packing,
    footers: &FileMetadataCache,
    reach: &dyn Fn(&str) -> Result<FunctionAccess>,
    leaf: &Leaf<'_>,
) -> Result<DistributedPlan> {
    let cut = CutPlan::of(plan, StageRules::SCANS, reach)?.on_functions()?;
    cut.with_leaves(cut.packer(footers).stages(0, packing).into_iter().map(Arc::new).collect(), leaf)
}
