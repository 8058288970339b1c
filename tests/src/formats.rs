//! Random queries' results in every format, on every target, read back by pyarrow and Python's own readers.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_ipc::writer::StreamWriter;
use datafusion::physical_plan::collect;
use gust_engine::config::Target;
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_output::{OutputFormat, RowWriter};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::python::{self, Run};
use crate::query::{self, plain, run, session};
use crate::typed_queries::{self, ROWS, TABLES};

const FORMATS: [(&str, OutputFormat); 6] = [
    ("arrow", OutputFormat::Arrow),
    ("csv", OutputFormat::Csv),
    ("json", OutputFormat::Json),
    ("ndjson", OutputFormat::Ndjson),
    ("parquet", OutputFormat::Parquet),
    ("table", OutputFormat::Table),
];

/// Seeds whose results Python reads at a time. Their files are removed before the next ones are written.
const SEEDS_AT_ONCE: u64 = 100;

/// Counts of the results that were read back.
#[derive(Debug, Default)]
pub struct Checked {
    /// Queries times targets whose rows were read back.
    pub results: usize,
    /// Results that functions had a part in.
    pub remote: usize,
    /// Queries that the engine refuses. Every target refuses them, too, unless only the names of their columns clash.
    pub refused: usize,
    /// Reason why nothing was read back, where Python is missing.
    pub skipped: Option<String>,
}

/// Runs the queries of `seeds` and has their results read back; `cache` keeps Python's packages.
///
/// # Errors
/// The first difference, with its seed, target and query.
pub async fn check(seeds: Range<u64>, targets: &[Target], bootstrap: &str, cache: &Path) -> anyhow::Result<Checked> {
    let folder = TempDir::new()?;
    for (file, columns, before) in TABLES {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        let (first, last) = (before + 1, before + ROWS);
        let rows = format!("SELECT {columns} FROM generate_series({first}, {last}) s(v)");
        plain(&[], &format!("COPY ({rows}) TO '{}' STORED AS PARQUET", path.display())).await;
    }
    let mut sessions = Vec::new();
    for target in targets {
        let session = session(*target, 3, bootstrap);
        for table in ["t", "u"] {
            let location = folder.path().join(table);
            let create = format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}/'", location.display());
            run(&session, &create).await?;
        }
        sessions.push((*target, session));
    }
    let mut checked = Checked::default();
    let mut next = seeds.start;
    while next < seeds.end && checked.skipped.is_none() {
        let some = next..(next + SEEDS_AT_ONCE).min(seeds.end);
        next = some.end;
        check_some(some, &sessions, cache, &mut checked).await?;
    }
    for (_, session) in sessions {
        session.close().await;
    }
    Ok(checked)
}

async fn check_some(
    seeds: Range<u64>,
    sessions: &[(Target, Session)],
    cache: &Path,
    checked: &mut Checked,
) -> anyhow::Result<()> {
    let written = TempDir::new()?;
    let mut entries: Vec<Value> = Vec::new();
    for seed in seeds {
        let query = typed_queries::query(seed);
        let reference = reference(&sessions[0].1, &query).await;
        checked.refused += usize::from(reference.is_err());
        let reference_file = written.path().join(format!("{seed}-reference"));
        if let Ok((schema, batches)) = &reference {
            write_file(&reference_file, schema, batches)?;
        }
        for (target, session) in sessions {
            let what = format!("seed {seed} on {target:?}");
            let (schema, batches, report) = match (&reference, rows(session, &query).await) {
                (Ok(_), ran) => ran.with_context(|| format!("{what}: {query}"))?,
                (Err(_), Err(_)) => continue,
                // Gust gives such columns names of their own.
                (Err(error), Ok(_)) if error.to_string().contains("require unique expression names") => continue,
                (Err(error), Ok(_)) => anyhow::bail!("{what} runs what the engine refuses: {query}: {error}"),
            };
            if *target != Target::Local && report.fragments > 0 {
                ensure!(report.fell_back.is_none(), "{what}: fell back: {query}");
                ensure!(report.fragments_adopted == report.fragments, "{what}: not adopted: {query}: {report:?}");
                checked.remote += 1;
            }
            checked.results += 1;
            entries.push(write_all(&written.path().join(format!("{seed}-{target:?}")), &schema, &batches).map(
                |mut entry| {
                    entry["what"] = json!(what);
                    entry["query"] = json!(query);
                    entry["reference"] = json!(reference_file);
                    entry
                },
            )?);
        }
    }
    let manifest = written.path().join("manifest.json");
    std::fs::write(&manifest, serde_json::to_string(&entries)?)?;
    match python::run(cache, "read_formats.py", &[manifest])? {
        Run::Done { stdout } => ensure!(stdout.trim() == entries.len().to_string(), "read {stdout}"),
        Run::Skipped { reason } => checked.skipped = Some(reason),
    }
    Ok(())
}

/// Returns the rows as DataFusion collects them.
async fn reference(session: &Session, query: &str) -> anyhow::Result<(SchemaRef, Vec<RecordBatch>)> {
    let plan = session.context().sql(query).await?.create_physical_plan().await?;
    let batches = collect(plan.clone(), session.context().task_ctx()).await?;
    Ok((plan.schema(), batches))
}

async fn rows(session: &Session, sql: &str) -> anyhow::Result<(SchemaRef, Vec<RecordBatch>, Report)> {
    let mut running = session.run(session.parse(sql)?.remove(0)).await?;
    let batches = query::rows(&mut running).await;
    let schema = running.schema().clone();
    let report = Report::from_events(&running.finish().await.snapshot());
    Ok((schema, batches?, report))
}

/// Writes batches with their own types, under the names that are announced.
fn write_file(path: &Path, announced: &SchemaRef, batches: &[RecordBatch]) -> anyhow::Result<()> {
    let schema = batches.first().map_or_else(|| announced.clone(), |batch| named(&batch.schema(), announced));
    let mut writer = StreamWriter::try_new(File::create(path)?, &schema)?;
    for batch in batches {
        writer.write(&RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?)?;
    }
    Ok(writer.finish()?)
}

fn named(schema: &SchemaRef, names: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().zip(names.fields());
    let fields: Vec<Field> = fields.map(|(field, named)| field.as_ref().clone().with_name(named.name())).collect();
    Arc::new(Schema::new(fields))
}

fn write_all(stem: &Path, schema: &SchemaRef, batches: &[RecordBatch]) -> anyhow::Result<Value> {
    let file = |name: &str| -> PathBuf { stem.with_extension(name) };
    write_file(&file("expected"), schema, batches)?;
    let mut entry = json!({ "expected": file("expected") });
    for (name, format) in FORMATS {
        if format == OutputFormat::Parquet && schema.fields().is_empty() {
            continue;
        }
        let mut writer = RowWriter::new(File::create(file(name))?, format);
        writer.write_rows(schema, batches.iter().cloned().map(Ok))?;
        entry[name] = json!(file(name));
    }
    Ok(entry)
}
