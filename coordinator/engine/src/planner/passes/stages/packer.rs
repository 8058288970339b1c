//! Files of the stages, weighed once and packed as often as candidates ask for it.

use std::sync::Arc;

use datafusion::datasource::physical_plan::FileGroup;
use datafusion::execution::cache::cache_manager::FileMetadataCache;

use super::template::{StageTemplate, TemplateScan};
use crate::planner::graph::Stage;
use crate::planner::loads::results::compressed;
use crate::planner::passes::aligned::AlignedFiles;
use crate::planner::passes::cut::has_rows_over_none;
use crate::planner::passes::pack::{Lane, PackedFragment, PackedUnits, Packing, grouped, over_parts, packed};
use crate::planner::passes::spread::keeps_groups;
use crate::planner::passes::units::{WeighedFile, weighed};

/// The stages of a plan, whose files are weighed.
#[derive(Debug)]
pub struct Packer<'a> {
    pub(super) templates: Vec<WeighedTemplate<'a>>,
}

#[derive(Debug)]
pub(super) struct WeighedTemplate<'a> {
    pub(super) template: &'a StageTemplate,
    files: TemplateFiles,
}

/// Files of a stage.
#[derive(Debug)]
enum TemplateFiles {
    /// One fragment for each group, whatever the packing.
    Groups(PackedUnits),
    Weighed(Vec<WeighedFile>),
    /// Several scans, whose files are read together by partition.
    Aligned(AlignedFiles),
    /// None: rows of other stages. So many bytes are expected, encoded.
    Parts(Option<u64>),
}

impl<'a> Packer<'a> {
    /// Weighs the files of templates.
    pub(super) fn of(templates: impl Iterator<Item = &'a StageTemplate>, footers: &FileMetadataCache) -> Self {
        let weighed = |template| WeighedTemplate { template, files: TemplateFiles::of(template, footers) };
        Self { templates: templates.map(weighed).collect() }
    }

    /// Packs stages, the first of which has the number `first`. Their loads are their bytes until
    /// [`crate::planner::loads::stages::StageMaker`] gives them better ones.
    pub fn stages(&self, first: u32, packing: &Packing) -> Vec<Stage> {
        let packed = self.packed(packing);
        let stages = (first..).zip(&self.templates).zip(packed);
        // Numbers of the stages that may stand in for others come after all of these.
        let mut spare = first + self.templates.len() as u32..;
        let stage =
            |((index, WeighedTemplate { template, .. }), packed): ((u32, &WeighedTemplate<'_>), PackedUnits)| {
                let alone = template.alone.as_ref().zip(template.alone.as_ref().and_then(|_| spare.next()));
                let alone = alone.map(|(alone, index)| Arc::new(alone.stage(index, packed.clone(), packing)));
                Stage { alone, ..template.stage(index, packed, packing) }
            };
        let mut stages: Vec<Stage> = stages.map(stage).collect();
        // Consumers come after their producers. A stage that combines passes partitions on as they are.
        for (consumer, WeighedTemplate { template, .. }) in self.templates.iter().enumerate().rev() {
            let (mut partitions, mut siblings) = (stages[consumer].shuffle.input_partitions, template.producers.len());
            if let (true, Some(own)) = (template.combines, stages[consumer].shuffle.partitions) {
                stages[consumer].shuffle.input_partitions = own;
                (partitions, siblings) = (own, stages[consumer].shuffle.siblings);
            }
            let combining = template.combining(&stages[consumer].fragments, packing);
            for producer in &template.producers {
                stages[consumer].shuffle.producers.push(first + *producer as u32);
                let combines = self.templates[*producer].template.combines;
                let shuffle = &mut stages[*producer].shuffle;
                shuffle.partitions = Some(partitions);
                shuffle.reason = Arc::clone(&template.reason);
                shuffle.siblings = siblings;
                shuffle.combining = combines.then_some(combining);
            }
        }
        for consumer in 0..stages.len() {
            stages[consumer].copies = self.copies_of(&stages, consumer, &mut spare, packing).map(Arc::new);
        }
        stages
    }

    /// Packs all files. A stage that combines objects has no fragments where it is not expected to pay.
    fn packed(&self, packing: &Packing) -> Vec<PackedUnits> {
        let pack =
            |WeighedTemplate { template, files }: &WeighedTemplate<'_>| files.packed(packing).with_rows_of(template);
        let mut all: Vec<PackedUnits> = self.templates.iter().map(pack).collect();
        for (reader, WeighedTemplate { template, .. }) in self.templates.iter().enumerate() {
            let combining = template.combining(&all[reader].fragments, packing);
            for combiner in template.producers.iter().filter(|producer| self.templates[**producer].template.combines) {
                let producers = &self.templates[*combiner].template.producers;
                let objects = producers.iter().map(|producer| all[*producer].fragments.len()).sum();
                let planned = combining.planned();
                let functions = if combining.pays(objects, planned) { planned.runs } else { 0 };
                // One lane asks for each object once.
                let lanes = vec![Lane { units: Vec::new() }];
                all[*combiner].fragments = vec![PackedFragment { lanes }; functions];
            }
        }
        all
    }
}

impl PackedUnits {
    /// Adds a fragment that reads nothing, where there is none and the plan has a row over no rows.
    fn with_rows_of(mut self, template: &StageTemplate) -> Self {
        if self.fragments.is_empty() && has_rows_over_none(&template.plan) {
            self.fragments.push(PackedFragment { lanes: vec![Lane { units: Vec::new() }] });
        }
        self
    }
}

impl TemplateFiles {
    fn of(template: &StageTemplate, footers: &FileMetadataCache) -> Self {
        match template.scans.as_slice() {
            [] => {
                let produced = template.produced.iter().copied().sum::<Option<u64>>();
                Self::Parts(produced.map(compressed))
            }
            [TemplateScan { scan, .. }] if keeps_groups(scan) => Self::Groups(grouped(scan, footers)),
            [TemplateScan { scan, .. }] => {
                Self::Weighed(weighed(scan, scan.file_groups.iter().flat_map(FileGroup::iter), footers))
            }
            scans => {
                let scans = scans.iter().map(|scan| (&scan.scan, scan.keys.as_slice()));
                Self::Aligned(AlignedFiles::of(&template.plan, scans, footers))
            }
        }
    }

    fn packed(&self, packing: &Packing) -> PackedUnits {
        match self {
            Self::Groups(groups) => groups.clone(),
            Self::Aligned(files) => files.packed(packing),
            Self::Weighed(files) => packed(files, packing),
            Self::Parts(bytes) => over_parts(*bytes, packing),
        }
    }
}
