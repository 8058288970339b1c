//! TPC-H under memory limits. Each query is a process of its own, and its rows are compared with DuckDB's. Beside the limit
//! stand the peaks of its memory and of each function process's (VmHWM, the resident set's high-water mark).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use gust::demo::queries;
use gust_tests::compare::{Rule, compare, read_arrow_file};
use gust_tests::python::{self, Run};
use gust_tests::tpch::{self, Tables};
use serde::Serialize;
use serde_json::{Value, json};

use super::tax::sibling;
use super::workload::Memory;
use super::{Bound, Outcome};

/// Pause between looks at the processes. A high-water mark never falls, so only the last pause of a process can be missed.
const LOOK: Duration = Duration::from_millis(20);

/// Runs that the command line chooses from the workload. An empty list chooses all.
pub struct Choice {
    pub scale: Option<f64>,
    pub queries: Vec<usize>,
    pub on: Vec<String>,
    pub limits: Vec<String>,
}

/// Run that is to be made: a query's number, its target, and the limit.
#[derive(Clone, Copy)]
struct Planned<'a> {
    number: usize,
    on: &'a str,
    limit: &'a str,
}

/// Run of one query.
#[derive(Serialize)]
struct QueryRun {
    query: usize,
    on: String,
    limit: String,
    verdict: String,
    right: bool,
    seconds: f64,
    planned_again: bool,
    coordinator_peak_bytes: u64,
    /// Peak of each function process, largest first.
    function_peak_bytes: Vec<u64>,
}

pub async fn measure(memory: &Memory, choice: &Choice, cache: &Path) -> anyhow::Result<Outcome> {
    let scale = choice.scale.unwrap_or(memory.scale);
    let tables = tpch::tables_at(cache, scale, memory.files, memory.row_group_rows)?;
    let numbers = if choice.queries.is_empty() { (1..=queries::COUNT).collect() } else { choice.queries.clone() };
    let judged = judge(&tables, &numbers, cache, scale)?;
    let folder = tempfile::tempdir_in(cache)?;
    fs::write(folder.path().join("setup.sql"), tables.create_statements().join(";\n") + ";")?;
    fs::write(folder.path().join("gust.toml"), "")?;
    let mut table =
        vec!["query  on         limit     seconds  coordinator MiB  functions MiB           rows".to_owned()];
    let mut ran = Vec::new();
    for on in memory.on.iter().filter(|on| choice.on.is_empty() || choice.on.contains(on)) {
        for limit in memory.limits.iter().filter(|limit| choice.limits.is_empty() || choice.limits.contains(limit)) {
            for &number in &numbers {
                let one = run(memory, Planned { number, on, limit }, scale, folder.path(), &judged)?;
                let line = line(&one);
                eprintln!("{line}");
                table.push(line);
                ran.push(one);
            }
        }
    }
    let wrong = ran.iter().filter(|ran| !ran.right).count() as f64;
    let what = format!("runs of {} at scale factor {scale} that did not end right", ran.len());
    let bound = Bound { what, measured: wrong, aim: 0.0, worst: 0.0, unit: "runs" };
    Ok(Outcome { name: "memory", table, samples: json!(ran), bounds: vec![bound], validity: Vec::new() })
}

fn line(ran: &QueryRun) -> String {
    let mebibytes = |bytes: &u64| (bytes >> 20).to_string();
    let functions = ran.function_peak_bytes.iter().map(mebibytes).collect::<Vec<_>>().join(" ");
    let QueryRun { query, on, limit, verdict, seconds, coordinator_peak_bytes: peak, .. } = ran;
    let again = if ran.planned_again { ", planned again" } else { "" };
    format!("{query:>5}  {on:<9}  {limit:<8}  {seconds:>7.1}  {:>15}  {functions:<22}  {verdict}{again}", peak >> 20)
}

/// Writes DuckDB's rows beside the tables, unless they are there. Returns their folder.
pub fn judge(tables: &Tables, numbers: &[usize], cache: &Path, scale: f64) -> anyhow::Result<PathBuf> {
    let judged = cache.join(format!("tpch-sf{scale}-judged"));
    let missing = |number: &&usize| !judged.join(format!("q{number:02}.arrow")).exists();
    let folder = tempfile::tempdir_in(cache)?;
    let mut arguments = vec![tables.root().to_owned(), judged.clone()];
    for number in numbers.iter().filter(missing) {
        let file = folder.path().join(format!("q{number:02}.sql"));
        fs::write(&file, queries::query(*number))?;
        arguments.push(file);
    }
    if arguments.len() > 2
        && let Run::Skipped { reason } = python::run(cache, "tpch_judge.py", &arguments)?
    {
        anyhow::bail!("DuckDB is the judge and is not to be had: {reason}");
    }
    Ok(judged)
}

