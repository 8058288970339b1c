//! A planned statement in words: decision, plans, pruning, reading, packing, memory.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, ParquetSource};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::Partitioning;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};
use fragment_fn::ahead::{Begins, Consumption, Reading, is_local, is_predictable, readings};
use fragment_fn::late::{LateColumns, key_columns};
use gust_catalog::{DeleteCounts, Pruning};
use gust_protocol::plan::scans;
use gust_protocol::{AheadBounds, with_hint_line};
use humansize::{BINARY, format_size};

use super::graph::RowsOrder;
use super::keys::join_keys;
use super::loads::memory::{MemoryNeed, coordinator_need, fragment_need, held_by};
use super::{PlannedQuery, Stage};
use crate::config::Config;
use crate::error::continued;
use crate::model::{Forecast, Place, Quote};
use crate::money::Money;

/// Bounds of one machine's reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadBounds {
    pub ahead: AheadBounds,
    /// Largest gap between ranges of one request, in bytes.
    pub bridge_bytes: u64,
}

/// Writes the whole text, without a newline at its end. `here` bounds the coordinator's reads.
pub fn explain(planned: &PlannedQuery, config: &Config, here: ReadBounds) -> String {
    let decision = with_hint_line(&planned.decision, planned.decision.reason.hint());
    let mut text = format!("decision     {}\n", continued(decision, 13));
    for way in planned.decision.choice.iter().flat_map(|choice| &choice.ways) {
        let _ = writeln!(text, "way          {way}");
    }
    for (table, pruning) in &planned.pruning {
        text += &pruned(table, pruning);
    }
    let coordinator = coordinator_need(&planned.plan);
    let allowed = config.memory_bytes_max;
    let mut holders = vec![Holder { name: "the coordinator".to_owned(), need: coordinator.clone(), allowed }];
    text += &format!("coordinator  {}\n", memory(&coordinator, config.memory_bytes_max));
    text += &reading(&planned.plan, here);
    text += &indented(&planned.plan);
    let late = |plan: &Arc<dyn ExecutionPlan>| match config.late_columns() {
        LateColumns::NEVER => String::new(),
        _ => late_columns(plan),
    };
    text += &late(&planned.plan);
    for kept in &planned.not_aligned {
        let _ = writeln!(text, "aligned      none {kept}");
    }
    for kept in &planned.kept_shuffles {
        let _ = writeln!(text, "shuffle      none {kept}");
    }
    let limits = planned.functions.as_ref().map(|functions| functions.packed.size.limits);
    let there = limits.map(|limits| ReadBounds { ahead: limits.ahead, bridge_bytes: limits.bridge_bytes });
    for stage in planned.stages() {
        let need = fragment_need(stage, &held_by(&stage.plan));
        text += &format!("stage {}      {}\n", stage.index, packing(stage));
        let _ = writeln!(text, "             a fragment {}", memory(&need, config.function_memory_bytes));
        if let Some(fields) = &stage.aligned {
            let _ = writeln!(text, "aligned      {} scans {fields}", stage.leaves.len());
        }
        text += &digest(stage);
        text += &broadcasts(stage);
        text += &late(&stage.plan);
        text += &shuffles(stage, planned.stages());
        text += &copies(stage);
        text += &reading(&stage.plan, there.unwrap_or_default());
        text += &indented(&stage.plan);
        let name = format!("a fragment of stage {}", stage.index);
        holders.push(Holder { name, need, allowed: config.function_memory_bytes });
    }
    text + &first_to_run_out(holders)
}

/// A part of the query with memory of its own.
struct Holder {
    name: String,
    need: MemoryNeed,
    /// Bytes that it may have.
    allowed: u64,
}

impl Holder {
    /// Returns its expected share of what it may have.
    fn share(&self) -> f64 {
        self.need.bytes as f64 / self.allowed.max(1) as f64
    }
}

pub(super) fn size(bytes: u64) -> String {
    format_size(bytes, BINARY)
}

