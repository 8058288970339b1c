//! A statement that has run, in words: its place, the work of each stage and of the coordinator, and the plan with the figures of its operators. Pure.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::format::{ExplainAnalyzeCategories, ExplainFormat, MetricType};
use datafusion::config::ExplainOptions;
use datafusion::logical_expr::Analyze;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use gust_protocol::with_hint_line;

use super::Stage;
use super::explain::{exchange, indented, size};
use super::graph::RowsOrder;
use crate::error::continued;
use crate::report::{ReplacedStage, Report, StageCost, StageSplit, StageWork, StorageUse, counted, requests_text};

/// Row of EXPLAIN ANALYZE.
pub struct Described {
    pub heading: &'static str,
    pub body: String,
}

/// Makes the rows of EXPLAIN ANALYZE.
///
/// # Errors
/// The engine's, for a schema that is not that of the statement.
pub fn rows(schema: &SchemaRef, rows: &[Described]) -> Result<RecordBatch> {
    let headings: StringArray = rows.iter().map(|row| Some(row.heading)).collect();
    let bodies: StringArray = rows.iter().map(|row| Some(row.body.as_str())).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(headings), Arc::new(bodies)];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// Describes the plan that the coordinator has run, with the figures of its operators, as DataFusion's own statement does.
pub fn plans(plan: &Arc<dyn ExecutionPlan>, statement: &Analyze, options: &ExplainOptions) -> Vec<Described> {
    let level: MetricType = statement.analyze_level.unwrap_or(options.analyze_level);
    let categories = match statement.analyze_categories.as_ref().unwrap_or(&options.analyze_categories) {
        ExplainAnalyzeCategories::All => None,
        ExplainAnalyzeCategories::Only(categories) => Some(categories.clone()),
    };
    let set = |shown: DisplayableExecutionPlan<'_>| match &statement.format {
        ExplainFormat::PostgresJSON => shown
            .set_metric_types(level.included_types())
            .set_metric_categories(categories.clone())
            .pgjson(statement.verbose)
            .to_string(),
        _ => shown
            .set_metric_types(level.included_types())
            .set_metric_categories(categories.clone())
            .set_show_statistics(options.show_statistics)
            .indent(statement.verbose)
            .to_string(),
    };
    let summed = set(DisplayableExecutionPlan::with_metrics(plan.as_ref()));
    let mut plans = vec![Described { heading: "Plan with Metrics", body: summed }];
    if statement.verbose {
        let full = set(DisplayableExecutionPlan::with_full_metrics(plan.as_ref()));
        plans.push(Described { heading: "Plan with Full Metrics", body: full });
    }
    plans
}

/// Describes the work of a query that has run. `stages` are those of all its runs; one that has not begun is left out.
pub fn work(report: &Report, stages: &[Arc<Stage>]) -> Described {
    let mut text = String::new();
    if let Some(decision) = &report.decision {
        let _ = writeln!(text, "decision     {}", continued(with_hint_line(decision, decision.reason.hint()), 13));
    }
    for (what, reason) in [
        ("fell back", &report.fell_back),
        ("ran twice", &report.planned_again),
        ("ran twice", &report.enlarged),
        ("ran twice", &report.restarted),
    ] {
        if let Some(reason) = reason {
            let _ = writeln!(
                text,
                "{what:<12} {}; all figures are of both runs",
                reason.lines().next().unwrap_or_default()
            );
        }
    }
    for work in &report.by_stage {
        text += &stage(work, stages.iter().find(|stage| stage.index == work.stage), stages);
    }
    let StorageUse { bytes_read, requests, .. } = &report.coordinator;
    let _ =
        write!(text, "here         {} rows; read {} in {}", report.rows, size(*bytes_read), requests_text(requests));
    text += &dollars(own_cost(report));
    text.push('\n');
    text += &waits(&report.coordinator);
    text += &total(report);
    Described { heading: "gust", body: text }
}