fn run(
    memory: &Memory,
    Planned { number, on, limit }: Planned<'_>,
    scale: f64,
    folder: &Path,
    judged: &Path,
) -> anyhow::Result<QueryRun> {
    let (rows, words) = (folder.join("rows.arrows"), folder.join("words.txt"));
    let mut command = Command::new(sibling("gust_under_test")?);
    command
        .args(["query", "--setup", "setup.sql", "--on", on, "--format", "arrow", "--report", "json"])
        .args(["--functions", &memory.functions.to_string(), "--timeout", &format!("{}s", memory.timeout_seconds)])
        .args(["--", queries::query(number)])
        .current_dir(folder)
        .env("GUST_PROCESS__PROGRAM", sibling("bootstrap_under_test")?)
        .env("XDG_STATE_HOME", folder.join("state"))
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(File::create(&rows)?)
        .stderr(File::create(&words)?);
    if let Some(bytes) = limit_bytes(limit, scale / memory.scale)? {
        command.env("GUST_MEMORY_BYTES_MAX", bytes.to_string());
    }
    let started = Instant::now();
    let (ended_well, mut peaks) = watch(command.spawn()?)?;
    let seconds = started.elapsed().as_secs_f64();
    let words = fs::read_to_string(&words)?;
    let report = words.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
    let verdict = if ended_well {
        let expected = read_arrow_file(&judged.join(format!("q{number:02}.arrow")))?;
        compare(&expected, &read_stream(&rows)?, Rule::other_engine().in_any_order()).map_err(|error| error.to_string())
    } else {
        let error = words.lines().find(|line| line.starts_with("error")).unwrap_or("ended without a word");
        Err(error.to_owned())
    };
    let coordinator_peak_bytes = peaks.remove(0);
    peaks.sort_unstable_by(|a, b| b.cmp(a));
    Ok(QueryRun {
        query: number,
        on: on.to_owned(),
        limit: limit.to_owned(),
        right: verdict.is_ok(),
        verdict: verdict.map_or_else(|why| why, |()| "right".to_owned()),
        seconds,
        planned_again: report["planned_again"].is_string(),
        coordinator_peak_bytes,
        function_peak_bytes: peaks,
    })
}

/// Parses `512MiB`, `1GiB` or `default`. A smaller scale has smaller limits, by `share`.
fn limit_bytes(limit: &str, share: f64) -> anyhow::Result<Option<u64>> {
    if limit == "default" {
        return Ok(None);
    }
    let (number, factor) = match (limit.strip_suffix("MiB"), limit.strip_suffix("GiB")) {
        (Some(number), _) => (number, 1_u64 << 20),
        (_, Some(number)) => (number, 1 << 30),
        _ => anyhow::bail!("`{limit}` is no limit: use MiB, GiB or default"),
    };
    let bytes = number.parse::<u64>().with_context(|| format!("limit `{limit}`"))? * factor;
    Ok(Some((bytes as f64 * share) as u64))
}

fn read_stream(path: &Path) -> anyhow::Result<Vec<RecordBatch>> {
    let reader = StreamReader::try_new(BufReader::new(File::open(path)?), None)?;
    let empty = RecordBatch::new_empty(reader.schema());
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;
    Ok(if batches.is_empty() { vec![empty] } else { batches })
}

/// Waits for a process. Returns whether it ended well, and the peaks of itself, first, and of each of its children.
fn watch(mut child: Child) -> anyhow::Result<(bool, Vec<u64>)> {
    let parent = child.id().to_string();
    let (mut own, mut children) = (0, BTreeMap::new());
    loop {
        own = own.max(high_water_bytes(&parent).unwrap_or_default());
        for process in fs::read_dir("/proc").context("/proc")?.flatten() {
            let name = process.file_name().to_string_lossy().into_owned();
            if is_child(&process.path(), &parent)
                && let Some(bytes) = high_water_bytes(&name)
            {
                let most: &mut u64 = children.entry(name).or_default();
                *most = bytes.max(*most);
            }
        }
        if let Some(status) = child.try_wait()? {
            return Ok((status.success(), [own].into_iter().chain(children.into_values()).collect()));
        }
        tokio::task::block_in_place(|| std::thread::park_timeout(LOOK));
    }
}

fn is_child(process: &Path, parent: &str) -> bool {
    // State and parent follow the name in brackets.
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(parent)
}

/// Returns the peak of a process's memory, None if it has ended.
pub fn high_water_bytes(process: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
