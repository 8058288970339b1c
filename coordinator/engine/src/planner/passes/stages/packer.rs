//! Files of the stages, weighed once and packed as often as candidates ask for it.

use std::sync::Arc;

use datafusion::datasource::physical_plan::FileGroup;
use datafusion::execution::cache::cache_manager::FileMetadataCache;

use super::template::{StageTemplate, TemplateScan};
use crate::planner::combining::Combining;
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
            |((index, WeighedTemplate { template, .. }), packed): ((u32, &WeighedTemplate<'_>), PackedStage)| {
                let PackedStage { packed, combining } = packed;
                let alone = template.alone.as_ref().zip(template.alone.as_ref().and_then(|_| spare.next()));
                let alone = alone.map(|(alone, index)| Arc::new(alone.stage(index, packed.clone(), packing)));
                let mut stage = Stage { alone, ..template.stage(index, packed, packing) };
                stage.shuffle.combining = combining;
                stage
            };
        let mut stages: Vec<Stage> = stages.map(stage).collect();
        // Consumers come after their producers. A stage that combines passes partitions on as they are.
        for (consumer, WeighedTemplate { template, .. }) in self.templates.iter().enumerate().rev() {
            let (mut partitions, mut siblings) = (stages[consumer].shuffle.input_partitions, template.producers.len());
            if let (true, Some(own)) = (template.combines, stages[consumer].shuffle.partitions) {
                stages[consumer].shuffle.input_partitions = own;
                (partitions, siblings) = (own, stages[consumer].shuffle.siblings);
            }
            for producer in &template.producers {
                stages[consumer].shuffle.producers.push(first + *producer as u32);
                let shuffle = &mut stages[*producer].shuffle;
                shuffle.partitions = Some(partitions);
                shuffle.reason = Arc::clone(&template.reason);
                shuffle.siblings = siblings;
            }
        }
        for consumer in 0..stages.len() {
            stages[consumer].copies = self.copies_of(&stages, consumer, &mut spare, packing).map(Arc::new);
        }
        stages
    }

    /// Packs all files. A stage that combines objects has the functions that are expected: none where they are not expected to pay.
    fn packed(&self, packing: &Packing) -> Vec<PackedStage> {
        let pack = |WeighedTemplate { template, files }: &WeighedTemplate<'_>| {
            let packed = files.packed(packing).with_rows_of(template);
            PackedStage { packed, combining: None }
        };
        let mut all: Vec<PackedStage> = self.templates.iter().map(pack).collect();
        for (reader, WeighedTemplate { template, .. }) in self.templates.iter().enumerate() {
            for combiner in template.producers.iter().copied() {
                let WeighedTemplate { template: between, files } = &self.templates[combiner];
                if !between.combines {
                    continue;
                }
                let producers = between.producers.iter().map(|producer| all[*producer].packed.fragments.len()).sum();
                let readers = &all[reader].packed.fragments;
                let combining = template.combining(readers, files.bytes_of_parts(), producers, packing);
                // One lane asks for each object once.
                let lanes = vec![Lane { units: Vec::new() }];
                all[combiner].packed.fragments = vec![PackedFragment { lanes }; combining.expected.functions];
                all[combiner].combining = Some(combining);
            }
        }
        all
    }
}

/// Fragments of a stage.
struct PackedStage {
    packed: PackedUnits,
    /// Rule by which it runs, where all that it does is to make fewer objects.
    combining: Option<Combining>,
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

    /// Returns the encoded bytes that are expected of other stages. None where they are not known.
    fn bytes_of_parts(&self) -> Option<u64> {
        match self {
            Self::Parts(bytes) => *bytes,
            Self::Groups(_) | Self::Weighed(_) | Self::Aligned(_) => None,
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
