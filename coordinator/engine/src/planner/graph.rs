//! A distributed plan as data: stages, and the coordinator's plan that their results flow into.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::logical_expr::physical_planning_context::SubqueryIndex;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use fragment_fn::{FileConstants, FileDeletes, NeededColumns};
use gust_protocol::plan::{encode_scalar, file_scan};
use gust_protocol::{
    Base64, ColumnMatching, DeleteFile, FragmentResult, Input, LeafId, LeafSpec, ObjectRef, Output, PlanRef, Scan,
    ScanUnit, StagePlan, StoreAccess,
};
use object_store::ObjectMeta;

use super::combining::Combining;
use super::deletes::{DigestedDeletes, RequestDeletes, StageDeletes};
use super::passes::pack::{Lane, PackedFragment, Packing};
use super::passes::units::Unit;
use super::shipped;
use crate::exchange::{DATA_ACCESS_FIRST, PLAN_INLINE_BYTES_MAX};
use crate::model::load::StageLoad;
use crate::model::{Reason, TimeModel, Workload};
use crate::tables::facts::store_of;

/// Most bytes of rows for joins in the requests of all fragments of a stage.
const ROWS_INLINE_BYTES_MAX: u64 = 64 << 20;

/// Setting of DataFusion by which the lanes of a scan take files from one another.
const STEALS_WORK: &str = "datafusion.execution.enable_file_stream_work_stealing";

/// A distributed plan.
#[derive(Debug, Clone)]
pub struct DistributedPlan {
    /// Plan of the coordinator, whose leaves run the stages.
    pub plan: Arc<dyn ExecutionPlan>,
    pub stages: Vec<Arc<Stage>>,
    /// Reasons of subtrees to stay in the coordinator's plan: they do not arrive at functions as they are.
    pub kept: Vec<String>,
    /// Reasons of exchanges, by hash or by ranges, to stay on the coordinator.
    pub kept_shuffles: Vec<String>,
    /// Reasons of joins not to be aligned.
    pub not_aligned: Vec<String>,
}

/// Place at which a distributed plan can run.
#[derive(Debug, Clone)]
pub enum Placement<T> {
    Functions(T),
    /// The coordinator alone, with the reason.
    Here(Reason),
}

impl<T> Placement<T> {
    /// Returns the part on functions, for a caller without another place.
    ///
    /// # Errors
    /// The reason to stay on the coordinator.
    pub fn on_functions(self) -> Result<T> {
        match self {
            Self::Functions(planned) => Ok(planned),
            Self::Here(reason) => Err(DataFusionError::Plan(format!("functions cannot run this query: {reason}"))),
        }
    }
}

/// Fragments that run the same plan over different inputs.
#[derive(Debug, Clone)]
pub struct Stage {
    pub index: u32,
    /// Plan of each function, over all of the stage's files.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Plan as [`gust_protocol::plan::encode_checked`] made it, once.
    pub(super) encoded: Base64,
    /// Scans of its plan, in their order. None where it reads rows of other stages; several where files of one partition value are read together.
    pub(super) leaves: Vec<StageLeaf>,
    /// Words for the fields by which the files of all scans are parted. None where they are not.
    pub aligned: Option<Arc<str>>,
    /// Access of the functions to the data's stores. Scans have the positions of theirs.
    pub accesses: Vec<StoreAccess>,
    pub units: Vec<Unit>,
    /// Fragments, of positions in `units`.
    pub fragments: Vec<PackedFragment>,
    /// Reads of delete files, or of the coordinator's digest of them.
    pub deletes: StageDeletes,
    /// Work of its fragments, by which it was estimated.
    pub load: StageLoad,
    /// Times that its fragments are expected to take from their invocations to their answers.
    pub expected: Vec<Duration>,
    /// Order of its rows where they arrive.
    pub order: RowsOrder,
    /// True if output partition `i` must hold exactly the rows of fragment `i`.
    pub keeps_groups: bool,
    /// True if its rows stay in the exchange for a client.
    pub keeps_rows: bool,
    /// Exchanges with other stages.
    pub shuffle: StageShuffle,
    /// Stage that takes its place if the build sides of its joins are too large: the part of its plan that needs none. None where it gets
    /// no build side.
    pub alone: Option<Arc<Stage>>,
    /// Stage that takes its place if the build sides of its joins over exchanges are small: it gets copies of them, and joins the rows of the last exchange where they are
    /// scanned. None where it does not wait for them.
    pub copies: Option<Arc<Stage>>,
    /// Bytes in memory that the build sides of its joins are expected to have, by their numbers. None where no statistics tell.
    pub broadcasts: Vec<Option<u64>>,
    /// Most bytes in memory of all of them.
    pub broadcast_bytes_max: u64,
    /// Number of stages that end before it begins, one after the other, because it needs their rows.
    pub stages_before: usize,
    /// Packing of its fragments.
    pub(super) packing: Packing,
}

