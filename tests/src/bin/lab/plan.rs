//! Planning of a large Iceberg table over the loopback S3, beside DuckDB and pyiceberg: seconds cold and warm, and the peak of memory.
//! Each engine is a process of its own. The table has metadata alone, written by `tests/python/plan_table.py`. Beside it, Gust plans a
//! table whose files of keys all apply to all data files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use gust_engine::config::{Config, S3Config, Secret, Target};
use gust_engine::session::Session;
use gust_tests::iceberg::{DataFile, DeleteFile, Deletes, IcebergTable};
use gust_tests::python::{self, PythonEnvironment};
use gust_tests::s3::identity::{COORDINATOR, access_key};
use gust_tests::s3::{BUCKET, REGION, S3Server, SECRET_ACCESS_KEY};
use gust_tests::stats::median;
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::memory::high_water_bytes;
use super::tax::sibling;
use super::workload::{Limits, PlanOfFiles};
use super::{Bound, Outcome};

/// Column by which the files are parted, and the one value that the query wants.
const COLUMN: &str = "c1";
const VALUE: &str = "17";

/// Table to plan, or the process that plans it.
#[derive(clap::Args)]
pub struct Choice {
    /// Number of data files
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// Plan the table of this metadata file here, on the server of `--endpoint`
    #[arg(long, hide = true)]
    inside: Option<String>,
    #[arg(long, hide = true)]
    endpoint: Option<String>,
    #[arg(long, hide = true)]
    runs: Option<usize>,
}

/// Figures of one engine's process.
#[derive(Serialize, Deserialize)]
struct Planned {
    cold_seconds: f64,
    warm_seconds: Vec<f64>,
    peak_bytes: u64,
    /// Data files that the plan reads, where the engine says it.
    files: Option<u64>,
}

pub async fn measure(plan: &PlanOfFiles, choice: &Choice, cache: &Path) -> anyhow::Result<Outcome> {
    if let (Some(metadata), Some(endpoint)) = (&choice.inside, &choice.endpoint) {
        let planned = inside(metadata, endpoint, choice.runs.unwrap_or(plan.runs)).await?;
        let table = vec![serde_json::to_string(&planned)?];
        return Ok(Outcome { name: "plan", table, samples: json!(planned), bounds: Vec::new(), validity: Vec::new() });
    }
    let python = match python::environment(cache, python::JUDGES)? {
        PythonEnvironment::Ready(python) => python,
        PythonEnvironment::Missing(reason) => bail!("Python writes the table and is not to be had: {reason}"),
    };
    let server = S3Server::start()?;
    let metadata = put_table(plan, choice.files, &python, &server, cache).await?;
    let mut rows = vec![("gust", ours(plan, &metadata, server.endpoint())?)];
    for engine in ["pyiceberg", "duckdb"] {
        rows.push((engine, judge(plan, engine, &python, &metadata, server.endpoint())?));
    }
    let mut outcome = outcome(plan, choice.files, &rows);
    with_deletes(plan, &mut outcome).await?;
    Ok(outcome)
}

/// Plans in this process, as a user's first query of a table does and as its next ones do.
async fn inside(metadata: &str, endpoint: &str, runs: usize) -> anyhow::Result<Planned> {
    let s3 = S3Config {
        endpoint: Some(endpoint.to_owned()),
        region: Some(REGION.to_owned()),
        allow_http: true,
        path_style: true,
        access_key_id: Some(access_key(COORDINATOR)),
        secret_access_key: Some(Secret::new(SECRET_ACCESS_KEY)),
        ..S3Config::default()
    };
    let session = Session::new(Config { s3, on: Target::Local, ..Config::default() })?;
    let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
    let query = format!("SELECT {COLUMN}, c3 FROM t WHERE {COLUMN} = {VALUE}");
    let mut seconds = Vec::new();
    let mut words = String::new();
    for _ in 0..=runs {
        let started = Instant::now();
        if seconds.is_empty() {
            session.set_up(&create).await?;
        }
        for statement in session.parse(&query)? {
            words = session.explain(statement).await?;
        }
        seconds.push(started.elapsed().as_secs_f64());
    }
    session.close().await;
    // `table t: 100 of 100000 files, …`.
    let files = words.lines().find_map(|line| {
        let (kept, _) = line.split_once("files")?.0.split_once(" of ")?;
        kept.rsplit(' ').next()?.parse().ok()
    });
    Ok(Planned {
        cold_seconds: seconds.remove(0),
        warm_seconds: seconds,
        peak_bytes: high_water_bytes("self").context("no high-water mark of memory")?,
        files,
    })
}

