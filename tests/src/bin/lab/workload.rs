//! The workload file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use gust_tests::fleet::Platform;
use gust_tests::s3::Shape;
use gust_tests::tpch::Files;
use serde::Deserialize;

use super::cloud_table::CloudTable;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    pub tax: Tax,
    pub estimate: Estimates,
    pub fanout: Fanout,
    pub faults: Faults,
    /// Platform in virtual time.
    pub fleet: Platform,
    pub prices: Prices,
    pub tail: Tail,
    pub model: Model,
    pub local: Local,
    pub latency: Latency,
    pub plan: PlanOfFiles,
    pub planning: Planning,
    pub names: Names,
    pub odd_values: OddValues,
    pub deletes: DeleteCosts,
    pub metering: Metering,
    pub compression: Compression,
    pub memory: Memory,
    pub operators: Operators,
    /// S3 that `scaling` and `concurrency` run on.
    pub cloud: Shape,
    /// Table on that S3.
    pub cloud_table: CloudTable,
    pub scaling: Scaling,
    pub concurrency: Concurrency,
    pub shuffle: Shuffle,
    pub aligned: AlignedJoins,
    pub serve: Serve,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tax {
    pub query: String,
    pub pairs: usize,
    pub warm_up: usize,
    pub fragments: Vec<u32>,
    pub rows_per_file: usize,
    pub judged_fragments: u32,
    pub aim_ms: f64,
    pub worst_ms: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    pub scale: f64,
    pub files: usize,
    pub row_group_rows: usize,
    pub functions: u32,
    pub timeout_seconds: u64,
    pub on: Vec<String>,
    pub limits: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planning {
    pub scale: f64,
    pub files: usize,
    pub row_group_rows: usize,
    pub functions: u32,
    pub pairs: usize,
    pub aim_ms: f64,
    pub worst_ms: f64,
    pub cut: Cutting,
}

/// Time from a physical plan to encoded stages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cutting {
    pub scale: f64,
    pub files: usize,
    pub row_group_rows: usize,
    pub runs: usize,
    /// Milliseconds of the slowest query.
    pub tpch_ms: Limits,
    pub twenty_tables_ms: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    pub namespaces: usize,
    /// Tables of each namespace.
    pub tables: usize,
    pub runs: usize,
    /// Seconds over those of pyiceberg, by statement.
    pub shares: BTreeMap<String, Limits>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanOfFiles {
    pub manifests: usize,
    pub columns: usize,
    /// Plans after the first.
    pub runs: usize,
    pub cold_seconds: Limits,
    pub warm_ms: Limits,
    pub peak_mb: Limits,
    /// Data files of the table with deletes.
    pub data_files: usize,
    /// Files of keys, each of which applies to all of them.
    pub delete_files: usize,
    pub deletes_seconds: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operators {
    pub partitions: Vec<usize>,
    pub repeats: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metering {
    pub scale: f64,
    pub files: usize,
    pub row_group_rows: usize,
    pub functions: u32,
    pub queries: Vec<usize>,
    pub runs: usize,
    /// Events and requests of the microbenchmarks.
    pub repeats: usize,
    pub aim_share: f64,
    pub worst_share: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimates {
    pub functions: u32,
    pub scale: f64,
    pub files: usize,
    pub row_group_rows: usize,
    pub calibration_bytes: u64,
    pub random_queries: usize,
    pub seed: u64,
    pub aim_error: f64,
    pub worst_error: f64,
    pub aim_above: f64,
    pub worst_above: f64,
    pub aim_upper_ratio: f64,
    pub worst_upper_ratio: f64,
    /// Bounds for queries whose functions send rows to one another.
    pub stages: StageEstimates,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageEstimates {
    /// Least bytes of a side, of groups or of a sort for `auto`, so that it chooses both ways at this scale.
    pub auto_bytes_min: u64,
    /// Times that each of the 22 queries is estimated and run.
    pub rounds: usize,
    pub error: Limits,
    /// Share of queries that cost more than their upper bound.
    pub above: Limits,
    pub upper_ratio: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fanout {
    pub in_flight: usize,
    pub aim_seconds: f64,
    pub worst_seconds: f64,
    pub aim_bytes: u64,
    pub worst_bytes: u64,
    pub executor_fragments: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    pub seeds: u64,
    pub process_seeds: u64,
}

/// Prices in dollars.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    pub gigabyte_second: f64,
    pub million_invocations: f64,
    pub thousand_gets: f64,
    pub thousand_puts: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    pub queries: u64,
    pub fragments: Vec<usize>,
    pub fragment_bytes: u64,
    pub straggler_share: f64,
    pub straggler_pipe_share: f64,
    pub judged_fragments: usize,
    pub aim_p99_over_p50: f64,
    pub worst_p99_over_p50: f64,
    pub aim_extra_share: f64,
    pub worst_extra_share: f64,
    pub graph: TailGraph,
}

/// Stages one after the other, each of which reads as much as the first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TailGraph {
    pub stages: usize,
    /// Functions of each stage.
    pub fragments: usize,
    /// p99 of a query's seconds over p50.
    pub p99_over_p50: Limits,
    /// GB-s over those without second attempts and hedged reads, as a share.
    pub extra_share: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub lineitem_files: usize,
    pub lineitem_bytes: u64,
    pub orders_files: usize,
    pub orders_bytes: u64,
    pub q6_lineitem_share: f64,
    pub q12_lineitem_share: f64,
    pub q12_orders_share: f64,
    pub q12_lineitem_shuffled_share: f64,
    pub q12_orders_shuffled_share: f64,
    pub q12_partitions: usize,
    pub runs: u64,
    pub published: Published,
    pub error_max: f64,
    pub our_memory_mb: u32,
    pub our_functions_max: usize,
    pub ramp_functions: usize,
    pub ramp_bytes: Vec<u64>,
    pub ramp_clones: Vec<u32>,
    /// Queries with stages over stages.
    pub staged: Vec<StagedQuery>,
}

/// Query whose tables are joined one after the other in functions.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedQuery {
    pub name: String,
    /// Usage of the published functions, if there is any.
    pub published: Option<Figures>,
    pub tables: Vec<StagedTable>,
    /// Encoded bytes that each join but the last sends, for each byte that it reads.
    pub joins_send: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedTable {
    pub files: usize,
    /// Bytes of the columns that the query needs.
    pub bytes: u64,
    /// Encoded bytes that its scan sends, for each of them.
    pub sends: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    pub q6: Figures,
    pub q12: Figures,
}

/// Usage of a query.
#[derive(Debug, Clone, Copy, Default, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    pub functions: f64,
    pub seconds: f64,
    pub cents: f64,
    pub requests: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    pub scale: f64,
    pub files: usize,
    pub row_group_rows: usize,
    pub pairs: usize,
    pub aim_ratio: f64,
    pub worst_ratio: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    pub scale: f64,
    pub row_group_rows: usize,
    pub files: Files,
    pub small_files: Files,
    pub rounds: usize,
    pub rounds_of_small_files: usize,
    pub functions: u32,
    pub others_share_max: f64,
    pub bounds: LatencyBounds,
    pub shape: Shape,
}

/// Bounds of ratios, each less than one where the local side or the functions are better.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyBounds {
    pub local: Limits,
    pub small_files: Limits,
    pub small_files_tuned: Limits,
    pub functions: Limits,
    pub functions_gigabyte_seconds: Limits,
    /// Money for the requests of any query, and for the bytes that they bring.
    pub requests_each: Limits,
    pub unused: Limits,
    pub loopback: Limits,
    pub loopback_each: Limits,
    /// Functions over the coordinator alone, by statistics.
    pub tax: Limits,
    pub tax_each: Limits,
    /// Functions that send rows to one another wherever that is right, over the coordinator alone.
    pub tax_shuffle: Limits,
    pub cpu: Limits,
    pub cpu_each: Limits,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub aim: f64,
    pub worst: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OddValues {
    pub seeds: u64,
    /// Statements that run at a time.
    pub at_once: usize,
}

/// Table whose scans with deletes are compared with the scan of its data files.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteCosts {
    pub seed: u64,
    pub rows: u64,
    pub files: u64,
    pub runs: usize,
    /// Bounds of the ratio with vectors of 1 % random rows.
    pub scattered: Limits,
    /// Bounds of the ratio with vectors of 90 % in one run.
    pub one_run: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    pub queries: Vec<String>,
    pub scale: f64,
    pub repeats: usize,
    pub pipe_bytes_per_second: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    pub runs: usize,
    pub one_pipe_seconds_max: f64,
    pub cpu_share_max: f64,
    /// Speed-ups that a comparable engine has published, by workers.
    pub published: Vec<(u32, f64)>,
    pub judged: Vec<JudgedScaling>,
}

/// Bounds of the number of functions over their speed-up.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedScaling {
    pub functions: u32,
    pub aim_ratio: f64,
    pub worst_ratio: f64,
}

/// Exchange between functions.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shuffle {
    pub seed: u64,
    /// Functions that leave rows, a file each.
    pub producers: u32,
    /// Functions that read them.
    pub consumers: u32,
    pub partitions: u32,
    pub rows_per_file: usize,
    pub text_bytes: usize,
    /// Producers of the run with one partition.
    pub producers_of_one: u32,
    /// Functions that run at a time.
    pub in_flight: usize,
    pub bytes: Limits,
    pub requests: Limits,
    pub dollars: Limits,
    /// Seconds with combined objects over those without, at the shaped server's rate of GETs.
    pub seconds: Limits,
}