/// Order in which the rows of a stage's fragments go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsOrder {
    /// None: those of a fragment go on when it has ended.
    Any,
    /// Each fragment's rows are sorted, and those of all are merged.
    Merged,
    /// Each fragment's rows are sorted, and go on behind those of the fragments before it.
    InOrder,
}

/// Scan of a stage.
#[derive(Debug, Clone)]
pub(super) struct StageLeaf {
    /// Matching of the columns of its files.
    pub(super) matching: ColumnMatching,
    /// Columns that the fragments need of its files. None where no footer travels.
    pub(super) needed: Option<NeededColumns>,
    /// Positions of its stores among the stage's accesses, by the numbers of files' stores.
    pub(super) stores: Vec<u16>,
}

/// Part of a stage in exchanges between functions.
#[derive(Debug, Clone)]
pub struct StageShuffle {
    /// Partitions of its rows, which go to functions of another stage. None where they go to the coordinator.
    pub partitions: Option<usize>,
    /// Stages whose rows it reads, by the numbers of its plan's leaves. None where it reads files.
    pub producers: Vec<u32>,
    /// Reason to have its rows go to functions.
    pub reason: Arc<str>,
    /// True if another attempt of a fragment gives the same rows to each partition.
    pub is_determinate: bool,
    /// Stages whose rows go to the same stage, itself among them.
    pub siblings: usize,
    /// Partitions of the rows that it reads.
    pub input_partitions: usize,
    /// Least encoded bytes that one of its fragments reads of other stages.
    pub fragment_bytes_min: u64,
    /// Most fragments that it begins with, should it read more than was expected.
    pub fragments_max: usize,
    /// Model by which times of fragments are expected once their bytes are known.
    pub model: TimeModel,
    /// Rule by which it runs, where all that it does is to make fewer objects.
    pub combining: Option<Combining>,
}

impl Stage {
    /// Returns the same stage, whose rows stay in the exchange for a client. So do those of the stage that takes its place in functions.
    #[must_use]
    pub fn keeping_rows(&self) -> Self {
        let copies = self.copies.as_ref().map(|copies| Arc::new(copies.keeping_rows()));
        Self { keeps_rows: true, copies, ..self.clone() }
    }

    /// Lists the stages that may take its place.
    pub fn stand_ins(&self) -> impl Iterator<Item = &Arc<Self>> {
        self.alone.iter().chain(&self.copies)
    }

    /// Returns true if it reads the rows of other stages.
    pub fn is_over_parts(&self) -> bool {
        !self.shuffle.producers.is_empty()
    }

    /// Sums up the compressed bytes of the projected columns over all units.
    pub fn weight_bytes(&self) -> u64 {
        self.units.iter().map(|unit| unit.weight_bytes).sum()
    }

    /// Sums up the compressed bytes of the projected columns of one fragment.
    pub fn data_weight_bytes(&self, fragment: usize) -> u64 {
        let units = self.fragments.get(fragment).into_iter().flat_map(PackedFragment::units);
        units.map(|unit| self.units[unit].weight_bytes).sum()
    }

    /// Sums up the same bytes, and those that the fragment is expected to read of delete files.
    pub fn fragment_weight_bytes(&self, fragment: usize) -> u64 {
        self.data_weight_bytes(fragment) + self.deletes.reads(fragment).bytes
    }

    /// Returns the deletes of a unit's data file.
    pub fn deletes_of(&self, unit: usize) -> Option<&FileDeletes> {
        self.units.get(unit)?.file.extensions.get()
    }

