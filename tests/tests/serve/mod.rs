//! The server, as curl sees it: rows in every format, typed errors, streams that are cut, clients that vanish, its end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bad_input::{ENDLESS, Place, check, fails, wait_until};

mod answers;
mod bad_requests;
mod bounds;
mod budgets;
mod catalogs;
mod cut;
mod drivers;
mod flight;
mod grants;
mod identity;
mod journal_bounds;
mod journal_stores;
mod journals;
mod jwt;
mod links;
mod metrics;
mod openapi;
mod otlp;
mod portals;
mod postgres;
mod remote;
mod restart;
mod slow_readers;
mod statements;
mod stopping;
mod tables;
mod unrecorded;

/// Waits, as curl does: these tests block their threads.
pub(crate) fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "there is no runtime that it would hold up")]
    std::thread::sleep(time);
}

/// Time in which a server has to end, with the statements that it waits for.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// A server in a folder of its own.
pub(crate) struct Served<'a> {
    place: &'a Place,
    child: Child,
    /// Address with its scheme.
    url: String,
    /// Port for clients of PostgreSQL; None without `--postgres`.
    postgres: Option<u16>,
    /// Words on stderr until now.
    said: Arc<Mutex<String>>,
}

/// Answer to a request, as curl has written it down.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Exit code of curl: 0 where the answer came whole.
    code: i32,
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns a header's value, or a trailer's.
    fn header(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&str| line.split(':').next().is_some_and(|of| of.eq_ignore_ascii_case(name));
        self.headers.lines().find(is_it)?.split_once(": ").map(|(_, value)| value.trim())
    }
}

impl<'a> Served<'a> {
    /// Starts a server with these flags, and waits until it listens.
    #[track_caller]
    pub(crate) fn start(place: &'a Place, flags: &[&str]) -> Self {
        Self::started(place, Self::command_of(place, flags), flags)
    }

    /// Returns the command of a server with these flags.
    fn command_of(place: &Place, flags: &[&str]) -> Command {
        place.gust(&[&["serve", "--listen", "127.0.0.1:0"], flags].concat())
    }

    /// Starts the server of a command, and waits until it listens.
    #[track_caller]
    fn started(place: &'a Place, mut command: Command, flags: &[&str]) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut words = BufReader::new(child.stderr.take().expect("its words"));
        let mut said = String::new();
        let mut listening = || loop {
            let mut line = String::new();
            let read = words.read_line(&mut line).expect("words");
            assert!(read > 0, "it ended: {said}");
            if let Some(url) = line.trim().strip_prefix("listening at ") {
                break url.to_owned();
            }
            said += &line;
        };
        let url = listening();
        let postgres = flags.contains(&"--postgres").then(|| {
            let line = listening();
            let address = line.strip_suffix(" for clients of PostgreSQL").expect("an address");
            address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
        });
        let said = Arc::new(Mutex::new(said));
        let heard = Arc::clone(&said);
        // A server whose words nobody reads would be held up by them.
        std::thread::spawn(move || {
            for line in words.lines().map_while(Result::ok) {
                eprintln!("server: {line}");
                *heard.lock().expect("no holder panics") += &format!("{line}\n");
            }
        });
        Self { place, child, url, postgres, said }
    }

    /// Makes a request of a path with curl.
    pub(crate) fn curl(&self, path: &str, arguments: &[&str]) -> Answer {
        self.curl_beside(path, arguments, || {})
    }

    /// Asks, and does something else until the answer is there.
    fn curl_beside(&self, path: &str, arguments: &[&str], meanwhile: impl FnOnce()) -> Answer {
        let folder = tempfile::TempDir::new().expect("a folder");
        let (head, body) = (folder.path().join("head"), folder.path().join("body"));
        let mut command = self.command(path, arguments);
        command.arg("-D").arg(&head).arg("-o").arg(&body).stdin(Stdio::null());
        let asking = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl");
        meanwhile();
        let output = asking.wait_with_output().expect("curl");
        let read = |path| std::fs::read(path).unwrap_or_default();
        let status = String::from_utf8_lossy(&output.stdout).parse().expect("a status");
        let headers = String::from_utf8_lossy(&read(head)).into_owned();
        Answer { code: output.status.code().expect("a code"), status, headers, body: read(body) }
    }

    /// Returns curl with its arguments, which writes the status to stdout.
    fn command(&self, path: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        let always = ["--silent", "--noproxy", "*", "--max-time", "60", "--write-out", "%{http_code}"];
        command.args(always).args(arguments).arg(format!("{}{path}", self.url));
        command
    }