/// Join of two Iceberg tables that are parted alike.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignedJoins {
    pub seed: u64,
    /// Rows of the first table.
    pub rows: usize,
    /// Rows of the second, each with a key of its own.
    pub other_rows: usize,
    /// Buckets of the key, each a file of each table.
    pub buckets: i32,
    pub functions: u32,
    pub runs: usize,
    /// Objects that a run leaves in the exchange.
    pub objects: Limits,
    /// Seconds of the join over those of the scans, on the loopback.
    pub seconds: Limits,
    /// The same behind a pipe for each function.
    pub seconds_behind_pipes: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    pub functions: u32,
    /// Number of the table's first columns that are summed.
    pub columns: usize,
    /// Queries of each user, one after the other.
    pub rounds: usize,
    pub cpu_share_max: f64,
    /// Bound of p99 on functions over p99 locally.
    pub aim_ratio: f64,
    pub worst_ratio: f64,
    /// Bound of p99 by `auto` over the better of both places.
    pub auto: Limits,
}

/// A server, its table, and its clients.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    pub seed: u64,
    pub rows: u64,
    pub row_group_rows: usize,
    pub small: String,
    pub large: String,
    pub large_share: f64,
    pub users: usize,
    pub connections: usize,
    /// Connections of one user beside whom another has the rest.
    pub neighbour_connections: usize,
    pub idle_connections: usize,
    pub alone_seconds: f64,
    /// Connections that ask without a pause while the capacity is measured.
    pub capacity_connections: usize,
    pub capacity_seconds: f64,
    pub half_seconds: f64,
    /// Load above capacity, over it, with its seconds and those of half of the capacity before and after it.
    pub above: f64,
    pub before_seconds: f64,
    pub above_seconds: f64,
    pub after_seconds: f64,
    pub late_ms_max: f64,
    pub others_share_max: f64,
    pub bounds: ServeBounds,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeBounds {
    pub half: Limits,
    pub refusal_ms: Limits,
    pub normal_seconds: Limits,
    pub growth: Limits,
    pub neighbour: Limits,
    pub idle: Limits,
}

pub fn read(path: &Path) -> anyhow::Result<Workload> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}
