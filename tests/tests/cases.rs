//! Faults that users met, each with its neighbours: `tests/cases/*.toml`, run by the program itself on every target.
//!
//! ```text
//!  cases.py make ─► folders and cases.json ─► gust, on each target, in each format ─► cases.py judge ─► differences
//! ```
//!
//! An ask is a statement with its rows or with the words of its error. It may have both where either will do; then all targets
//! must do the same. An ask that a user met runs on every target in every format. A neighbour runs on every target, in
//! another format on each. Python and pyarrow read the rows back. Rows come from functions where functions are
//! asked for, unless an ask says `remote = false`, or its case has no data.
//!
//! A start of the program costs as much as four of its statements. Asks of one case that have rows for certain are therefore answered by one program for each
//! target and format, one after the other. If anything is wrong with them, each is asked again by a program of its own, which then tells.
//!
//! `CASES=meaning cargo test --release -p gust-tests cases::` runs one file alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use gust_engine::config::Config;
use gust_tests::cloud;
use gust_tests::python::{self, Run};
use gust_tests::s3::{ACCESS_KEY_ID, BUCKET, REGION, S3Server, SECRET_ACCESS_KEY};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// List of the asks that do not pass yet, by file, case and number of the ask. Each must still fail, so that the list shrinks.
const KNOWN_FAILING: &str = "known_failing.txt";

const TARGETS: [&str; 4] = ["local", "in-process", "processes", "auto"];
const FORMATS: [&str; 5] = ["arrow", "csv", "json", "table", "ndjson"];
/// Asks of a case, one after the other, whose neighbours have the same format on a target, so that one program can answer them.
const SAME_FORMAT: usize = 4;
/// Programs at a time: as many as CI has cores, and one more for when both wait.
const AT_ONCE: usize = 3;
/// Processor time of each process of a run, in seconds, unless its case allows less. A process that takes more is killed.
/// Processor time bounds what is computed; a busy machine stretches any other.
const PROCESSOR_SECONDS_MAX: u64 = 60;
/// Time after which a run counts as hanging, where its case has no processor time of its own. It is for a run that waits, and no busy
/// machine makes a run as long.
const HANGS_AFTER: Duration = Duration::from_secs(300);
/// The same where its case has one: time is the subject there.
const BOUNDED_HANGS_AFTER: Duration = Duration::from_secs(120);
/// Address space of a program, in kibibytes. A program that would take all of the machine's memory ends alone.
const ADDRESS_SPACE_KIB_MAX: u64 = 16 * 1024 * 1024;

/// One set of data, with its asks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    file: String,
    number: usize,
    name: String,
    /// Fault that was met, and the place where it was reported.
    fault: String,
    #[serde(default)]
    setup: String,
    /// True where the tables are Iceberg's, in the catalog `lake`.
    #[serde(default)]
    catalog: bool,
    /// True where the files in `s3/` are put into a bucket.
    #[serde(default)]
    s3: bool,
    /// Processor time of each process of a run, instead of [`PROCESSOR_SECONDS_MAX`].
    processor_seconds_max: Option<u64>,
    /// Limits of memory; each ask runs under each. If an ask has rows and an error, some limits give the one, some the other.
    #[serde(default)]
    limits: Vec<String>,
    /// Formats of the asks, instead of those that [`jobs`] chooses.
    formats: Option<Vec<String>>,
    ask: Vec<Ask>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    sql: String,
    /// Rows of each statement that has any, as lines of JSON. The first line names the columns.
    results: Option<Vec<String>>,
    /// Types of the only result.
    types: Option<Vec<String>>,
    /// Words that are all in the message.
    error: Option<Vec<String>>,
    /// Words that are not in the message.
    #[serde(default)]
    absent: Vec<String>,
    /// Words that are in the output, instead of rows.
    #[serde(default)]
    prints: Vec<String>,
    /// True where a user met this ask.
    #[serde(default)]
    seen: bool,
    /// True where the rows come from functions if functions are asked for.
    remote: bool,
    /// Build sides that functions got for joins, if functions are asked for.
    broadcasts: Option<u64>,
    /// Stages whose joins the coordinator does, because their build sides are too large for functions.
    joined_here: Option<u64>,
    formats: Option<Vec<String>>,
}

