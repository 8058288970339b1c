//! The workload file.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    pub tax: Tax,
    pub fanout: Fanout,
    pub faults: Faults,
    pub local: Local,
    pub compression: Compression,
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
pub struct Compression {
    pub queries: Vec<String>,
    pub scale: f64,
    pub repeats: usize,
    pub pipe_bytes_per_second: f64,
}

pub fn read(path: &Path) -> anyhow::Result<Workload> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}