pub(super) fn indented(plan: &Arc<dyn ExecutionPlan>) -> String {
    let lines = |plan: &Arc<dyn ExecutionPlan>, indent: &str| {
        let plan = displayable(plan.as_ref()).indent(false).to_string();
        plan.lines().fold(String::new(), |text, line| text + indent + line + "\n")
    };
    // The operator's own words have all bounds. No plan has it but at its top.
    match plan.downcast_ref::<RepartitionExec>().map(|exchange| (exchange.input(), exchange.partitioning())) {
        Some((input, Partitioning::Range(ranges))) => {
            let (order, count) = (ranges.ordering(), ranges.partition_count());
            format!("  RepartitionExec: partitioning=Range([{order}], {count})\n{}", lines(input, "    "))
        }
        _ => lines(plan, "  "),
    }
}

/// Names the columns by which joins may decide which rows of the other columns are decoded, scan by scan.
fn late_columns(plan: &Arc<dyn ExecutionPlan>) -> String {
    let mut joins = BTreeSet::new();
    filters_of_joins(plan, &mut joins);
    let keys = scans(plan).into_iter().map(|scan| key_columns(&scan, &joins)).filter(|keys| !keys.is_empty());
    let keys: Vec<String> = keys.map(|keys| keys.join(", ")).collect();
    match keys.is_empty() {
        true => String::new(),
        false => format!("late columns where joins keep few rows of a scan, by {}\n", keys.join("; ")),
    }
}

/// Collects the identities of the filters that a plan's joins fill.
fn filters_of_joins(plan: &Arc<dyn ExecutionPlan>, found: &mut BTreeSet<u64>) {
    if plan.is::<HashJoinExec>() {
        found.extend(plan.dynamic_expressions_produced().iter().filter_map(|filter| filter.expression_id()));
    }
    plan.children().into_iter().for_each(|child| filters_of_joins(child, found));
}

fn memory(need: &MemoryNeed, allowed: u64) -> String {
    match need.bytes {
        0 => format!("holds next to nothing of {} allowed", size(allowed)),
        bytes => format!("holds about {} of {} allowed, mostly in {}", size(bytes), size(allowed), need.what),
    }
}

/// Writes how each scan of a plan is read, within the bounds of reading ahead.
fn reading(plan: &Arc<dyn ExecutionPlan>, bounds: ReadBounds) -> String {
    let (mut text, mut is_ahead) = (String::new(), false);
    for (scan, reading) in scans(plan).iter().zip(readings(plan)) {
        let how = match why_on_demand(scan, reading, bounds.ahead) {
            Some(why) => format!("on demand ({why})"),
            None => {
                is_ahead = true;
                ahead(reading)
            }
        };
        let _ = writeln!(text, "reading      {}: {how}", table_of(scan));
    }
    if is_ahead {
        let AheadBounds { requests_max, bytes_max } = bounds.ahead;
        let _ = write!(text, "             ahead: {requests_max} requests and {} at a time at most", size(bytes_max));
        let _ = writeln!(text, "; gaps up to {} are read along", size(bounds.bridge_bytes));
    }
    text
}

/// Returns the reason why nothing of a scan is read ahead; None if it is.
fn why_on_demand(scan: &FileScanConfig, reading: Reading, bounds: AheadBounds) -> Option<&'static str> {
    if is_local(scan) {
        Some("local files")
    } else if scan.file_source().downcast_ref::<ParquetSource>().is_none() {
        Some("not Parquet")
    } else if bounds.is_off() {
        Some("reading ahead is off")
    } else if !is_predictable(scan) {
        Some("its requests cannot be predicted")
    } else {
        (reading.consumption == Consumption::OnDemand).then_some("read several times")
    }
}

fn ahead(reading: Reading) -> String {
    let amount = match reading.consumption {
        Consumption::All => "all".to_owned(),
        Consumption::Rows(rows) => format!("enough for {rows} rows"),
        Consumption::Growing | Consumption::OnDemand => "more as it goes".to_owned(),
    };
    let begins = match reading.begins {
        Begins::AtOnce => "at once",
        Begins::WhenPolled => "when polled",
    };
    format!("{amount}, {begins}")
}