impl Ask {
    fn formats<'a>(&'a self, case: &'a Case) -> Option<&'a Vec<String>> {
        self.formats.as_ref().or(case.formats.as_ref())
    }
}

/// One ask on one target in one format.
#[derive(Clone)]
struct Job<'a> {
    case: &'a Case,
    ask: &'a Ask,
    /// File, case and number of the ask.
    ask_name: String,
    target: &'static str,
    format: String,
    limit: Option<&'a str>,
}

impl Job<'_> {
    /// Returns true if the ask is one query that has rows for certain: it changes nothing for a query after it.
    fn is_plain_query(&self) -> bool {
        let Ask { sql, results, error, prints, .. } = self.ask;
        let is_one = results.as_ref().is_some_and(|results| results.len() == 1) && !sql.contains(';');
        let is_bounded = self.limit.is_some() || self.case.processor_seconds_max.is_some();
        is_one && error.is_none() && prints.is_empty() && !is_bounded
    }

    fn name(&self) -> String {
        let limit = self.limit.map(|limit| format!(", {limit}")).unwrap_or_default();
        format!("{} on {} as {}{limit}", self.ask_name, self.target, self.format)
    }
}

/// One start of the program, for asks of one case on one target in one format.
struct Start<'a> {
    jobs: Vec<Job<'a>>,
    output: PathBuf,
}

/// A start that has ended, with an end for each of its asks.
type Ended<'a> = (Vec<RunEnd>, Start<'a>);

/// End of an ask.
struct RunEnd {
    code: Option<i32>,
    words: String,
    /// Fragments of the ask's last statement that were adopted.
    fragments_adopted: u64,
    /// Build sides that functions got for joins of the ask's last statement.
    broadcasts: u64,
    joined_here: u64,
}

/// Output that the judge compares with the expected rows of its asks.
#[derive(Serialize)]
struct OutputToJudge<'a> {
    output: &'a Path,
    format: &'a str,
    asks: Vec<AskToJudge<'a>>,
}

