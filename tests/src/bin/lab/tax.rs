//! Extra time of a trip through function processes over running locally, on data so small that nothing else counts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use gust_engine::config::{Config, Target};
use gust_engine::events::{AttemptOutcome, QueryEvent, StampedEvent};
use gust_engine::session::Session;
use gust_tests::query::run_with_events;
use serde_json::json;

use super::workload::Tax;
use super::{Bound, Outcome};
use gust_tests::stats::{MedianInterval, median, median_interval};

pub async fn measure(tax: &Tax, cache: &Path) -> anyhow::Result<Outcome> {
    let bootstrap = sibling("bootstrap_under_test")?;
    let mut table = vec![
        "fragments  local ms  functions ms  tax ms [95 %]            encode+dispatch  decode  execute  write  reply  cpu ms"
            .to_owned(),
    ];
    let (mut samples, mut judged, mut all_remote) = (Vec::new(), f64::NAN, true);
    for fragments in &tax.fragments {
        let folder = data(cache, *fragments, tax.rows_per_file).await?;
        let row = pairs(tax, *fragments, &folder, &bootstrap).await?;
        let MedianInterval { median: tax_ms, low, high } = median_interval(&row.differences);
        if *fragments == tax.judged_fragments {
            judged = tax_ms;
        }
        all_remote &= row.all_remote;
        table.push(format!(
            "{fragments:>9}  {:>8.2}  {:>12.2}  {tax_ms:>6.2} [{low:.2}, {high:.2}]   {}",
            median(&row.local_ms),
            median(&row.functions_ms),
            row.spans.line(),
        ));
        samples.push(json!({
            "fragments": fragments, "local_ms": row.local_ms, "functions_ms": row.functions_ms, "spans_us": row.spans.json(),
        }));
    }
    Ok(Outcome {
        name: "tax",
        table,
        samples: json!(samples),
        bounds: vec![Bound {
            what: format!("tax of {} warm fragments", tax.judged_fragments),
            measured: judged,
            aim: tax.aim_ms,
            worst: tax.worst_ms,
            unit: "ms",
        }],
        validity: vec![
            ("every fragment of every counted run came from a function".to_owned(), all_remote),
            ("at least 200 pairs".to_owned(), tax.pairs >= 200),
        ],
    })
}

struct Row {
    local_ms: Vec<f64>,
    functions_ms: Vec<f64>,
    differences: Vec<f64>,
    spans: Spans,
    all_remote: bool,
}

/// Steps in microseconds, one sample for each attempt, and for each adopted fragment in `reply`.
#[derive(Default)]
struct Spans {
    outside: Vec<f64>,
    decode: Vec<f64>,
    execute: Vec<f64>,
    write: Vec<f64>,
    reply: Vec<f64>,
    cpu: Vec<f64>,
}

impl Spans {
    fn add(&mut self, events: &[StampedEvent]) {
        for StampedEvent { event, .. } in events {
            match event {
                QueryEvent::AttemptEnded { outcome: AttemptOutcome::Done { usage, .. }, wall, .. } => {
                    self.outside.push(wall.as_micros() as f64 - usage.spans.total_us as f64);
                    self.decode.push(usage.spans.decode_us as f64);
                    self.execute.push(usage.spans.execute_us as f64);
                    self.write.push(usage.spans.write_us as f64);
                    self.cpu.push(usage.cpu_us as f64);
                }
                QueryEvent::FragmentAdopted { read, .. } => self.reply.push(read.as_micros() as f64),
                _ => {}
            }
        }
    }

    fn line(&self) -> String {
        let ms = |samples: &[f64]| median(samples) / 1000.0;
        format!(
            "{:>12.2}  {:>6.2}  {:>7.2}  {:>5.2}  {:>5.2}  {:>6.2}",
            ms(&self.outside),
            ms(&self.decode),
            ms(&self.execute),
            ms(&self.write),
            ms(&self.reply),
            ms(&self.cpu),
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "outside": self.outside, "decode": self.decode, "execute": self.execute, "write": self.write,
            "reply": self.reply, "cpu": self.cpu,
        })
    }
}

async fn pairs(tax: &Tax, fragments: u32, folder: &Path, bootstrap: &Path) -> anyhow::Result<Row> {
    let local = session(Target::Local, fragments, folder, bootstrap).await?;
    let functions = session(Target::Processes, fragments, folder, bootstrap).await?;
    for _ in 0..tax.warm_up {
        run_with_events(&local, &tax.query).await?;
        run_with_events(&functions, &tax.query).await?;
    }
    let mut row = Row {
        local_ms: Vec::new(),
        functions_ms: Vec::new(),
        differences: Vec::new(),
        spans: Spans::default(),
        all_remote: true,
    };
    for pair in 0..tax.pairs {
        // The first of a pair may warm caches for the second, so the two take turns.
        let (mut local_ms, mut functions_ms) = (0.0, 0.0);
        for turn in 0..2 {
            let started = Instant::now();
            if (pair + turn) % 2 == 0 {
                run_with_events(&local, &tax.query).await?;
                local_ms = started.elapsed().as_secs_f64() * 1000.0;
            } else {
                let (_, report, events) = run_with_events(&functions, &tax.query).await?;
                functions_ms = started.elapsed().as_secs_f64() * 1000.0;
                row.all_remote &= report.fragments_adopted == fragments as usize;
                row.spans.add(&events);
            }
        }
        row.differences.push(functions_ms - local_ms);
        row.local_ms.push(local_ms);
        row.functions_ms.push(functions_ms);
    }
    functions.close().await;
    local.close().await;
    Ok(row)
}

async fn session(target: Target, functions_max: u32, folder: &Path, bootstrap: &Path) -> anyhow::Result<Session> {
    let mut config = Config { on: target, functions_max, ..Config::default() };
    config.process.program = Some(bootstrap.to_owned());
    let session = Session::new(config)?;
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/'", folder.display());
    run_with_events(&session, &create).await?;
    Ok(session)
}

/// Writes one tiny file for each fragment, unless they are there. Returns their folder.
async fn data(cache: &Path, files: u32, rows: usize) -> anyhow::Result<PathBuf> {
    let folder = cache.join(format!("tax-{files}-{rows}"));
    if folder.join("done").exists() {
        return Ok(folder.join("t"));
    }
    let context = datafusion::prelude::SessionContext::new();
    for file in 0..files {
        let target = folder.join("t").join(format!("{file}.parquet"));
        std::fs::create_dir_all(folder.join("t"))?;
        let sql = format!(
            "COPY (SELECT value AS k, value * 2 AS v FROM generate_series({}, {})) TO '{}' STORED AS PARQUET",
            file as usize * rows + 1,
            (file as usize + 1) * rows,
            target.display()
        );
        context.sql(&sql).await?.collect().await?;
    }
    std::fs::write(folder.join("done"), "")?;
    Ok(folder.join("t"))
}

/// Returns the path of a binary beside this one.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "{} is not there; cargo build --release", path.display());
    Ok(path)
}