/// Returns the name of a scan's table, or its first file where it has no name.
fn table_of(scan: &FileScanConfig) -> String {
    let Some(file) = scan.file_groups.iter().flat_map(FileGroup::iter).next() else { return "no files".to_owned() };
    let name = file.table_reference.as_ref().map(ToString::to_string);
    name.unwrap_or_else(|| file.object_meta.location.to_string())
}

/// Writes files and bytes before and after pruning, with the reasons.
fn pruned(table: &str, pruning: &Pruning) -> String {
    let Pruning { files_kept, files_total, bytes_kept, bytes_total, .. } = pruning;
    let of = bytes_total.map_or_else(|| "an unknown size".to_owned(), size);
    let mut line = format!("table        {table}: {files_kept} of {files_total} files, {} of {of}", size(*bytes_kept));
    for reason in &pruning.by_reason {
        let bytes = reason.bytes.map_or_else(String::new, |bytes| format!(", {}", size(bytes)));
        let _ = write!(line, "; {} pruned {} files{bytes}", reason.reason, reason.files);
    }
    if !pruning.partitions.is_empty() {
        let named = pruning.partitions.iter().map(|hit| match hit.files {
            1 => format!("{} (1 file)", hit.text),
            files => format!("{} ({files} files)", hit.text),
        });
        let _ = write!(line, "; partitions {}", named.collect::<Vec<_>>().join("; "));
        let more = pruning.partitions_hit.saturating_sub(pruning.partitions.len() as u64);
        if more > 0 {
            let _ = write!(line, "; and {more} more");
        }
    }
    line + &deletes(&pruning.deletes) + "\n"
}

/// Writes the delete files that readers apply.
fn deletes(counts: &DeleteCounts) -> String {
    let DeleteCounts { vectors, positions, equality, bytes } = *counts;
    let kinds =
        [("deletion vectors", vectors), ("position delete files", positions), ("equality delete files", equality)];
    let kinds = kinds.into_iter().filter(|(_, count)| *count > 0);
    let kinds: Vec<String> = kinds.map(|(kind, count)| format!("{count} {kind}")).collect();
    match kinds.is_empty() {
        true => String::new(),
        false => format!("; rows deleted by {}, {}", kinds.join(", "), size(bytes)),
    }
}

fn packing(stage: &Stage) -> String {
    if stage.is_over_parts() {
        let lanes = stage.fragments.first().map_or(0, |fragment| fragment.lanes.len());
        let producers = stage.shuffle.producers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if let Some(combining) = stage.shuffle.combining {
            return combining.told(&producers);
        }
        return format!(
            "about {} fragments, {} at most, over the rows of stages {producers}, {} partitions; {lanes} lanes at most{}",
            stage.fragments.len(),
            (stage.shuffle.input_partitions / lanes.max(1)).clamp(1, stage.shuffle.fragments_max.max(1)),
            stage.shuffle.input_partitions,
            order(stage),
        );
    }
    let weights = (0..stage.fragments.len()).map(|fragment| stage.fragment_weight_bytes(fragment));
    let (smallest, largest) = (weights.clone().min().unwrap_or_default(), weights.max().unwrap_or_default());
    let lanes = stage.fragments.iter().map(|fragment| fragment.lanes.len()).max().unwrap_or_default();
    format!(
        "{} fragments of {} scan units, {} of projected columns; smallest {}, largest {}; {lanes} lanes at most{}",
        stage.fragments.len(),
        stage.units.len(),
        size(stage.weight_bytes()),
        size(smallest),
        size(largest),
        order(stage),
    )
}

/// Writes what becomes of sorted rows.
fn order(stage: &Stage) -> &'static str {
    match stage.order {
        RowsOrder::Any => "",
        RowsOrder::Merged => "; sorted, merged by the coordinator",
        RowsOrder::InOrder => "; sorted, taken in order by the coordinator",
    }
}