#[derive(Serialize)]
struct AskToJudge<'a> {
    name: String,
    ordered: bool,
    results: &'a [String],
    types: Option<&'a [String]>,
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_hold_on_every_target() {
    let folder = TempDir::with_prefix("gust-cases-").expect("a temporary folder");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let root = folder.path();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let make = [Path::new("make"), root, &sources];
    if let Run::Skipped { reason } = python::run(cache, "cases.py", &make).expect("the data is made") {
        eprintln!("skipped: {reason}");
        return;
    }
    let cases = std::fs::read_to_string(root.join("cases.json")).expect("made");
    let mut cases: Vec<Case> = serde_json::from_str(&cases).expect("cases");
    let only = std::env::var("CASES").unwrap_or_default();
    cases.retain(|case| case.file.contains(&only));
    let known = std::fs::read_to_string(sources.join(KNOWN_FAILING)).unwrap_or_default();
    let known: Vec<&str> = known.lines().filter(|name| name.contains(&only)).collect();
    let server = S3Server::start().expect("an S3 server");
    for case in &cases {
        prepare(case, &root.join(&case.file).join(case.number.to_string()), &server).await;
    }

    let started = Instant::now();
    let (mut ended, mut differences) = ask(cache, root, starts(root, jobs(&cases), &known)).await;
    eprintln!("{} starts in {:.1} s", ended.len(), started.elapsed().as_secs_f64());
    let wrong = |(ends, start): &Ended<'_>| {
        let mut jobs = ends.iter().zip(&start.jobs);
        jobs.find_map(|(ended, job)| wrong(ended, job, &start.output).or_else(|| differences.get(&job.name()).cloned()))
    };
    // Asks with something wrong between them are asked alone, so that each of them is judged for itself.
    let mut together = Vec::new();
    for position in (0..ended.len()).rev().filter(|position| ended[*position].1.jobs.len() > 1).collect::<Vec<_>>() {
        if let Some(wrong) = wrong(&ended[position]) {
            together.push((ended.swap_remove(position).1.jobs, wrong));
        }
    }
    let alone = together.iter().flat_map(|(jobs, _)| jobs.iter().cloned().map(|job| vec![job]));
    let alone = alone.zip(0..).map(|(jobs, number)| Start { jobs, output: root.join(format!("alone-{number}")) });
    let (alone, of_alone) = ask(cache, root, alone.collect()).await;
    ended.extend(alone);
    // An ask's rows beside others say nothing of the ask alone.
    for job in together.iter().flat_map(|(jobs, _)| jobs) {
        differences.remove(&job.name());
    }
    differences.extend(of_alone);
    let mut failures = judge(&ended, &differences);
    for (jobs, wrong) in together {
        if jobs.iter().all(|job| !failures.contains_key(&job.ask_name)) {
            let names: Vec<String> = jobs.iter().map(Job::name).collect();
            let told = format!("each passes alone, and not one after the other: {}: {wrong}", names.join("; "));
            failures.insert(jobs[0].ask_name.clone(), told);
        }
    }

    let new = failures.iter().filter(|(name, _)| !known.contains(&name.as_str()));
    let new: Vec<&str> = new.map(|(_, told)| told.as_str()).collect();
    let passing: Vec<&&str> = known.iter().filter(|name| !failures.contains_key(**name)).collect();
    assert!(new.is_empty(), "{} of all asks fail:\n{}", new.len(), new.join("\n"));
    assert!(passing.is_empty(), "these pass now, strike them out: {passing:?}");
}

/// Puts the S3 files of a case into the bucket, and writes its settings and its setup.
async fn prepare(case: &Case, place: &Path, server: &S3Server) {
    std::fs::create_dir(place.join("tmp")).expect("made");
    std::fs::write(place.join("setup.sql"), case.setup.replace("{bucket}", BUCKET)).expect("written");
    if !case.s3 {
        return;
    }
    let settings = format!(
        "[s3]\nendpoint = \"{}\"\nallow_http = true\npath_style = true\nregion = \"{REGION}\"\naccess_key_id = \"{ACCESS_KEY_ID}\"\n\
         secret_access_key = \"{SECRET_ACCESS_KEY}\"\n",
        server.endpoint()
    );
    std::fs::write(place.join("gust.toml"), settings).expect("written");
    let config = cloud::config(server, Config::default(), Path::new(""));
    let config = gust_engine::storage::aws::sdk_config(&config.s3, Some(REGION), Some(server.endpoint())).await;
    let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
    let client = aws_sdk_s3::Client::from_conf(config);
    let mut folders = vec![place.join("s3")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let key = path.strip_prefix(place.join("s3")).expect("below").to_str().expect("text");
            // Consoles leave such an object for a folder: its key ends with the slash.
            let key = key.strip_suffix("__folder__").unwrap_or(key);
            let body = std::fs::read(&path).expect("readable");
            client.put_object().bucket(BUCKET).key(key).body(body.into()).send().await.expect("put");
        }
    }
}

