//! Reading ahead, seen from the store: what a statement asks for, how often, and what is left of it when it ends.

mod bounds;
mod ends;
mod evolved;
mod functions;
mod random;
mod reports;
mod requests;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use arrow::array::RecordBatch;
use gust::demo::queries;
use gust::demo::table::TpchTable;
use gust_engine::config::{Config, Target};
use gust_engine::error::QueryError;
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_protocol::{AheadBounds, AheadUsage};
use gust_tests::compare::{Rule, compare};
use gust_tests::query::{plain, rows, run};
use gust_tests::s3::shape::{Faults, Latency};
use gust_tests::s3::{GONE, Operation, Request, S3Server, Shape};
use gust_tests::tpch::Tables;
use gust_tests::{cloud, tpch};

/// TPC-H on a server, and a session that knows the tables.
struct Lake {
    server: S3Server,
    session: Session,
    /// Statements by which DataFusion alone knows the same files.
    local: Vec<String>,
    tables: Tables,
}

/// Rows of a statement, with what was read ahead for it and what the server was asked.
struct Answer {
    rows: Vec<RecordBatch>,
    report: Report,
    usage: AheadUsage,
    requests: Vec<Request>,
}

/// Waits until something holds that needs no more than a moment of the processor. A busy machine has it late, but not as late as this.
async fn soon(holds: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Lake {
    async fn open(config: Config) -> Self {
        let server = S3Server::start().expect("a server");
        let tables = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
        let url = server.url("");
        let store = server.store().expect("a client");
        let create = tables.upload(store.as_ref(), url.trim_end_matches('/')).await.expect("uploaded");
        let bootstrap = env!("CARGO_BIN_EXE_bootstrap_under_test");
        let session = cloud::session(&server, config, bootstrap.as_ref()).expect("a session");
        for statement in &create {
            run(&session, statement).await.expect("a table");
        }
        Self { server, session, local: tables.create_statements(), tables }
    }

    /// Lets every request wait for its first byte.
    fn slow(&self, ms: f64, faults: Faults) {
        slow(&self.server, ms, faults);
    }

    async fn read(&self, sql: &str) -> Result<Answer, QueryError> {
        self.server.take_requests();
        let statement = self.session.parse(sql)?.pop().expect("a statement");
        let mut running = self.session.run(statement).await?;
        let rows = rows(&mut running).await;
        let account = running.read_ahead_account();
        let report = Report::from_events(&running.finish().await.snapshot());
        let rows = rows?;
        self.is_clean(sql).await;
        // Requests that were aborted are noted, too.
        self.rests().await;
        Ok(Answer { rows, report, usage: account.usage(), requests: self.server.take_requests() })
    }

    /// Lists the GETs of a table's rows: all but those of the ends of its files, which hold their footers. One that was
    /// aborted counts, too.
    fn row_reads(&self, requests: &[Request], table: TpchTable) -> Vec<Request> {
        let files = std::fs::read_dir(self.tables.folder(table)).expect("files").map(|file| file.expect("a file"));
        let sizes: BTreeMap<String, u64> = files
            .map(|file| {
                let key = format!("{}/{}", table.name(), file.file_name().to_string_lossy());
                (key, file.metadata().expect("it is").len())
            })
            .collect();
        let is_read = |request: &&Request| {
            request.operation == Operation::Get && request.refused.is_none_or(|status| status == GONE)
        };
        let is_of_rows = |request: &&Request| sizes.get(&request.key).is_some_and(|size| request.bytes.end < *size);
        requests.iter().filter(is_read).filter(is_of_rows).cloned().collect()
    }

    /// Waits until no request is under way. The server sees that nobody waits when it answers.
    async fn rests(&self) {
        soon(|| self.server.in_flight() == 0).await;
    }

    /// Checks that nothing of a statement is left a moment later.
    async fn is_clean(&self, what: &str) {
        let engine = self.session.engine();
        let left = || (engine.reading().held(), engine.memory().reserved_bytes());
        let none = (AheadBounds::OFF, 0);
        soon(|| left() == none).await;
        assert_eq!(left(), none, "{what}");
    }

    /// Runs a TPC-H query, whose statements but the last prepare it, and compares its rows with DataFusion's.
    async fn query(&self, number: usize) -> Answer {
        let sql = queries::query(number);
        let what = format!("query {number}");
        let answer = self.read(sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let expected = plain(&self.local, sql).await;
        compare(&expected, &answer.rows, Rule::same_engine()).unwrap_or_else(|error| panic!("{what}: {error}"));
        answer
    }
}

pub(super) fn slow(server: &S3Server, ms: f64, faults: Faults) {
    let latency = Latency { least_ms: ms, longer_ms: vec![(0.5, ms * 1.1)], worst_ms: ms * 1.2 };
    let shape = Shape { seed: 7, scale: 1.0, pipe: None, latency: Some(latency), limits: None, faults };
    server.set_shape(Some(shape));
}

fn local() -> Config {
    Config { on: Target::Local, ..Config::default() }
}

/// Makes settings with as much room for small tables as the defaults have for those of scale factor 1.
fn small() -> Config {
    let share = (tpch::SCALE * 1024.0) as u64;
    let default = local();
    Config { read_ahead_bytes_max: default.read_ahead_bytes_max * share / 1024, ..default }
}

/// Returns, for each key that was read, how many served GETs cover one byte at most.
pub(super) fn most_reads_of_a_byte(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut edges: BTreeMap<String, Vec<(u64, i64)>> = BTreeMap::new();
    let served = |request: &&Request| request.operation == Operation::Get && request.refused.is_none();
    for Request { key, bytes, .. } in requests.iter().filter(served) {
        edges.entry(key.clone()).or_default().extend([(bytes.start, 1), (bytes.end, -1)]);
    }
    let most = edges.into_iter().map(|(key, mut edges)| {
        // Ends come before beginnings at the same place.
        edges.sort_unstable();
        let mut depth = 0;
        let depths = edges.into_iter().map(|(_, step)| {
            depth += step;
            depth
        });
        (key, depths.max().unwrap_or_default() as usize)
    });
    most.collect()
}

pub(super) fn bytes(requests: &[Request]) -> u64 {
    let reads = requests.iter().filter(|request| request.operation == Operation::Get);
    reads.map(|request| request.bytes.end - request.bytes.start).sum()
}

/// Counts the reads that were sent once more because they were late, as they are on a busy machine.
pub(super) fn hedged(report: &Report) -> usize {
    (report.coordinator.requests.hedged + report.functions.requests.hedged) as usize
}

/// Returns the times that a query's text names a table. A query with a view reads it wherever the view is named.
fn scans(number: usize, table: TpchTable) -> usize {
    let words = queries::query(number).split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named = words.filter(|word| word.eq_ignore_ascii_case(table.name())).count();
    if number == 15 { 2 * named } else { named }
}
