use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::prelude::SessionContext;
use object_store::path::Path;

use super::*;
use crate::config::SortPlace;
use crate::model::TimeModel;
use crate::planner::deletes::DigestBounds;
use crate::planner::graph::RowsOrder;
use crate::planner::passes::samples::{Sample, hole, shape};

fn through(url: &str) -> Result<FunctionAccess> {
    Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }))
}

fn packing(functions: usize) -> Packing {
    Packing {
        fragment_bytes_target: 1,
        model: TimeModel::laptop(1),
        functions_max: functions,
        functions: Some(functions),
        lanes_max: 1,
        function_memory_bytes: 2 << 30,
        digest: DigestBounds::default(),
    }
}

fn arcs(stages: Vec<Stage>) -> Vec<Arc<Stage>> {
    stages.into_iter().map(Arc::new).collect()
}

fn on_functions(placement: Placement<CutPlan>) -> CutPlan {
    placement.on_functions().expect("it travels")
}

#[tokio::test]
async fn a_plan_is_cut_once_and_packed_as_often_as_one_likes() {
    let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
    let plan = Sample::new().await.plan("SELECT sum(a) FROM t WHERE b + 0 = 3").await;
    let cut = on_functions(CutPlan::of(&plan, StageRules::SCANS, &through).expect("a plan"));
    let packer = cut.packer(&footers);
    let stages = [1, 2].map(|functions| packer.stages(7, &packing(functions)));
    assert_eq!(stages.each_ref().map(|stages| stages[0].fragments.len()), [1, 2]);
    assert_eq!(stages.each_ref().map(|stages| stages[0].index), [7, 7]);
    assert_eq!(stages[0][0].encoded, stages[1][0].encoded);
    let [_, stages] = stages;
    let planned = cut.with_leaves(arcs(stages), &|_, subtree| hole(subtree)).expect("a plan");
    assert_eq!(shape(&planned.plan), "AggregateExec\n  CoalescePartitionsExec\n    EmptyExec");
    assert_eq!((planned.stages.len(), planned.kept), (1, Vec::new()));
}

#[tokio::test]
async fn lanes_of_a_sorted_stage_are_merged_by_its_function() {
    let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
    let plan = Sample::new().await.plan("SELECT a FROM t ORDER BY b LIMIT 3").await;
    let cut = on_functions(CutPlan::of(&plan, StageRules::SCANS, &through).expect("a plan"));
    let stage = &cut.packer(&footers).stages(0, &packing(1))[0];
    assert_eq!(stage.order, RowsOrder::Merged);
    assert_eq!(shape(&stage.plan), "SortPreservingMergeExec\n  SortExec\n    DataSourceExec");
}

/// 200 rows of two numbers have 3,200 bytes, of which LZ4 leaves 1,408: 176 in each of eight ranges. Eight functions read them, and two scan.
#[tokio::test]
async fn functions_that_combine_objects_are_planned_as_they_would_run() {
    let shuffles =
        Shuffles { sort: SortPlace::Ranges, partitions: Some(8), reads_max: 0, may_combine: true, ..Shuffles::NONE };
    let rules = StageRules { shuffles, ..StageRules::SCANS };
    let plan = Sample::new().await.plan_by(rules, "SELECT a, b FROM t ORDER BY a").await;
    let cut = on_functions(CutPlan::of(&plan, rules, &through).expect("a plan"));
    let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
    let fragments = |function_memory_bytes| {
        let packing = Packing { function_memory_bytes, ..packing(8) };
        let stages = cut.packer(&footers).stages(0, &packing);
        stages.iter().map(|stage| stage.fragments.len()).collect::<Vec<_>>()
    };
    // Three runs: of three, three and two ranges.
    assert_eq!(fragments(2 << 30), [2, 3, 8]);
    // A function of 2,048 bytes should read 256. Five functions beside one for each run should read 282, so that both objects of each run have one.
    assert_eq!(fragments(2_048), [2, 6, 8]);
}

#[tokio::test]
async fn a_subtree_that_cannot_travel_stays_with_its_reason() {
    let sample = Sample::new().await;
    // 55.2 makes a Float32 of it on the way.
    let half = "arrow_cast(b, 'Float16') > arrow_cast(2, 'Float16')";
    let plan = sample.plan(&format!("SELECT a FROM t WHERE {half}")).await;
    let placed = CutPlan::of(&plan, StageRules::SCANS, &through).expect("a plan");
    assert!(matches!(&placed, Placement::Here(Reason::NothingTravels(why)) if why.contains("Float16")), "{placed:?}");
    let sql = format!("SELECT a FROM t WHERE {half} UNION ALL SELECT a FROM t WHERE b + 0 = 1");
    let cut = on_functions(CutPlan::of(&sample.plan(&sql).await, StageRules::SCANS, &through).expect("a plan"));
    let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
    let planned = cut
        .with_leaves(arcs(cut.packer(&footers).stages(0, &packing(2))), &|_, subtree| hole(subtree))
        .expect("a plan");
    assert_eq!((planned.stages.len(), planned.kept.len(), cut.kept().count()), (1, 1, 1));
    let shape = shape(&planned.plan);
    assert_eq!((shape.matches("DataSourceExec").count(), shape.matches("EmptyExec").count()), (1, 1), "{shape}");
}

#[tokio::test]
async fn a_store_that_functions_do_not_reach_keeps_all_here() {
    let never = |_: &str| Ok(FunctionAccess::Never("it is too far away".to_owned()));
    let plan = Sample::new().await.plan("SELECT a FROM t").await;
    let placed = CutPlan::of(&plan, StageRules::SCANS, &never).expect("a plan");
    assert!(matches!(&placed, Placement::Here(Reason::PlanNotSupported(why)) if why == "it is too far away"));
    let error = placed.on_functions().expect_err("nowhere to go").to_string();
    assert!(error.contains("functions cannot run this query: it is too far away"), "{error}");
}

#[tokio::test]
async fn a_plan_without_parquet_has_no_stages() {
    let context = SessionContext::new();
    let plan = context.sql("SELECT 1").await.expect("SQL").create_physical_plan().await.expect("a plan");
    let cut = on_functions(CutPlan::of(&plan, StageRules::SCANS, &through).expect("a plan"));
    assert_eq!((cut.templates.len(), cut.kept().count()), (0, 0));
}