/// Writes the delete files that the coordinator reads for all fragments of a stage.
fn digest(stage: &Stage) -> String {
    let Some(work) = stage.deletes.digest() else { return String::new() };
    format!(
        "deletes      the coordinator reads {} delete files once, {}; fragments read about {} of them in the exchange\n",
        work.files,
        size(work.reads.bytes),
        size(work.written_bytes),
    )
}

/// Writes the build sides that each fragment gets, and the bound beyond which the coordinator joins.
fn broadcasts(stage: &Stage) -> String {
    let (fragments, most) = (stage.fragments.len(), size(stage.broadcast_bytes_max));
    let keys = join_keys(stage);
    let line = |(number, bytes): (usize, &Option<u64>)| {
        let bytes = bytes.map_or_else(|| "of unknown size".to_owned(), |bytes| format!("of about {}", size(bytes)));
        let columns = keys.iter().filter(|key| key.build == number).map(|key| key.column.as_str()).collect::<Vec<_>>();
        let keys = match columns.is_empty() {
            true => String::new(),
            false => format!("keys {number:<8}leave out files, row groups and pages by {}\n", columns.join(", ")),
        };
        format!(
            "broadcast {number}  rows {bytes} for each of {fragments} fragments; beyond {most} in all the coordinator joins\n{keys}"
        )
    };
    stage.broadcasts.iter().enumerate().map(line).collect()
}

/// Writes the exchange that a stage's rows take to functions of another stage.
fn shuffles(stage: &Stage, stages: &[Arc<Stage>]) -> String {
    let Some(exchange) = exchange(stage, stages) else { return String::new() };
    let bytes = match stage.load.results.expected {
        Some(bytes) => format!("about {}", size(bytes)),
        None => "rows of unknown size".to_owned(),
    };
    let reason = &stage.shuffle.reason;
    format!("shuffle      {bytes} {exchange}; {reason}\n")
}

/// Writes the stage that takes its place if the build sides of its joins are small.
fn copies(stage: &Stage) -> String {
    let (Some(copies), Some((probe, builds))) = (&stage.copies, stage.shuffle.producers.split_last()) else {
        return String::new();
    };
    let builds = builds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (most, by) = (size(stage.broadcast_bytes_max), copies.index);
    let keys: Vec<String> = join_keys(copies).into_iter().map(|key| key.column).collect();
    let keys = match keys.is_empty() {
        true => String::new(),
        false => format!("; keys leave out files, row groups and pages by {}", keys.join(", ")),
    };
    format!(
        "build first  stage {probe} waits for stages {builds}: if the build sides have {most} at most, stage {by} joins where it scans, with copies, and nothing of {probe} is sent{keys}\n"
    )
}