fn jobs(cases: &[Case]) -> Vec<Job<'_>> {
    let mut jobs = Vec::new();
    for case in cases {
        for (number, ask) in case.ask.iter().enumerate() {
            let ask_name = format!("{}, {}, {}", case.file, case.name, number + 1);
            let limits: Vec<Option<&str>> = match case.limits.is_empty() {
                true => vec![None],
                false => case.limits.iter().map(|limit| Some(limit.as_str())).collect(),
            };
            for (position, target) in TARGETS.into_iter().enumerate() {
                let formats = match ask.formats(case) {
                    Some(formats) => formats.clone(),
                    None if ask.seen => FORMATS.map(str::to_owned).to_vec(),
                    None => vec![FORMATS[(case.number + number / SAME_FORMAT + position) % FORMATS.len()].to_owned()],
                };
                for (format, limit) in formats.iter().flat_map(|format| limits.iter().map(move |limit| (format, limit)))
                {
                    let (ask_name, format, limit) = (ask_name.clone(), format.clone(), *limit);
                    jobs.push(Job { case, ask, ask_name, target, format, limit });
                }
            }
        }
    }
    jobs
}

/// Puts plain queries of one case, target and format into one start each, and every other ask into a start of its own. An ask that is
/// known to fail would make its neighbours suspect.
///
/// The first query of a start finds nothing kept and no function warm. An ask that a user met is first on every target, and a neighbour on one
/// at least. An ask that would not be has a start more.
fn starts<'a>(root: &Path, jobs: Vec<Job<'a>>, known: &[&str]) -> Vec<Start<'a>> {
    let mut shared: BTreeMap<(&str, usize, &str, String), Vec<Job<'a>>> = BTreeMap::new();
    let mut all = Vec::new();
    for job in jobs {
        match job.is_plain_query() && !known.contains(&job.ask_name.as_str()) {
            true => {
                let key = (job.case.file.as_str(), job.case.number, job.target, job.format.clone());
                shared.entry(key).or_default().push(job);
            }
            false => all.push(vec![job]),
        }
    }
    let mut shared: Vec<Vec<Job<'a>>> = shared.into_values().collect();
    // Targets on which an ask is the first of a start, by the ask's name.
    let mut first_on: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for jobs in &mut shared {
        let first = (0..jobs.len()).min_by_key(|position| {
            let Job { ask, ask_name, target, .. } = &jobs[*position];
            let targets = first_on.get(ask_name);
            (targets.is_some_and(|targets| targets.contains(target)), targets.is_some(), !ask.seen)
        });
        jobs.swap(0, first.unwrap_or_default());
        first_on.entry(jobs[0].ask_name.clone()).or_default().insert(jobs[0].target);
    }
    for jobs in &mut shared {
        let never_first = jobs.extract_if(1.., |Job { ask, ask_name, target, .. }| {
            let targets = first_on.entry(ask_name.clone()).or_default();
            (ask.seen || targets.is_empty()) && targets.insert(*target)
        });
        all.extend(never_first.map(|job| vec![job]));
    }
    all.extend(shared);
    let start = |(number, jobs): (usize, Vec<Job<'a>>)| Start { jobs, output: root.join(format!("output-{number}")) };
    all.into_iter().enumerate().map(start).collect()
}

/// Runs programs, and returns their ends and the differences of their rows, by the names of the jobs.
async fn ask<'a>(cache: &Path, root: &Path, starts: Vec<Start<'a>>) -> (Vec<Ended<'a>>, BTreeMap<String, String>) {
    let ended = stream::iter(starts).map(async |start| (run(root, &start).await, start)).buffer_unordered(AT_ONCE);
    let ended: Vec<Ended<'a>> = ended.collect().await;
    let questions = ended.iter().filter_map(|(ends, start)| question(ends, start)).collect::<Vec<_>>();
    if questions.is_empty() {
        return (ended, BTreeMap::new());
    }
    std::fs::write(root.join("runs.json"), serde_json::to_string(&questions).expect("plain data")).expect("written");
    let judged = python::run(cache, "cases.py", &[Path::new("judge"), root]).expect("the rows are judged");
    let Run::Done { stdout } = judged else { panic!("Python has gone: {judged:?}") };
    let differences = serde_json::from_str(&stdout).expect("JSON");
    (ended, differences)
}