    /// Asks for the rows of a text, in a format.
    pub(crate) fn query(&self, accept: &str, sql: &str) -> Answer {
        let accept = format!("Accept: {accept}");
        self.curl("/v1/query", &["-H", "Content-Type: application/sql", "-H", &accept, "--data-binary", sql])
    }

    /// Asks for the rows of a text, which has to succeed.
    #[track_caller]
    pub(crate) fn rows(&self, sql: &str) -> Value {
        let answer = self.query("application/json", sql);
        assert_eq!((answer.code, answer.status), (0, 200), "{sql}: {answer:?}");
        answer.json()
    }

    /// Checks that the server answers as if nothing had happened.
    #[track_caller]
    pub(crate) fn is_well(&self) {
        assert_eq!(self.rows("SELECT 6 * 7 AS answer"), serde_json::json!([{"answer": 42}]));
    }

    /// Returns the value of a metric that has no labels.
    #[track_caller]
    fn metric(&self, name: &str) -> f64 {
        let text = self.curl("/metrics", &[]).text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
    }

    /// Returns the outcomes that the history has of a statement.
    fn outcomes(&self, statement: &str) -> Vec<Value> {
        let sql = format!("SELECT outcome FROM gust.queries WHERE statement = '{statement}'");
        let rows = self.rows(&sql);
        rows.as_array().expect("rows").iter().map(|row| row["outcome"].clone()).collect()
    }

    /// Returns the time that its threads have computed, in hundredths of a second.
    fn processor_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("Linux");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        // User's and system's time are the 14th and 15th field, and the first two are cut off.
        [11, 12].iter().map(|at| fields[*at].parse::<u64>().expect("a number")).sum()
    }

    /// Waits until no thread of it computes on.
    #[track_caller]
    fn rests(&self) {
        wait_until("the server rests", || {
            let before = self.processor_ticks();
            pause(Duration::from_millis(500));
            self.processor_ticks() - before < 10
        });
    }

    /// Returns the number of its threads.
    fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("Linux").count()
    }

    /// Returns its words on stderr until now.
    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("no holder panics").clone()
    }

    /// Waits until it has said this.
    #[track_caller]
    fn has_said(&self, part: &str) {
        wait_until(part, || self.said().contains(part));
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// Waits for the server's end, and returns its exit code. It leaves nothing behind.
    #[track_caller]
    fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + ENDED_WITHIN;
        let status = loop {
            match self.child.try_wait().expect("its end") {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "it has not ended after {ENDED_WITHIN:?}"),
            }
            pause(Duration::from_millis(20));
        };
        assert_eq!(self.place.left(), Vec::<std::path::PathBuf>::new(), "something is left in the temporary folder");
        status.code()
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Media types, and the formats of the command line that they have.
const FORMATS: [(&str, &str); 6] = [
    ("application/json", "json"),
    ("application/x-ndjson", "ndjson"),
    ("text/csv", "csv"),
    ("application/vnd.apache.arrow.stream", "arrow"),
    ("text/plain", "table"),
    ("application/vnd.apache.parquet", "parquet"),
];