/// Writes how a stage's rows are parted for functions of another stage. None where they go to the coordinator.
pub(super) fn exchange(stage: &Stage, stages: &[Arc<Stage>]) -> Option<String> {
    let partitions = stage.shuffle.partitions?;
    let by = match stage.plan.output_partitioning() {
        Partitioning::Hash(keys, _) => {
            format!("by hash of [{}]", keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        Partitioning::Range(ranges) => format!("by ranges of [{}]", ranges.ordering()),
        other => format!("by {other}"),
    };
    let consumer = stages.iter().find(|other| other.shuffle.producers.contains(&stage.index));
    let consumer = consumer.map_or_else(String::new, |consumer| format!(" for stage {}", consumer.index));
    Some(format!("{by}, {partitions} partitions{consumer}"))
}

/// Names the holder that is expected to need the largest part of what it may have.
fn first_to_run_out(holders: Vec<Holder>) -> String {
    let Some(first) = holders.into_iter().max_by(|a, b| a.share().total_cmp(&b.share())) else { return String::new() };
    let Holder { name, allowed, .. } = &first;
    let percent = 100.0 * first.share();
    let verdict = if percent > 100.0 { "is expected to spill or to run out" } else { "comes closest to its limit" };
    format!("memory       {name} {verdict}: {percent:.0} % of {}", size(*allowed))
}

/// Returns the columns of EXPLAIN COST, which has a row for each forecast. Dollars are exact, seconds are rounded to microseconds.
pub fn cost_schema() -> SchemaRef {
    let dollars = DataType::Decimal128(DOLLAR_DIGITS.0, DOLLAR_DIGITS.1);
    let field = |name: &str, data_type: &DataType| Field::new(name, data_type.clone(), name == "memory_mb");
    Arc::new(Schema::new(vec![
        field("place", &DataType::Utf8),
        field("functions", &DataType::UInt64),
        field("memory_mb", &DataType::UInt32),
        field("fragments", &DataType::UInt64),
        field("expected_dollars", &dollars),
        field("upper_dollars", &dollars),
        field("expected_seconds", &DataType::Float64),
        field("upper_seconds", &DataType::Float64),
        field("bytes", &DataType::UInt64),
        field("upper_bytes", &DataType::UInt64),
        field("requests", &DataType::UInt64),
        field("upper_requests", &DataType::UInt64),
        field("gb_seconds", &DataType::Float64),
        field("upper_gb_seconds", &DataType::Float64),
        field("way", &DataType::Utf8),
        field("picked", &DataType::Utf8),
    ]))
}

/// Precision and scale of nano-dollars, as many as [`crate::money::Money`] holds.
const DOLLAR_DIGITS: (u8, i8) = (20, 9);

/// Makes the rows of EXPLAIN COST.
pub fn cost_rows(quote: &Quote) -> Result<SendableRecordBatchStream> {
    let forecasts = || quote.forecasts.iter();
    let count = |of: fn(&Forecast) -> u64| Arc::new(forecasts().map(of).collect::<UInt64Array>()) as ArrayRef;
    let seconds = |of: fn(&Forecast) -> f64| {
        let rounded = forecasts().map(|forecast| (of(forecast) * 1e6).round() / 1e6);
        Arc::new(rounded.collect::<Float64Array>()) as ArrayRef
    };
    let dollars = |of: fn(&Forecast) -> Money| {
        let amounts: Decimal128Array =
            forecasts().map(|forecast| Some(i128::from(of(forecast).nano_dollars()))).collect();
        let amounts = amounts.with_precision_and_scale(DOLLAR_DIGITS.0, DOLLAR_DIGITS.1)?;
        Ok::<_, DataFusionError>(Arc::new(amounts) as ArrayRef)
    };
    let place = forecasts().map(|forecast| match forecast.place {
        Place::Local => "local",
        Place::Functions => "functions",
    });
    let way = forecasts().map(|forecast| forecast.way().name());
    let picked = (0..quote.forecasts.len()).map(|position| match position {
        position if position == quote.picked => "picked",
        position if Some(position) == quote.runner_up => "runner-up",
        _ => "",
    });
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(place)),
        count(|forecast| forecast.functions as u64),
        Arc::new(forecasts().map(|forecast| forecast.memory_mb).collect::<UInt32Array>()),
        count(|forecast| forecast.fragments as u64),
        dollars(|forecast| forecast.expected.dollars)?,
        dollars(|forecast| forecast.upper.dollars)?,
        seconds(|forecast| forecast.expected.seconds),
        seconds(|forecast| forecast.upper.seconds),
        count(|forecast| forecast.expected.bytes),
        count(|forecast| forecast.upper.bytes),
        count(|forecast| forecast.expected.requests),
        count(|forecast| forecast.upper.requests),
        seconds(|forecast| forecast.expected.gb_seconds),
        seconds(|forecast| forecast.upper.gb_seconds),
        Arc::new(StringArray::from_iter_values(way)),
        Arc::new(StringArray::from_iter_values(picked)),
    ];
    one_batch(&cost_schema(), columns)
}

/// Makes the rows of SQL's EXPLAIN: a heading and a body.
pub fn as_rows(schema: &SchemaRef, text: &str) -> Result<SendableRecordBatchStream> {
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(vec!["gust"])), Arc::new(StringArray::from(vec![text]))];
    one_batch(schema, columns)
}

fn one_batch(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Result<SendableRecordBatchStream> {
    let batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
    let rows = futures::stream::iter([Ok(batch)]);
    Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), rows)))
}