/// Runs a program, and returns the end of each of its asks.
async fn run(root: &Path, start: &Start<'_>) -> Vec<RunEnd> {
    let Start { jobs, output } = start;
    let Job { case, target, format, limit, .. } = &jobs[0];
    let place = root.join(&case.file).join(case.number.to_string());
    let (report, sql) = (output.with_extension("report"), output.with_extension("sql"));
    // A statement may end with a comment.
    let text = jobs.iter().map(|job| job.ask.sql.replace("{bucket}", BUCKET)).collect::<Vec<_>>().join("\n;\n");
    std::fs::write(&sql, text).expect("written");
    let (seconds, hangs_after) = match case.processor_seconds_max {
        Some(seconds) => (seconds, BOUNDED_HANGS_AFTER),
        None => (PROCESSOR_SECONDS_MAX, HANGS_AFTER),
    };
    let limits = format!("ulimit -v {ADDRESS_SPACE_KIB_MAX} && ulimit -t {seconds}");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{limits} && exec \"$@\""), "sh"])
        .arg(env!("CARGO_BIN_EXE_gust_under_test"))
        .args(["query", "--on", target, "--functions", "3", "--format", format])
        .args((!case.setup.is_empty()).then_some(["--setup", "setup.sql"]).into_iter().flatten())
        .args(["--report", "json", "--report-file"])
        .arg(&report)
        .args(case.catalog.then_some(["--catalog", "lake"]).into_iter().flatten())
        .current_dir(&place)
        .env_remove("GUST_LOG")
        .env("TMPDIR", place.join("tmp"))
        .env("GUST_HISTORY__ENABLED", "false")
        .env("GUST_PROCESS__PROGRAM", env!("CARGO_BIN_EXE_bootstrap_under_test"))
        .envs(limit.map(|limit| ("GUST_MEMORY_BYTES_MAX", limit)))
        .stdin(std::fs::File::open(&sql).expect("written"))
        .stdout(std::fs::File::create(output).expect("a file"))
        .stderr(Stdio::piped());
    let running = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("it starts");
    let (code, words) = match tokio::time::timeout(hangs_after, running.wait_with_output()).await {
        Err(_) => (None, "it hangs".to_owned()),
        Ok(ended) => {
            let ended = ended.expect("it ends");
            let words = String::from_utf8_lossy(&ended.stderr).into_owned();
            match ended.status.code() {
                Some(code) => (Some(code), words),
                None => {
                    let killed = format!("{}, where a process may take {seconds} s of processor time", ended.status);
                    (None, format!("{killed}: {words}"))
                }
            }
        }
    };
    let reports = std::fs::read_to_string(report).unwrap_or_default();
    let reports: Vec<&str> = reports.lines().collect();
    // The last reports are those of the asks: of each of several, or of the last statement of one.
    let of = |number: usize| (reports.len() + number).checked_sub(jobs.len()).and_then(|line| reports.get(line));
    let end = |number| {
        let report: serde_json::Value = serde_json::from_str(of(number).unwrap_or(&"{}")).unwrap_or_default();
        let count = |field: &str| report[field].as_u64().unwrap_or(0);
        RunEnd {
            code,
            words: words.clone(),
            fragments_adopted: count("fragments_adopted"),
            broadcasts: count("broadcasts"),
            joined_here: count("joined_here"),
        }
    };
    (0..jobs.len()).map(end).collect()
}

