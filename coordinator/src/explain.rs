//! How a statement would run, in words: decision, plans, pruning, packing, memory.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use gust_catalog::Pruning;
use humansize::{BINARY, format_size};

use crate::config::Config;
use crate::planner::Stage;
use crate::planner::memory::{Need, coordinator_need, fragment_need};
use crate::session::Ready;

/// The whole text, without a newline at its end.
pub(crate) fn explain(ready: &Ready, config: &Config) -> String {
    let mut text = format!("decision     {}\n", ready.decision);
    for (table, pruning) in &ready.pruning {
        text += &pruned(table, pruning);
    }
    let coordinator = coordinator_need(&ready.plan);
    let mut needs = vec![("the coordinator".to_owned(), coordinator.clone(), config.memory_bytes_max)];
    text += &format!("coordinator  {}\n", memory(&coordinator, config.memory_bytes_max));
    text += &indented(&ready.plan);
    for stage in ready.planned.iter().flat_map(|planned| &planned.stages) {
        let need = fragment_need(stage);
        text += &format!("stage {}      {}\n", stage.index, packing(stage));
        let _ = writeln!(text, "             a fragment {}", memory(&need, config.function_memory_bytes));
        text += &indented(&stage.plan);
        needs.push((format!("a fragment of stage {}", stage.index), need, config.function_memory_bytes));
    }
    text + &first_to_run_out(needs)
}

fn size(bytes: u64) -> String {
    format_size(bytes, BINARY)
}

fn indented(plan: &Arc<dyn ExecutionPlan>) -> String {
    let plan = displayable(plan.as_ref()).indent(false).to_string();
    plan.lines().fold(String::new(), |text, line| text + "  " + line + "\n")
}

fn memory(need: &Need, allowed: u64) -> String {
    match need.bytes {
        0 => format!("holds next to nothing of {} allowed", size(allowed)),
        bytes => format!("holds about {} of {} allowed, mostly in {}", size(bytes), size(allowed), need.what),
    }
}

/// Files and bytes before and after pruning, and what pruned them.
fn pruned(table: &str, pruning: &Pruning) -> String {
    let Pruning { files_kept, files_total, bytes_kept, bytes_total, .. } = pruning;
    let of = bytes_total.map_or_else(|| "an unknown size".to_owned(), size);
    let mut line = format!("table        {table}: {files_kept} of {files_total} files, {} of {of}", size(*bytes_kept));
    for reason in &pruning.by_reason {
        let bytes = reason.bytes.map_or_else(String::new, |bytes| format!(", {}", size(bytes)));
        let _ = write!(line, "; {} pruned {} files{bytes}", reason.reason, reason.files);
    }
    line + "\n"
}

fn packing(stage: &Stage) -> String {
    let weights = (0..stage.fragments.len()).map(|fragment| stage.fragment_weight_bytes(fragment));
    let (smallest, largest) = (weights.clone().min().unwrap_or_default(), weights.max().unwrap_or_default());
    let lanes = stage.fragments.iter().map(Vec::len).max().unwrap_or_default();
    format!(
        "{} fragments of {} scan units, {} of projected columns; smallest {}, largest {}; {lanes} lanes at most{}",
        stage.fragments.len(),
        stage.units.len(),
        size(stage.weight_bytes()),
        size(smallest),
        size(largest),
        if stage.sorted { "; sorted, merged by the coordinator" } else { "" },
    )
}

/// Whoever is expected to need the largest part of what it may have.
fn first_to_run_out(needs: Vec<(String, Need, u64)>) -> String {
    let share = |need: &Need, allowed: u64| need.bytes as f64 / allowed.max(1) as f64;
    let Some((who, need, allowed)) =
        needs.into_iter().max_by(|(_, a, a_max), (_, b, b_max)| share(a, *a_max).total_cmp(&share(b, *b_max)))
    else {
        return String::new();
    };
    let percent = 100.0 * share(&need, allowed);
    let verdict = if percent > 100.0 { "is expected to spill or to run out" } else { "comes closest to its limit" };
    format!("memory       {who} {verdict}: {percent:.0} % of {}", size(allowed))
}

/// The text as the rows of SQL's EXPLAIN: a heading and a body.
pub(crate) fn as_rows(schema: &SchemaRef, text: &str) -> Result<SendableRecordBatchStream> {
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(vec!["gust"])), Arc::new(StringArray::from(vec![text]))];
    let batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
    let rows = futures::stream::iter([Ok(batch)]);
    Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), rows)))
}
