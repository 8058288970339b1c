//! The bill, recomputed. Independent arithmetic (`tests/python/bill.py`) repeats every line of a cost report, from the S3
//! server's counts and from the time for which the operating system kept the functions' processes.
//!
//! A function here is a process that lives for one attempt. Its network is slow, so that its life is its attempt.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gust_engine::config::{Config, Target};
use gust_engine::error::ErrorKind;
use gust_engine::report::Report;
use gust_tests::python::{self, Run};
use gust_tests::query::{rows, run};
use gust_tests::s3::shape::{Latency, Pipe};
use gust_tests::s3::{S3Server, Shape};
use gust_tests::{cloud, tpch};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Query that reads most of lineitem: about half a megabyte a fragment.
const EVERYTHING: &str = "SELECT sum(l_extendedprice), sum(l_quantity), max(l_comment), min(l_shipdate), sum(l_partkey), \
                          sum(l_orderkey), sum(l_tax), max(l_shipinstruct) FROM lineitem";

/// Query, with the faults and limits under which it runs.
struct Case {
    name: &'static str,
    sql: &'static str,
    /// Mode of the function (`faulty_bootstrap`).
    mode: &'static str,
    latency: Option<Latency>,
    timeout: Duration,
    fails: bool,
}

const LONG: Duration = Duration::from_secs(60);

