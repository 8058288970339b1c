//! Stages that may take the places of others, because the build sides of their joins are small ([`with_copies`]).

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_plan::ExecutionPlan;

use super::{FunctionAccess, Packer, StageTemplate};
use crate::config::{BuildFirst, JoinPlace};
use crate::planner::graph::{RowsOrder, Stage, StageShuffle};
use crate::planner::passes::pack::{PackedUnits, Packing};
use crate::planner::passes::shuffle::{StageRules, with_copies};

impl StageTemplate {
    /// Makes the template of the stage that may take the place of the one over `subtree`. None where there is none, and where it cannot travel: it is one more way, and no
    /// reason to stay.
    pub(super) fn with_copies(
        subtree: &Arc<dyn ExecutionPlan>,
        order: RowsOrder,
        rules: StageRules,
        reach: &dyn Fn(&str) -> Result<FunctionAccess>,
    ) -> Result<Option<Box<Self>>> {
        if rules.joins.place == JoinPlace::Local {
            return Ok(None);
        }
        let Some(copies) = with_copies(subtree, rules.shuffles)? else { return Ok(None) };
        let template = Self::of(&copies, rules, reach)?.ok().filter(|template| template.order == order);
        Ok(template.map(|template| Box::new(Self { alone: None, ..template })))
    }
}

impl Packer<'_> {
    /// Makes the stage with copies for one of `stages`, with the next of the `spare` numbers. It has the fragments that scan for the last exchange. None where there is none, or
    /// where `auto` does not wait: functions read more for the build sides than for the other side, so that this one would begin late.
    pub(super) fn copies_of(
        &self,
        stages: &[Stage],
        consumer: usize,
        spare: &mut impl Iterator<Item = u32>,
        packing: &Packing,
    ) -> Option<Stage> {
        let template = self.templates[consumer].template;
        let copies = template.copies.as_deref()?;
        let (probe, builds) = template.producers.split_last()?;
        let build_bytes: u64 = builds.iter().map(|build| self.bytes_below(stages, *build)).sum();
        let waits = match template.shuffles.build_first {
            BuildFirst::Always => true,
            BuildFirst::Auto => build_bytes <= self.bytes_below(stages, *probe),
            BuildFirst::Never => false,
        };
        if !waits {
            return None;
        }
        let Stage { units, fragments, .. } = &stages[self.scan_below(*probe)];
        let packed = PackedUnits { units: units.clone(), fragments: fragments.clone() };
        let stage = copies.stage(spare.next()?, packed, packing);
        let StageShuffle { partitions, siblings, reason, .. } = &stages[consumer].shuffle;
        let (partitions, siblings, reason) = (*partitions, *siblings, Arc::clone(reason));
        Some(Stage { shuffle: StageShuffle { partitions, siblings, reason, ..stage.shuffle.clone() }, ..stage })
    }

    /// Sums up the bytes that a stage and those below it scan.
    fn bytes_below(&self, stages: &[Stage], position: usize) -> u64 {
        let below = self.templates[position].template.producers.iter();
        stages[position].weight_bytes() + below.map(|below| self.bytes_below(stages, *below)).sum::<u64>()
    }

    /// Returns the position of the stage that scans for an exchange: the one below a stage that combines objects.
    fn scan_below(&self, position: usize) -> usize {
        match self.templates[position].template.producers.as_slice() {
            [below] => self.scan_below(*below),
            _ => position,
        }
    }
}