/// Returns the asks that fail, by name, each with its failures.
fn judge(ended: &[Ended<'_>], differences: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let jobs = || ended.iter().flat_map(|(ends, start)| ends.iter().zip(&start.jobs).map(move |both| (both, start)));
    let mut failures: BTreeMap<String, String> = BTreeMap::new();
    let mut codes: BTreeMap<(&str, Option<&str>), Vec<Option<i32>>> = BTreeMap::new();
    for ((ended, job), start) in jobs() {
        codes.entry((&job.ask_name, job.limit)).or_default().push(ended.code);
        if let Some(wrong) = wrong(ended, job, &start.output).or_else(|| differences.get(&job.name()).cloned()) {
            let told = failures.entry(job.ask_name.clone()).or_insert_with(|| {
                let sql: String = job.ask.sql.chars().take(200).collect();
                format!("{}: {}\n  {sql}", job.ask_name, job.case.fault)
            });
            // The first few failures say enough.
            if told.lines().count() < 8 {
                let wrong: String = wrong.replace('\n', " | ").chars().take(700).collect();
                write!(told, "\n    {} as {}: {wrong}", job.target, job.format).expect("to a string");
            }
        }
    }
    for job in jobs().map(|((_, job), _)| job).filter(|job| job.limit.is_some()) {
        let either = job.ask.results.is_some() && job.ask.error.is_some();
        let all = codes.iter().filter(|((ask, _), _)| *ask == job.ask_name).flat_map(|(_, codes)| codes);
        let rows = all.clone().filter(|code| **code == Some(0)).count();
        if either && (rows == 0 || rows == all.count()) && !failures.contains_key(&job.ask_name) {
            let told = format!("{}: {rows} runs under all limits have rows: some must, some not", job.ask_name);
            failures.insert(job.ask_name.clone(), told);
        }
    }
    for ((ask, limit), codes) in codes {
        if limit.is_none() && codes.iter().any(|code| *code != codes[0]) && !failures.contains_key(ask) {
            failures.insert(ask.to_owned(), format!("{ask}: rows here and an error there: {codes:?}"));
        }
    }
    failures
}

fn question<'a>(ends: &[RunEnd], start: &'a Start<'_>) -> Option<OutputToJudge<'a>> {
    let asks = ends.iter().zip(&start.jobs).filter_map(|(ended, job)| {
        let results = job.ask.results.as_deref().filter(|_| ended.code == Some(0))?;
        let (ordered, types) = (job.ask.sql.contains("ORDER BY"), job.ask.types.as_deref());
        Some(AskToJudge { name: job.name(), ordered, results, types })
    });
    let asks: Vec<AskToJudge<'a>> = asks.collect();
    (!asks.is_empty()).then(|| OutputToJudge { output: &start.output, format: &start.jobs[0].format, asks })
}

/// Returns the failure of an ask, as far as its rows do not matter.
fn wrong(ended: &RunEnd, job: &Job<'_>, output: &Path) -> Option<String> {
    let ask = job.ask;
    let words = &ended.words;
    if words.contains("panicked") {
        return Some(format!("it panicked: {words}"));
    }
    match (ended.code, &ask.error) {
        (Some(0), Some(_)) if ask.results.is_none() => Some("it ended well".to_owned()),
        (Some(0), _) => {
            let printed = String::from_utf8_lossy(&std::fs::read(output).expect("readable")).into_owned();
            let missing = ask.prints.iter().find(|part| !printed.contains(part.as_str()));
            let is_asked = ask.remote && matches!(job.target, "in-process" | "processes") && ask.results.is_some();
            match missing {
                Some(part) => Some(format!("`{part}` is not in {printed}")),
                None if is_asked && ended.fragments_adopted == 0 => Some("no fragment was adopted".to_owned()),
                None if is_asked && ask.broadcasts.is_some_and(|expect| expect != ended.broadcasts) => {
                    Some(format!("functions got {} build sides", ended.broadcasts))
                }
                None if is_asked && ask.joined_here.is_some_and(|expect| expect != ended.joined_here) => {
                    Some(format!("the coordinator joined for {} stages", ended.joined_here))
                }
                None => None,
            }
        }
        (Some(1), Some(parts)) => {
            let missing = parts.iter().find(|part| !words.contains(part.as_str()));
            let present = ask.absent.iter().find(|part| words.contains(part.as_str()));
            match (missing, present) {
                (Some(part), _) => Some(format!("`{part}` is not in: {words}")),
                (None, Some(part)) => Some(format!("`{part}` is in: {words}")),
                (None, None) => None,
            }
        }
        (code, _) => Some(format!("exit code {code:?}: {words}")),
    }
}