impl Case {
    const fn new(name: &'static str, mode: &'static str) -> Self {
        Self { name, sql: EVERYTHING, mode, latency: None, timeout: LONG, fails: false }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_report_equals_independent_counts() {
    // Two of five reads are so late that they are sent again. There are few, because footers come with the fragments.
    let late = Latency { least_ms: 5.0, longer_ms: vec![(0.5, 10.0), (0.4, 600.0)], worst_ms: 700.0 };
    let cases = [
        Case::new("success", "once"),
        Case::new("retry", "once-retry"),
        Case::new("crash", "once-crash"),
        Case { latency: Some(late), ..Case::new("hedge", "once") },
        Case {
            sql: "SELECT l_comment FROM lineitem LIMIT 1",
            timeout: Duration::from_secs(20),
            ..Case::new("cancel", "once-late")
        },
        Case { timeout: Duration::from_millis(1200), fails: true, ..Case::new("time-out", "once") },
    ];
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let server = S3Server::start().expect("a server");
    let tables = tpch::tables(cache).expect("TPC-H data");
    let store = server.store().expect("a client");
    let url = server.url("");
    let create = tables.upload(store.as_ref(), url.trim_end_matches('/')).await.expect("uploaded");
    let folder = TempDir::new().expect("a temporary folder");
    let mut accounts = Vec::new();
    for case in &cases {
        accounts.push(Box::pin(account(case, &server, &create, folder.path())).await);
    }
    let path = folder.path().join("accounts.json");
    std::fs::write(&path, json!(accounts).to_string()).expect("writable");
    match python::run(cache, "bill.py", &[&path]).unwrap_or_else(|error| panic!("{error:#}")) {
        Run::Done { stdout } => assert_eq!(stdout.lines().count(), cases.len(), "{stdout}"),
        Run::Skipped { reason } => eprintln!("skipped: {reason}"),
    }
}

/// Runs a case. Returns its report beside the observations of the server and the operating system.
async fn account(case: &Case, server: &S3Server, create: &[String], folder: &Path) -> Value {
    let Case { name, mode, .. } = *case;
    let mark = folder.join(name);
    std::fs::create_dir(&mark).expect("made");
    let mut config = Config {
        on: Target::Processes,
        functions_max: 4,
        exchange: Some(server.url(&format!("exchange-{name}"))),
        timeout: case.timeout,
        ..Config::default()
    };
    config.cost.region = Some("us-east-1".to_owned());
    config.cost.coordinator_hour = Some("0.10".parse().expect("a price"));
    config.cost.coordinator_outside = Some(true);
    server.set_shape(None);
    let session = cloud::session(server, config, &program(folder, mode, &mark)).expect("a session");
    for statement in create {
        run(&session, statement).await.expect("a table");
    }
    // Each function has some 400 kB/s.
    let pipe =
        Pipe { burst_once_bytes: 0.0, burst_bytes: 0.0, line_bytes_per_second: 400e3, refill_bytes_per_second: 400e3 };
    let latency = case.latency.clone();
    let (limits, faults) = (None, gust_tests::s3::shape::Faults::default());
    server.set_shape(Some(Shape { seed: 7, scale: 1.0, pipe: Some(pipe), latency, limits, faults }));
    server.take_requests();
    let watch = Watch::start(&mark);
    let statement = session.parse(case.sql).expect("SQL").remove(0);
    let began = now_ms();
    let mut running = session.run(statement).await.expect("it starts");
    let runs = now_ms();
    let ended = rows(&mut running).await.map(drop);
    let ends = now_ms();
    let events = running.finish().await.snapshot();
    let over = now_ms();
    assert_eq!(matches!(&ended, Err(error) if error.kind() == ErrorKind::TimedOut), case.fails, "{name}: {ended:?}");
    let requests = server.take_requests();
    session.close().await;
    server.set_shape(None);
    let tariff = session.tariff().await.expect("prices");
    let report = Report::priced(&events, Ok(&tariff));
    let requests: Vec<Value> = requests
        .iter()
        .map(|r| {
            json!({
                "operation": format!("{:?}", r.operation), "key": r.key, "identity": r.identity,
                "bytes": r.bytes.end - r.bytes.start, "first": r.bytes.start, "refused": r.refused,
            })
        })
        .collect();
    json!({
        "case": name, "began_ms": began, "runs_ms": runs, "ends_ms": ends, "over_ms": over, "timeout_ms": case.timeout.as_secs_f64() * 1e3,
        "memory_mb": 2048, "architecture": std::env::consts::ARCH, "coordinator_dollars_an_hour": 0.10,
        "processes": watch.stop(), "requests": requests, "report": report,
    })
}

/// Writes a program that notes its process. A session's configuration names a program without arguments.
fn program(folder: &Path, mode: &str, mark: &Path) -> PathBuf {
    let path =
        folder.join(format!("function-{}.sh", mark.file_name().and_then(|name| name.to_str()).unwrap_or_default()));
    let (program, mark) = (env!("CARGO_BIN_EXE_faulty_bootstrap"), mark.display());
    let text = format!("#!/bin/sh\n: > '{mark}'/$$\nexec '{program}' {mode} '{mark}'\n");
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o700).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("writable");
    path
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

/// Watcher of the processes that note themselves in a folder, from their first line to their end.
struct Watch {
    over: Arc<AtomicBool>,
    watching: std::thread::JoinHandle<BTreeMap<u32, (f64, f64)>>,
}

impl Watch {
    fn start(mark: &Path) -> Self {
        let (over, mark) = (Arc::new(AtomicBool::new(false)), mark.to_owned());
        let is_over = Arc::clone(&over);
        #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
        let watching = std::thread::spawn(move || {
            let mut lives: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
            loop {
                // The folder is read once more after the end, so that no process is missed.
                let last = is_over.load(Ordering::Relaxed);
                for entry in std::fs::read_dir(&mark).expect("readable").flatten() {
                    let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                    let life = lives.entry(pid).or_insert_with(|| (born_ms(&entry.path(), pid), f64::NAN));
                    if life.1.is_nan() && has_ended(pid) {
                        life.1 = now_ms();
                    }
                }
                if last {
                    return lives;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { over, watching }
    }

    /// Returns each process's begin and end, in milliseconds since the Unix epoch.
    fn stop(self) -> BTreeMap<u32, (f64, f64)> {
        self.over.store(true, Ordering::Relaxed);
        self.watching.join().expect("the watch never panics")
    }
}

/// Returns the time of a process's note or, where a busy machine has let it write that late, of its start.
fn born_ms(note: &Path, pid: u32) -> f64 {
    let noted = std::fs::metadata(note).and_then(|metadata| metadata.modified());
    let noted = noted.ok().and_then(|noted| noted.duration_since(UNIX_EPOCH).ok());
    let noted = noted.map_or_else(now_ms, |noted| noted.as_secs_f64() * 1e3);
    started_ms(pid).map_or(noted, |started| noted.min(started + TICK_MS))
}

/// Unit of the operating system's times.
const TICK_MS: f64 = 10.0;

/// Returns the start of a process by the operating system, at most a tick off. None if it is gone.
fn started_ms(pid: u32) -> Option<f64> {
    let (stat, up) =
        (std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, std::fs::read_to_string("/proc/uptime").ok()?);
    // The time since the machine's start is the 22nd field. The first two are cut off.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let up_seconds: f64 = up.split_whitespace().next()?.parse().ok()?;
    Some(now_ms() - up_seconds * 1e3 + ticks * TICK_MS)
}

/// Returns whether a process is gone, or is dead and not yet reaped by its parent.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}