async fn numbers() -> Place {
    let place = Place::new("on = 'local'\n[server]\nreach = ['data']\n");
    place.parquet("data/a.parquet", "SELECT value AS k, 'n' || value AS name FROM generate_series(1, 1000)").await;
    std::fs::write(place.path("setup.sql"), "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'")
        .expect("written");
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_the_format_that_the_client_accepts() {
    let place = numbers().await;
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    let one = server.query("*/*", "SELECT k, name FROM t WHERE k = 7");
    assert_eq!((one.status, one.text().as_str()), (200, "[{\"k\":7,\"name\":\"n7\"}]\n"), "{one:?}");
    assert_eq!(one.header("content-type"), Some("application/json"));
    assert_eq!(one.header("gust-query-id").map(str::len), Some(32), "{one:?}");
    let dollars = one.header("gust-cost-dollars").and_then(|dollars| dollars.parse::<f64>().ok());
    // Files of this machine cost nothing.
    assert_eq!(dollars, Some(0.0), "{one:?}");
    for sql in [
        "SELECT k, name FROM t ORDER BY k",
        "SELECT k FROM t WHERE k < 0",
        "SELECT DISTINCT [1, NULL] AS l, NULL AS n FROM t",
    ] {
        for (accept, format) in FORMATS {
            let answer = server.query(accept, sql);
            assert_eq!((answer.code, answer.status), (0, 200), "{accept}: {answer:?}");
            assert!(answer.header("content-type").is_some_and(|it| it.starts_with(accept)), "{answer:?}");
            let query = ["query", "--setup", "setup.sql", "--report", "none", "--format", format, sql];
            let output = place.gust(&query).output().expect("it starts");
            check(&output, 0, &[]);
            assert!(output.stdout == answer.body, "{accept}: {sql}: {}", answer.text());
        }
    }
    // As JSON, with options. A body of more than one chunk has its cost in trailers.
    let json = |body: &str| {
        server.curl("/v1/query", &["-H", "Content-Type: application/json", "-H", "TE: trailers", "--data-binary", body])
    };
    let many = json(
        r#"{"sql": "SELECT value AS v FROM generate_series(1, 20000)", "labels": {"team": "ads"}, "timeout_seconds": 30}"#,
    );
    assert_eq!(many.json().as_array().map(Vec::len), Some(20_000));
    assert_eq!(many.header("gust-cost-dollars"), Some("0.000000000"), "{}", many.headers);
    let label = server.rows("SELECT labels['team'] AS team FROM gust.queries WHERE statement LIKE '%20000)'");
    assert_eq!(label, serde_json::json!([{"team": "ads"}]));
    let dry = json(r#"{"sql": "SELECT max(k) FROM t", "dry_run": true}"#);
    assert_eq!(dry.json()[0]["place"], "local", "{dry:?}");
    let late = json(&format!(r#"{{"sql": "{ENDLESS}", "timeout_seconds": 0.3}}"#));
    assert_eq!((late.status, late.json()["code"].as_str()), (504, Some("57014")), "{late:?}");
    server.is_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_answer_and_each_session_is_its_own() {
    let place = Place::new("[server]\nreach = ['data']\n");
    place.parquet("data/a.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    std::fs::write(place.path("setup.sql"), "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'")
        .expect("written");
    let server = Served::start(&place, &["--setup", "setup.sql", "--on", "processes"]);
    assert_eq!(server.rows("SELECT sum(k) AS s FROM t"), serde_json::json!([{"s": 500_500}]));
    let adopted = server.rows("SELECT fragments, outcome FROM gust.queries WHERE statement LIKE '%sum(k)%'");
    assert_eq!(adopted, serde_json::json!([{"fragments": 1, "outcome": "done"}]));
    // What a request makes ends with it.
    let own = server.rows("SET datafusion.execution.time_zone = '+02:00'; CREATE TABLE own AS SELECT 1 AS k; DROP TABLE t; SELECT k FROM own");
    assert_eq!(own, serde_json::json!([{"k": 1}]));
    assert_eq!(server.query("*/*", "SELECT * FROM own").json()["code"], "42P01");
    assert_eq!(server.rows("SELECT count(*) AS n FROM t"), serde_json::json!([{"n": 1000}]));
    assert_ne!(server.rows("SHOW datafusion.execution.time_zone")[0]["value"], "+02:00");
    let silent = server.query("*/*", "CREATE VIEW v AS SELECT 1");
    assert_eq!((silent.status, silent.body.len(), silent.header("content-type")), (204, 0, None), "{silent:?}");
}

/// The query fails at its last row, after most rows were sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_is_no_success() {
    let place = numbers().await;
    let server = Served::start(&place, &[]);
    let sql = "SELECT 1 / (value - 3000000) AS q FROM generate_series(1, 3000000)";
    // These rows are so small in Parquet that none is sent before the query fails.
    for (accept, _) in FORMATS.into_iter().filter(|(_, format)| *format != "parquet") {
        for (version, cut) in [("--http1.1", 18), ("--http2-prior-knowledge", 92)] {
            let accept = format!("Accept: {accept}");
            let flags = [version, "-H", "Content-Type: application/sql", "-H", &accept, "--data-binary", sql];
            let answer = server.curl("/v1/query", &flags);
            assert!(answer.status == 200 && answer.body.len() > 100_000, "rows came first: {answer:?}");
            assert_eq!(answer.code, cut, "{accept} {version}: curl takes {} bytes for a whole", answer.body.len());
        }
    }
    let old = ["--http1.0", "-H", "Content-Type: application/sql", "--data-binary", sql];
    let refused = server.curl("/v1/query", &old);
    assert_eq!(
        (refused.status, &refused.json()["kind"]),
        (505, &"version".into()),
        "its client sees no cut: {refused:?}"
    );
    assert_eq!(server.curl("/v1/health", &["--http1.0"]).status, 200);
    server.is_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_with_its_client() {
    let place = numbers().await;
    let server = Served::start(&place, &[]);
    let sent = |sql: &str, more: &[&str]| {
        let started = Instant::now();
        let flags = ["-H", "Content-Type: application/sql", "--data-binary", sql, "--max-time", "1"];
        let answer = server.curl("/v1/query", &[&flags, more].concat());
        assert_eq!(answer.code, 28, "curl gave up: {answer:?}");
        assert!(started.elapsed() < Duration::from_secs(10));
    };
    // Before the first row, and while rows are sent that nobody reads.
    sent(&ENDLESS.replace('\n', " "), &[]);
    let rows = "SELECT a.value AS v FROM generate_series(1, 10000000) a";
    sent(rows, &["--limit-rate", "1000"]);
    for sql in [ENDLESS, rows] {
        wait_until("the query was cancelled", || server.outcomes(sql) == ["cancelled"]);
    }
    server.rests();
    server.is_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_beyond_the_bounds_wait_or_are_refused() {
    let place = Place::new("on = 'local'\n[server]\nqueries_max = 1\nqueued_max = 1\n");
    let server = Served::start(&place, &[]);
    let flags = ["-H", "Content-Type: application/sql", "--output", "/dev/null", "--data-binary"];
    let endless = || {
        let command = &mut server.command("/v1/query", &[&flags[..], &[ENDLESS]].concat());
        command.stdout(Stdio::null()).spawn().expect("curl")
    };
    let (mut one, mut two) = (endless(), endless());
    let places = || ["gust_queries_running", "gust_queries_waiting"].map(|name| server.metric(name));
    wait_until("one runs and one waits", || places() == [1.0, 1.0]);
    // A third that waits would wait for ever. The processor is busy with the first.
    let started = Instant::now();
    let refused = server.query("*/*", "SELECT 1");
    assert!(started.elapsed() < Duration::from_secs(5), "a refusal took {:?}", started.elapsed());
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")), "{refused:?}");
    assert_eq!((&refused.json()["kind"], &refused.json()["code"]), (&"busy".into(), &"53300".into()));
    assert_eq!(server.curl("/v1/health", &[]).status, 200, "it is well, and busy");
    for client in [&mut one, &mut two] {
        client.kill().expect("it runs");
        client.wait().expect("it ends");
    }
    server.is_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_drains_and_a_second_one_stops() {
    let place = Place::new("on = 'local'\n[server]\ndrain_seconds = 50\n");
    // It is much longer than a signal takes, and much shorter than the drain may be.
    let slow = "SELECT count(*) AS n FROM generate_series(1, 100000) a, generate_series(1, 5000) b WHERE a.value * b.value = -1";
    let flags = ["-H", "Content-Type: application/sql", "--data-binary"];
    let start = |server: &Served<'_>, sql: &str| {
        let mut command = server.command("/v1/query", &[&flags[..], &[sql]].concat());
        let client = command.stdout(Stdio::piped()).spawn().expect("curl");
        wait_until("it runs", || server.metric("gust_queries_running") == 1.0);
        client
    };
    let ended = |client: Child| -> (Option<i32>, String) {
        let Output { status, stdout, .. } = client.wait_with_output().expect("it ends");
        (status.code(), String::from_utf8_lossy(&stdout).into_owned())
    };
    let mut server = Served::start(&place, &[]);
    let mut client = start(&server, slow);
    assert!(client.try_wait().expect("its state").is_none(), "it runs");
    server.signal("TERM");
    wait_until("nobody is let in", || server.curl("/v1/health", &[]).code == 7);
    assert_eq!(ended(client), (Some(0), "[{\"n\":0}]\n200".to_owned()), "the running query had its time");
    assert_eq!(server.ended(), Some(0));

    let mut server = Served::start(&place, &[]);
    let client = start(&server, ENDLESS);
    server.signal("TERM");
    wait_until("nobody is let in", || server.curl("/v1/health", &[]).code == 7);
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0));
    let (code, words) = ended(client);
    assert!(code != Some(0) || words.ends_with("503"), "{code:?} {words}");
}

#[test]
fn it_does_not_start_where_it_must_not() {
    let place = Place::new("");
    let serve = |listen: &'static str| ["serve", "--listen", listen];
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8123"] {
        fails(&place, &serve(listen), 2, &["can be reached from other machines", "or listen at 127.0.0.1"]);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    fails(&place, &["serve", "--listen", &taken], 2, &[&taken, "in use", "hint: choose another with --listen"]);
    fails(&place, &["serve", "--catalog", "lake"], 2, &["no catalog `lake`"]);
    std::fs::write(place.path("bad.sql"), "SELEC 1").expect("written");
    fails(&place, &["serve", "--setup", "bad.sql"], 1, &["SELEC"]);
    std::fs::write(place.path("out.sql"), "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'")
        .expect("written");
    fails(&place, &["serve", "--setup", "out.sql"], 1, &["outside of what this server reads"]);
    let place = Place::new("[server]\nhosts = ['gust.example:443']\n");
    fails(&place, &["serve"], 2, &["`gust.example:443` has a port", "leave the port out"]);
    let place = Place::new("[server]\nqueries_max = 0\n");
    fails(&place, &["serve"], 2, &["server.queries_max", "from 1 to 1000"]);
}