fn stage(work: &StageWork, plan: Option<&Arc<Stage>>, stages: &[Arc<Stage>]) -> String {
    let StageWork { fragments, fragments_adopted, attempts, attempts_wasted, .. } = *work;
    let mut text =
        format!("stage {:<7}{}", work.stage, attempted(fragments, fragments_adopted, attempts, attempts_wasted));
    text += &dollars(work.cost);
    text.push('\n');
    if let Some(seconds) = work.fragment_seconds {
        let _ = write!(text, "             slowest fragment {:.3} s, median {:.3} s", seconds.slowest, seconds.median);
        let _ = writeln!(text, "; its attempts ran {:.3} s in all", work.execute_seconds);
    }
    let _ = writeln!(text, "             {}", used(&work.storage, work.memory_peak_bytes, work.spilled_bytes));
    text += &waits(&work.storage);
    if let Some(late) = work.storage.late_text() {
        let _ = writeln!(text, "late columns {late}");
    }
    if let Some(ReplacedStage { stage, build_bytes, build_bytes_expected }) = work.in_place_of {
        let expected = build_bytes_expected.map_or_else(|| "an unknown size".to_owned(), size);
        let has = size(build_bytes);
        let _ = writeln!(
            text,
            "build first  in the place of stage {stage}: build sides have {has}, and {expected} was expected"
        );
    }
    if work.broadcasts > 0 {
        let sides = counted(work.broadcasts, "build side");
        let _ = writeln!(text, "broadcast    got {sides}, {}, for each fragment", size(work.broadcast_bytes));
    }
    if let Some(StageSplit { partitions, parts, bytes, median_bytes }) = work.split {
        let (bytes, median) = (size(bytes), size(median_bytes));
        let split = counted(partitions as usize, "partition");
        let _ = writeln!(
            text,
            "split        {split} of {bytes}, read in {parts} parts: the middle one of all has {median}"
        );
    }
    if work.fragments_taken_apart > 0 {
        let fragments = counted(work.fragments_taken_apart, "fragment");
        let _ = writeln!(text, "divided      {fragments} ran out of memory, and each partition became one");
    }
    text += &match (work.parts, plan.and_then(|plan| exchange(plan, stages))) {
        (Some(parts), exchange) => {
            let by = exchange.unwrap_or_else(|| format!("{} partitions", parts.partitions));
            let (bytes, objects) = (size(parts.bytes), counted(parts.objects as usize, "object"));
            format!("shuffle      {} rows, {bytes} in {objects}, {by}\n", work.rows)
        }
        // The query ended before all of its rows were there.
        (None, Some(exchange)) => format!("shuffle      not complete, {exchange}\n"),
        (None, None) => {
            let order = match plan.map_or(RowsOrder::Any, |plan| plan.order) {
                RowsOrder::Any => "",
                RowsOrder::Merged => ", sorted, merged there",
                RowsOrder::InOrder => ", sorted, taken in order there",
            };
            format!("gather       {} rows, {} to the coordinator{order}\n", work.rows, size(work.result_bytes))
        }
    };
    text + &plan.map_or_else(String::new, |plan| indented(&plan.plan))
}

fn attempted(fragments: usize, adopted: usize, attempts: usize, wasted: usize) -> String {
    let wasted = if wasted > 0 { format!(", {wasted} of them without use") } else { String::new() };
    format!("{adopted} of {} adopted, {}{wasted}", counted(fragments, "fragment"), counted(attempts, "attempt"))
}

fn used(storage: &StorageUse, memory_peak_bytes: u64, spilled_bytes: u64) -> String {
    format!(
        "read {} in {}, wrote {}; pool peak {}, spilled {}",
        size(storage.bytes_read),
        requests_text(&storage.requests),
        size(storage.bytes_written),
        size(memory_peak_bytes),
        size(spilled_bytes),
    )
}

fn waits(storage: &StorageUse) -> String {
    storage.waits_text().map_or_else(String::new, |waits| format!("             {waits}\n"))
}

fn dollars(cost: Option<StageCost>) -> String {
    let Some(StageCost { known, at_most }) = cost else { return String::new() };
    let more = at_most.saturating_sub(known);
    let bounded = if at_most > known { format!(" and at most {more} more") } else { String::new() };
    format!("; {known}{bounded}")
}

/// Returns the money for the coordinator's part: what the bill has beside the stages.
fn own_cost(report: &Report) -> Option<StageCost> {
    let cost = report.cost.as_ref()?;
    let of_stages = || report.by_stage.iter().filter_map(|work| work.cost);
    Some(StageCost {
        known: cost.known.saturating_sub(of_stages().map(|cost| cost.known).sum()),
        at_most: cost.at_most.saturating_sub(of_stages().map(|cost| cost.at_most).sum()),
    })
}

/// Sums up the stages and the coordinator, as the report has it.
fn total(report: &Report) -> String {
    let Report { fragments, fragments_adopted, attempts, attempts_wasted, .. } = *report;
    let mut text = "total        ".to_owned();
    if attempts > 0 {
        text += &attempted(fragments, fragments_adopted, attempts, attempts_wasted);
        let _ = write!(text, "; {} rows from functions", report.rows_from_functions);
        text += &dollars(report.cost.as_ref().map(|cost| StageCost { known: cost.known, at_most: cost.at_most }));
        let used = used(&report.functions, report.memory_peak_bytes, report.spilled_bytes);
        let _ = write!(text, "\n             functions {used}\n             ");
    }
    let seconds = report.seconds;
    let _ = write!(text, "{:.3} s: plan {:.3}", seconds.total, seconds.plan);
    if attempts > 0 {
        let _ = write!(text, ", invoke {:.3}, read {:.3}", seconds.invoke, seconds.read);
    }
    let _ = write!(text, ", finish {:.3}", seconds.finish);
    if attempts == 0 {
        text += &dollars(report.cost.as_ref().map(|cost| StageCost { known: cost.known, at_most: cost.at_most }));
    }
    if let Some(why) = &report.cost_unknown {
        let why = with_hint_line(why, report.cost_unknown_hint.as_deref());
        let _ = write!(text, "\n             dollars are not known: {}", continued(why, 13));
    }
    text
}