    /// Returns the URL of the first store of a scan, by which its files are known. Their times tell other stores apart.
    pub fn url_of(&self, leaf: LeafId) -> &str {
        let first = self.leaves.get(leaf as usize).and_then(|leaf| leaf.stores.first());
        first.and_then(|store| self.accesses.get(usize::from(*store))).map_or("", |access| access.url.as_str())
    }

    /// Lists the store and the files of each fragment, each file once a fragment.
    pub fn files(&self) -> impl Iterator<Item = (&str, &ObjectMeta)> {
        self.fragments.iter().flat_map(|fragment| {
            let units = fragment.units().map(|unit| (self.units[unit].leaf, &self.units[unit].file.object_meta));
            let each: BTreeMap<_, _> =
                units.map(|(leaf, file)| ((leaf, file.last_modified, &file.location), file)).collect();
            each.into_iter().map(|((leaf, ..), file)| (self.url_of(leaf), file))
        })
    }

    /// Returns the length of the encoded plan, in bytes.
    pub fn plan_bytes(&self) -> usize {
        self.encoded.0.len()
    }

    /// Returns the most bytes of rows for joins that travel with each request: what the plan leaves of its bound, and at most 64 MiB over all
    /// fragments.
    pub fn rows_inline_bytes_max(&self) -> u64 {
        let room = PLAN_INLINE_BYTES_MAX.saturating_sub(self.plan_bytes()) as u64;
        room.min(ROWS_INLINE_BYTES_MAX / self.fragments.len().max(1) as u64)
    }

    /// Makes the part of the stage that travels with every fragment. `options` are the session's settings that matter to a function, `shared` the
    /// rows of the build sides of its joins.
    ///
    /// # Errors
    /// The engine's, where a value of a scalar subquery cannot be encoded.
    pub fn stage_plan(
        &self,
        output: Output,
        options: BTreeMap<String, String>,
        shared: Vec<FragmentResult>,
    ) -> Result<StagePlan> {
        let mut options = options;
        if self.aligned.is_some() {
            // Each lane has files of its own partitions, in all scans.
            options.insert(STEALS_WORK.to_owned(), false.to_string());
        }
        Ok(StagePlan {
            plan: PlanRef::Inline(self.encoded.clone()),
            leaves: self.leaves.iter().map(|leaf| LeafSpec { matching: leaf.matching.clone() }).collect(),
            scalars: scalars(&self.plan)?,
            shared,
            output,
            options,
        })
    }

    /// Makes the inputs of one fragment. Footers among `footers` travel with it. What is `digested` comes in place of delete files.
    ///
    /// # Errors
    /// The engine's, where a partition value cannot be encoded.
    pub fn inputs(
        &self,
        fragment: usize,
        footers: &FileMetadataCache,
        digested: Option<&DigestedDeletes>,
    ) -> Result<Vec<(u32, Input)>> {
        if self.is_over_parts() {
            return Ok(Vec::new());
        }
        let fragment = &self.fragments[fragment];
        let leaf = |(number, leaf)| Ok((number, Input::Scan(self.scan(fragment, number, leaf, footers, digested)?)));
        (0..).zip(&self.leaves).map(leaf).collect()
    }

    /// Makes the input of one of a fragment's scans, which has as many lanes as the fragment.
    fn scan(
        &self,
        fragment: &PackedFragment,
        number: LeafId,
        leaf: &StageLeaf,
        footers: &FileMetadataCache,
        digested: Option<&DigestedDeletes>,
    ) -> Result<Scan> {
        let is_own = |unit: &usize| self.units[*unit].leaf == number;
        let units: Vec<&Unit> = fragment.units().filter(is_own).map(|unit| &self.units[unit]).collect();
        let mut shipped = match &leaf.needed {
            Some(needed) => shipped::footers(&units, needed, footers),
            None => Vec::new(),
        }
        .into_iter();
        let mut deletes = RequestDeletes::of(&units, digested);
        let mut unit = |unit: &usize| self.scan_unit(leaf, &self.units[*unit], &mut deletes, shipped.next().flatten());
        let lane = |lane: &Lane| lane.units.iter().filter(|unit| is_own(unit)).map(&mut unit).collect::<Result<_>>();
        let lanes = fragment.lanes.iter().map(lane).collect::<Result<_>>()?;
        let (mut deletes, delete_sets) = deletes.into_parts();
        for DeleteFile { file, .. } in &mut deletes {
            // Others are in the exchange.
            if let Some(store) = file.access.checked_sub(DATA_ACCESS_FIRST) {
                file.access = leaf.access(store);
            }
        }
        let table = units.iter().find_map(|unit| unit.file.extensions.get::<FileDeletes>());
        let table = table.map(|deletes| deletes.plan().table().to_owned()).unwrap_or_default();
        Ok(Scan { lanes, deletes, delete_sets, table })
    }