/// Plans a table with many deletes by each way: the digest of all its files of keys is chosen for functions.
async fn with_deletes(plan: &PlanOfFiles, outcome: &mut Outcome) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let location = folder.path().display().to_string();
    let data = |number| DataFile::new(format!("{location}/data/{number}.parquet"), 8 << 20, 100_000);
    let keys =
        |number| DeleteFile::new(format!("{location}/deletes/{number}.parquet"), 900, 10, Deletes::Keys(vec![1]));
    let table = IcebergTable {
        location: location.clone(),
        fields: json!([{"id": 1, "name": "id", "required": false, "type": "long"}]),
        data: (0..plan.data_files).map(data).collect(),
        deletes: (0..plan.delete_files).map(keys).collect(),
        ..IcebergTable::default()
    };
    std::fs::create_dir_all(folder.path().join("metadata"))?;
    for (path, bytes) in table.metadata() {
        std::fs::write(path, bytes)?;
    }
    let (kept, once) = (
        format!("{} equality delete files", plan.delete_files),
        format!("the coordinator reads {} delete files once", plan.delete_files),
    );
    let (mut slowest, mut is_right) = (0.0_f64, true);
    outcome
        .table
        .push(format!("{} data files, {} files of keys: seconds of plans", plan.data_files, plan.delete_files));
    for on in [Target::Local, Target::Processes, Target::Auto] {
        let mut config = Config { on, functions_max: 100, ..Config::default() };
        config.process.program = Some(sibling("bootstrap_under_test")?);
        let session = Session::new(config)?;
        let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{}'", table.metadata_path());
        session.set_up(&create).await?;
        let mut seconds = Vec::new();
        for _ in 0..3 {
            let statement = session.parse("SELECT sum(id) FROM t")?.remove(0);
            let started = Instant::now();
            let words = session.explain(statement).await?;
            seconds.push(started.elapsed().as_secs_f64());
            is_right &= words.contains(&kept) && words.contains(&once) == (on == Target::Processes);
        }
        session.close().await;
        let shown: Vec<String> = seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
        outcome.table.push(format!("{:<9}  {}", on.name(), shown.join("  ")));
        slowest = seconds.into_iter().fold(slowest, f64::max);
    }
    let Limits { aim, worst } = plan.deletes_seconds;
    let what = "slowest plan with deletes".to_owned();
    outcome.bounds.push(Bound { what, measured: slowest, aim, worst, unit: "s" });
    outcome.validity.push(("deletes are planned, and digested for functions".to_owned(), is_right));
    Ok(())
}

/// Writes the table, unless an earlier run has, and puts it into the server. Returns its metadata file.
async fn put_table(
    plan: &PlanOfFiles,
    files: usize,
    python: &Path,
    server: &S3Server,
    cache: &Path,
) -> anyhow::Result<String> {
    let name = format!("plan-{files}-{}-{}-v1", plan.manifests, plan.columns);
    let location = format!("s3://{BUCKET}/{name}");
    let folder = cache.join(&name);
    if !folder.exists() {
        let part = tempfile::tempdir_in(cache)?;
        let numbers = [files, plan.manifests, plan.columns].map(|number| number.to_string());
        let mut command = Command::new(python);
        command.arg(python::scripts().join("plan_table.py")).arg(part.path()).arg(&location).args(numbers);
        let status = command.status().with_context(|| format!("cannot run {}", python.display()))?;
        ensure!(status.success(), "plan_table.py failed with {status}");
        std::fs::rename(part.keep(), &folder)?;
    }
    let store = server.store()?;
    for file in std::fs::read_dir(folder.join("metadata"))? {
        let path: PathBuf = file?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let key = object_store::path::Path::from(format!("{name}/metadata/{file}"));
        store.put(&key, std::fs::read(&path)?.into()).await?;
    }
    Ok(format!("{location}/metadata/v1.metadata.json"))
}

fn ours(plan: &PlanOfFiles, metadata: &str, endpoint: &str) -> anyhow::Result<Planned> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["plan", "--inside", metadata, "--endpoint", endpoint, "--runs", &plan.runs.to_string()]);
    planned(command)
}

fn judge(plan: &PlanOfFiles, engine: &str, python: &Path, metadata: &str, endpoint: &str) -> anyhow::Result<Planned> {
    let mut command = Command::new(python);
    command.arg(python::scripts().join("plan_judge.py")).args([engine, metadata, COLUMN, VALUE]);
    command
        .arg(plan.runs.to_string())
        .env("AWS_ENDPOINT", endpoint)
        .env("AWS_REGION", REGION)
        .env("AWS_ACCESS_KEY_ID", access_key(COORDINATOR))
        .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    planned(command)
}

/// Runs a process that prints its figures.
fn planned(mut command: Command) -> anyhow::Result<Planned> {
    let output = command.output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?} failed with {}: {stderr}", output.status);
    let line = stdout.lines().find(|line| line.starts_with('{')).with_context(|| format!("no figures: {stdout}"))?;
    Ok(serde_json::from_str(line)?)
}

fn outcome(plan: &PlanOfFiles, files: usize, rows: &[(&str, Planned)]) -> Outcome {
    let mut table = vec![format!("{files} files, {} manifests, {} columns", plan.manifests, plan.columns)];
    table.push("engine     cold s  warm ms  peak MB  files kept".to_owned());
    table.extend(rows.iter().map(|(engine, planned)| {
        let Planned { cold_seconds, warm_seconds, peak_bytes, files } = planned;
        let kept = files.map_or_else(|| "not said".to_owned(), |files| files.to_string());
        let (warm_ms, peak) = (median(warm_seconds) * 1000.0, *peak_bytes as f64 / 1e6);
        format!("{engine:<9}  {cold_seconds:>6.2}  {warm_ms:>7.0}  {peak:>7.0}  {kept}")
    }));
    let bound = |what: &str, measured: f64, Limits { aim, worst }: Limits, unit| Bound {
        what: what.to_owned(),
        measured,
        aim,
        worst,
        unit,
    };
    let ours = rows.iter().find(|(engine, _)| *engine == "gust").map(|(_, planned)| planned);
    let bounds = ours.map(|ours| {
        vec![
            bound("first plan", ours.cold_seconds, plan.cold_seconds, "s"),
            bound("next plans", median(&ours.warm_seconds) * 1000.0, plan.warm_ms, "ms"),
            bound("peak of the process", ours.peak_bytes as f64 / 1e6, plan.peak_mb, "MB"),
        ]
    });
    let each = rows.iter().filter_map(|(_, planned)| planned.files);
    let kept = plan.manifests;
    Outcome {
        name: "plan",
        table,
        samples: json!(rows),
        bounds: bounds.unwrap_or_default(),
        validity: vec![("each keeps one file a manifest".to_owned(), each.into_iter().all(|each| each == kept as u64))],
    }
}