    fn scan_unit(
        &self,
        leaf: &StageLeaf,
        unit: &Unit,
        deletes: &mut RequestDeletes<'_>,
        footer: Option<Base64>,
    ) -> Result<ScanUnit> {
        let (meta, store) = (&unit.file.object_meta, store_of(&unit.file));
        let unsigned = |offset: i64| u64::try_from(offset).unwrap_or_default();
        let mut deletes = unit.file.extensions.get::<FileDeletes>().and_then(|own| deletes.unit(own));
        let position = leaf.stores.get(usize::from(store)).map(|position| usize::from(*position));
        let access = position.and_then(|position| self.accesses.get(position));
        let url = access.map_or("", |access| access.url.as_str());
        if let Some(deletes) = deletes.as_mut().filter(|own| own.path.strip_prefix(url) == Some(meta.location.as_ref()))
        {
            deletes.path.clear();
        }
        Ok(ScanUnit {
            file: ObjectRef {
                access: leaf.access(store),
                path: meta.location.to_string(),
                size_bytes: meta.size,
                etag: meta.e_tag.clone(),
                footer_bytes: unit.file.metadata_size_hint.map(|bytes| bytes as u64),
            },
            range: unit.file.range.as_ref().map(|range| (unsigned(range.start), unsigned(range.end))),
            partition_values: unit.file.partition_values.iter().map(travelling).collect::<Result<_>>()?,
            constants: unit
                .file
                .extensions
                .get::<FileConstants>()
                .map(|constants| constants.0.clone())
                .unwrap_or_default(),
            footer,
            deletes,
        })
    }
}

impl StageLeaf {
    /// Returns a store's number in a request, from its number among those of the scan.
    fn access(&self, store: u16) -> u16 {
        DATA_ACCESS_FIRST + self.stores.get(usize::from(store)).copied().unwrap_or(store)
    }
}

/// Sums up the data that stages read.
pub fn workload<'a>(stages: impl IntoIterator<Item = &'a Stage>) -> Workload {
    let mut workload = Workload::default();
    for stage in stages {
        workload.scans += stage.leaves.len().max(1);
        workload.units += stage.units.len();
        workload.bytes += stage.weight_bytes();
    }
    workload
}

/// Encodes the values of the scalar subqueries of the fragment's scope, if its expressions refer to one.
///
/// All subqueries of a scope are computed before anything else in it runs. They are numbered without gaps.
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
    (0..).map_while(|index| results.get(SubqueryIndex::new(index))).map(|value| travelling(&value)).collect()
}

fn travelling(value: &ScalarValue) -> Result<Base64> {
    encode_scalar(value).map_err(DataFusionError::Plan)
}

/// Returns the reason of a plan without a scan of Parquet to stay on the coordinator.
pub fn reason_without_parquet(plan: &Arc<dyn ExecutionPlan>) -> Reason {
    let formats = other_formats(plan);
    if formats.is_empty() { Reason::NoScan } else { Reason::NoParquet(formats.join(" and ")) }
}

/// Lists the formats of a plan's scans that are not Parquet, each once.
pub fn other_formats(plan: &Arc<dyn ExecutionPlan>) -> Vec<String> {
    let mut formats = BTreeSet::new();
    let visited = plan.apply(|node| {
        let others = file_scan(node).filter(|scan| !is_parquet(scan));
        formats.extend(others.map(|scan| scan.file_source().file_type().to_uppercase()));
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "the visit never fails");
    formats.into_iter().collect()
}

/// Returns true if a scan reads Parquet, the only format that fragments know.
pub fn is_parquet(scan: &FileScanConfig) -> bool {
    scan.file_source().downcast_ref::<ParquetSource>().is_some()
}
