//! The server, as clients of PostgreSQL see it: psql, psycopg and asyncpg, and clients that lie.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gust_tests::python::{CLIENTS, Run, run_with};

use super::identity::{certificate, token, write_private};
use super::{Served, numbers, pause};
use crate::bad_input::{ENDLESS, Place, check, fails, wait_until};

/// Flags of a server for clients of PostgreSQL.
pub(super) const POSTGRES: [&str; 2] = ["--postgres", "127.0.0.1:0"];

impl Served<'_> {
    pub(super) fn postgres_port(&self) -> u16 {
        self.postgres.expect("it was started with --postgres")
    }

    /// Returns psql, which prints bare values and ends at the first error.
    pub(super) fn psql(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("psql");
        let always = ["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-h", "127.0.0.1"];
        command.args(always).args(["-p", &self.postgres_port().to_string(), "-U", "ada", "-d", "gust"]);
        command.args(arguments).env_remove("PGPASSWORD").env("PGCONNECT_TIMEOUT", "20").stdin(Stdio::null());
        command
    }

    /// Returns what psql prints for a text, which has to succeed.
    #[track_caller]
    fn printed(&self, sql: &str) -> String {
        let output = self.psql(&["-c", sql]).output().expect("psql");
        assert!(output.status.success(), "{sql}: {output:?}");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }

    pub(super) fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.postgres_port())).expect("a connection");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        socket
    }
}

/// Tells if psql is there. In CI it has to be.
pub(super) fn has_psql() -> bool {
    let has = Command::new("psql").arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(has || std::env::var("CI").is_err(), "CI does not skip: psql is missing");
    if !has {
        eprintln!("skipped: psql is missing");
    }
    has
}

#[track_caller]
pub(super) fn failed(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it succeeded: {output:?}");
    for part in words {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_reads_rows_and_errors() {
    if !has_psql() {
        return;
    }
    let place = numbers().await;
    let server = Served::start(&place, &[&POSTGRES[..], &["--setup", "setup.sql"]].concat());
    for (sql, expect) in [
        ("SELECT 6 * 7 AS answer", "42"),
        ("SELECT count(*), max(name) FROM t", "1000|n999"),
        (
            "SELECT NULL, true, 1.50::decimal(4,2), DATE '2024-02-29', 'a|b', [1, NULL], 0.1::double",
            "|t|1.50|2024-02-29|a|b|{1,NULL}|0.1",
        ),
        ("SELECT 1; SELECT 2", "1\n2"),
        ("SELECT ''; ; -- nothing", ""),
        ("BEGIN; SELECT 1; COMMIT", "BEGIN\n1\nCOMMIT"),
        ("CREATE TABLE own AS SELECT 7 AS k; SELECT k FROM own", "CREATE TABLE\n7"),
        ("SET extra_float_digits = 3; SHOW server_encoding", "SET\nUTF8"),
        ("SELECT {'a': 1, 'b': 'x'} AS s", "(1,x)"),
        ("SELECT MAP {'a': 1} AS m", "{a: 1}"),
        ("SELECT name FROM t WHERE k < 0", ""),
        ("COPY (SELECT k, NULL, name FROM t WHERE k < 3 ORDER BY k) TO STDOUT", "1\t\\N\tn1\n2\t\\N\tn2"),
        ("\\copy (SELECT k, 'a,\"b' AS v FROM t WHERE k = 7) TO STDOUT CSV HEADER", "k,v\n7,\"a,\"\"b\""),
        ("COPY (SELECT 1) TO STDOUT; SELECT 2", "1\n2"),
    ] {
        assert_eq!(server.printed(sql), expect, "{sql}");
    }
    let copied = place.path("rows.csv");
    let copy = format!("\\copy t (name, k) TO '{}' WITH (FORMAT csv, HEADER)", copied.display());
    assert_eq!(server.printed(&copy), "COPY 1000");
    let copied = std::fs::read_to_string(copied).expect("the client's file");
    let mut lines: Vec<&str> = copied.lines().collect();
    assert_eq!((lines.remove(0), lines.len(), lines.contains(&"n7,7")), ("name,k", 1000, true));
    let count = server.psql(&["-c", "SELECT value FROM generate_series(1, 1000003)"]).output().expect("psql");
    let lines = count.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!((lines, count.status.code()), (1_000_003, Some(0)));
    let error = |sql: &str| server.psql(&["-c", sql]).output().expect("psql");
    failed(&error("SELECT * FROM ordres"), &["ERROR:  42P01: there is no table `ordres`"]);
    failed(&error("SELECT 1,\n  missing FROM t"), &["42703", "LINE 2:   missing FROM t", "          ^"]);
    failed(&error("SELECT 1; SELECT 1 1"), &["42601", "LINE 1: SELECT 1; SELECT 1 1"]);
    failed(&error("SELECT 'open"), &["42601"]);
    failed(&error("COPY t TO '/tmp/rows.csv'"), &["ERROR:"]);
    failed(&error("COPY t FROM STDIN"), &["ERROR:"]);
    failed(
        &error("COPY (SELECT 1 AS one, missing FROM t) TO STDOUT"),
        &["42703", "LINE 1: COPY (SELECT 1 AS one, missing"],
    );
    failed(&error("COPY ordres TO STDOUT"), &["ERROR:  42P01: there is no table `ordres`"]);
    failed(&error("COPY (SELECT 1 / (value - 9000) FROM generate_series(1, 9000)) TO STDOUT"), &["ivide by zero"]);
    // Rows that were sent before an error are followed by it.
    let cut = error("SELECT 1 / (value - 3000000) AS q FROM generate_series(1, 3000000)");
    failed(&cut, &["ivide by zero"]);
    assert_eq!(server.printed("SELECT current_date IS NOT NULL"), "t");
    // It is a statement like others.
    let outcome = server.rows("SELECT user_name, outcome FROM gust.queries WHERE statement LIKE '%ordres'");
    assert_eq!(outcome[0]["outcome"], "failed", "{outcome}");
    server.is_well();
}

/// Values that a client could take for others.
#[tokio::test(flavor = "multi_thread")]
async fn psql_reads_values_as_they_are() {
    if !has_psql() {
        return;
    }
    let place = numbers().await;
    let server = Served::start(&place, &[&POSTGRES[..], &["--setup", "setup.sql"]].concat());
    for (sql, expect) in [
        ("SELECT NULL, ''", "NULL|"),
        ("SELECT i FROM (VALUES (INTERVAL '1 day'), (NULL)) AS v(i)", "1 day\nNULL"),
        ("SELECT {'a': NULL::text, 'b': 'x)', 'c': ''} AS s", "(,\"x)\",\"\")"),
        ("SELECT {'a': NULL::interval, 'b': 1} AS s", "(,1)"),
        ("SELECT TIMESTAMPTZ '2024-01-01 00:00:00Z'", "2024-01-01 00:00:00+00"),
        ("SET TimeZone = 'Asia/Kolkata'; SELECT TIMESTAMPTZ '2024-01-01 00:00:00Z'", "SET\n2024-01-01 05:30:00+05:30"),
        (
            "SET TimeZone = 'America/St_Johns'; SELECT [TIMESTAMPTZ '2024-01-01 00:00:00.5Z']",
            "SET\n{\"2023-12-31 20:30:00.5-03:30\"}",
        ),
        ("SELECT 'inf'::double, '-inf'::real, -0.0::double, 1::tinyint", "Infinity|-Infinity|-0|1"),
        // The names are columns', and one subquery has no value.
        (
            "SELECT k AS version, (SELECT count(*) FROM t o WHERE o.k = r.k) AS n, current_user IS NULL FROM t r WHERE k = 3",
            "3|1|f",
        ),
        ("SELECT version, (SELECT max(t.k) FROM t) AS m FROM (SELECT 7 AS version) v", "7|1000"),
        ("SELECT *, version + 1 AS next FROM (SELECT 7 AS version) v", "7|8"),
    ] {
        let output = server.psql(&["-P", "null=NULL", "-c", sql]).output().expect("psql");
        assert!(output.status.success(), "{sql}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), expect, "{sql}");
    }
    let error = |sql: &str| server.psql(&["-c", sql]).output().expect("psql");
    failed(&error("SELECT arrow_cast(9223372036854775807, 'Timestamp(Second, None)')"), &["22008"]);
    failed(&error("SELECT version(), (SELECT k FROM t) AS k"), &["ERROR"]);
    failed(&error("SET TimeZone = 'Mars/Base'"), &["22023", "Mars/Base"]);
    failed(&error(&"SELECT 1;".repeat(1_001)), &["54000", "1001 statements"]);
    // A chain of 30,000 levels, and one that the bound on such statements leaves to the engine.
    for terms in [30_000, 300_000] {
        let deep = format!("SELECT length(version()){};\n", "+1".repeat(terms));
        std::fs::write(place.path("deep.sql"), deep).expect("written");
        let output = server.psql(&["-f", place.path("deep.sql").to_str().expect("a path")]).output().expect("psql");
        failed(&output, &["ERROR", "levels deep"]);
    }
    server.is_well();
}

/// A query that computes holds its place, also where its client wants nothing yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_without_rows_holds_its_place() {
    if !has_psql() {
        return;
    }
    let server_settings = Place::new("on = 'local'\n[server]\nqueries_max = 1\n");
    let server = Served::start(&server_settings, &POSTGRES);
    let ask = |sql: &str| server.psql(&["-c", "SET statement_timeout = '2s'", "-c", sql]).output().expect("psql");
    let cursor = |query: &str| {
        let mut socket = server.socket();
        let sql = format!("BEGIN; DECLARE c CURSOR FOR {query}; FETCH 0 FROM c\0");
        socket.write_all(&[startup_of("ada"), message(b'Q', sql.as_bytes())].concat()).expect("sent");
        hears(&mut socket, "FETCH 0");
        socket
    };
    let computes = cursor(ENDLESS);
    failed(&ask("SELECT 1"), &["57014"]);
    drop(computes);
    wait_until("its place is free", || ask("SELECT 1").status.success());
    // One whose rows wait computes no more.
    let waits = cursor("SELECT value FROM generate_series(1, 10000000)");
    wait_until("its place is free", || ask("SELECT 1").status.success());
    drop(waits);
    server.is_well();
}

/// Commands of psql about tables ask `pg_catalog`.
#[tokio::test(flavor = "multi_thread")]
async fn psql_lists_tables_and_columns() {
    if !has_psql() {
        return;
    }
    let place = numbers().await;
    let server = Served::start(&place, &[&POSTGRES[..], &["--setup", "setup.sql"]].concat());
    for (command, lines) in [
        ("\\dt", &["public|t|table|postgres"][..]),
        ("\\d", &["public|t|table|postgres", "gust|queries|view|postgres"]),
        ("\\dn", &["public|postgres", "gust|postgres"]),
        ("\\l", &["gust|postgres|UTF-8|"]),
        ("\\dt nothing*", &[]),
        ("\\d t", &["k|bigint||", "name|text||"]),
        ("\\df", &["public|md5||expression|func", "public|sum||expression|agg", "public|row_number|||window"]),
        ("\\df regexp_l*", &["public|regexp_like||str, regexp[, flags]|func"]),
        ("\\df+ md5", &["public|md5||expression|func"]),
        ("\\du", &["ada|"]),
        ("\\dn+", &["public|postgres|"]),
        ("\\dt+", &["public|t|table|postgres|permanent"]),
        ("\\l+", &["gust|postgres|UTF-8|"]),
        ("\\dv gust.*", &["gust|cost_lines|view|postgres"]),
    ] {
        let output = server.psql(&["-c", command]).output().expect("psql");
        assert!(output.status.success(), "{command}: {output:?}");
        let printed = String::from_utf8_lossy(&output.stdout);
        for line in lines {
            assert!(printed.contains(line), "{command}: {line} is not in\n{printed}");
        }
    }
    assert!(server.printed("SELECT version()").starts_with("PostgreSQL 16.6 (Gust "));
    assert_eq!(server.printed("\\df pg_sleep"), "", "a function of PostgreSQL's that is not here is not listed");
    assert_eq!(server.printed("SELECT current_user, session_user"), "ada|ada");
    assert_eq!(server.printed("SELECT current_database(), current_schema()"), "gust|public");
    assert_eq!(server.printed("SELECT 't'::regclass::oid = oid FROM pg_class WHERE relname = 't'"), "t");
    let columns = "SELECT attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relname = 't' AND attnum > 0 ORDER BY attnum";
    assert_eq!(server.printed(columns), "k\nname");
    failed(&server.psql(&["-c", "SELECT nothing FROM pg_class"]).output().expect("psql"), &["42703"]);
    // A table of the session's own is there at once.
    assert_eq!(
        server.printed("CREATE TABLE own AS SELECT 1 AS k; SELECT relname FROM pg_class WHERE relname = 'own'"),
        "CREATE TABLE"
    );
    server.is_well();
}

/// psql and the command line write the same CSV, but for NULL, which is `""` here.
#[test]
fn answers_to_tpch_are_those_of_the_command_line() {
    if !has_psql() {
        return;
    }
    let place = Place::new("");
    let demo = ["demo", "--sf", "0.01", "--home", "lake", "--queries", "6", "--on", "local"];
    check(&place.gust(&demo).output().expect("it starts"), 0, &["made orders"]);
    let lake = ["--config", "lake/gust.toml", "--on", "local"];
    let server = Served::start(&place, &[&POSTGRES[..], &lake].concat());
    let queries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/src/demo/queries");
    for number in 1..=22 {
        let file = queries.join(format!("q{number:02}.sql"));
        let file = file.to_str().expect("a path");
        let mut psql = server.psql(&["-d", "demo", "--csv", "-q", "-P", "tuples_only=off", "-f", file]);
        let seen = psql.output().expect("psql");
        assert!(seen.status.success(), "{number}: {seen:?}");
        let query = ["query", "--catalog", "demo", "--report", "none", "--format", "csv", "-f", file];
        let expect = place.gust(&[&query[..], &lake].concat()).output().expect("it starts");
        check(&expect, 0, &[]);
        let [seen, expect] = [seen.stdout, expect.stdout].map(|text| String::from_utf8(text).expect("text"));
        assert!(seen.lines().count() > 1, "{number}: {seen}");
        assert_eq!(seen, expect.replace("\"\"", ""), "{number}");
    }
}

/// A listing opens no table: one whose metadata is broken is in it.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_a_catalog_are_listed_without_its_tables() {
    if !has_psql() {
        return;
    }
    let place = Place::new("");
    let demo = ["demo", "--sf", "0.001", "--home", "lake", "--queries", "6", "--on", "local"];
    check(&place.gust(&demo).output().expect("it starts"), 0, &["made orders"]);
    let metadata = std::fs::read_dir(place.path("lake/warehouse/tpch_sf0_001/region/metadata")).expect("readable");
    for file in metadata.map(|entry| entry.expect("readable").path()) {
        std::fs::write(&file, "no metadata").expect("written");
    }
    let server = Served::start(&place, &[&POSTGRES[..], &["--config", "lake/gust.toml", "--on", "local"]].concat());
    let ask = |command: &str| {
        let output = server.psql(&["-d", "demo", "-c", command]).output().expect("psql");
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let listed = ask("\\dt");
    for table in ["lineitem", "nation", "region"] {
        assert!(listed.contains(&format!("tpch_sf0_001|{table}|table|postgres")), "{listed}");
    }
    assert!(ask("\\d nation").contains("n_name|text"), "{}", ask("\\d nation"));
    assert!(!ask("\\d region").contains("r_name"));
    assert_eq!(ask("SELECT count(*) FROM nation").trim(), "25");
    failed(&server.psql(&["-d", "nowhere", "-c", "SELECT 1"]).output().expect("psql"), &["no catalog `nowhere`"]);
    server.is_well();
}

/// All that psycopg and asyncpg do is in a script.
#[tokio::test(flavor = "multi_thread")]
async fn python_speaks() {
    let place = numbers().await;
    let server = Served::start(&place, &[&POSTGRES[..], &["--setup", "setup.sql"]].concat());
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let port = server.postgres_port().to_string();
    match run_with(cache, CLIENTS, "postgres_clients.py", &[&port]).unwrap_or_else(|error| panic!("{error:#}")) {
        Run::Done { stdout } => assert!(stdout.contains("asyncpg_speaks: as expected"), "{stdout}"),
        Run::Skipped { reason } => eprintln!("skipped: {reason}"),
    }
    server.is_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_answer() {
    if !has_psql() {
        return;
    }
    let place = Place::new("[server]\nreach = ['data']\n");
    place.parquet("data/a.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    let server = Served::start(&place, &[&POSTGRES[..], &["--on", "processes"]].concat());
    assert_eq!(server.printed("SELECT sum(k) AS s FROM 'data/'"), "500500");
    let adopted = server.rows("SELECT fragments, outcome FROM gust.queries WHERE statement LIKE '%sum(k)%'");
    assert_eq!(adopted, serde_json::json!([{"fragments": 1, "outcome": "done"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_with_its_client_or_its_signal() {
    if !has_psql() {
        return;
    }
    let place = numbers().await;
    let server = Served::start(&place, &POSTGRES);
    let rows = "SELECT a.value AS v FROM generate_series(1, 10000000) a";
    let running = || server.metric("gust_queries_running");
    let start = |sql: &str| {
        wait_until("the one before is gone", || running() == 0.0);
        let child = server.psql(&["-c", sql]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql");
        wait_until("it runs", || running() == 1.0);
        pause(Duration::from_millis(300));
        child
    };
    // Ctrl-C makes psql send its key on another connection.
    let child = start(ENDLESS);
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(interrupted.success());
    failed(&child.wait_with_output().expect("its end"), &["57014: the statement was cancelled"]);
    wait_until("the first was cancelled", || server.outcomes(ENDLESS) == ["cancelled"]);
    // Before the first row, and while rows are sent that nobody reads.
    for (sql, times) in [(ENDLESS, 2), (rows, 1)] {
        let mut child = start(sql);
        child.kill().expect("it runs");
        child.wait().expect("its end");
        wait_until("it was cancelled", || server.outcomes(sql) == vec!["cancelled"; times]);
    }
    server.rests();
    server.is_well();
}

#[test]
fn the_password_is_a_token_of_the_user() {
    if !has_psql() {
        return;
    }
    let settings =
        "on = 'local'\n[server]\ntokens = 'tokens.toml'\ntls = { certificate = 'tls.pem', key = 'tls.key' }\n";
    let place = Place::new(settings);
    if !certificate(&place, "tls") {
        eprintln!("skipped: openssl is missing");
        return;
    }
    let (ada, ada_lines) = token(&place, &["ada"]);
    let (bob, bob_lines) = token(&place, &["bob"]);
    let (old, old_lines) = token(&place, &["ada", "--expires", "1ms"]);
    write_private(&place.path("tokens.toml"), &format!("{ada_lines}\n{bob_lines}\n{old_lines}"));
    let server = Served::start(&place, &POSTGRES);
    let root = place.path("tls.pem");
    let ask = |password: &str, mode: &str| {
        let mut command = server.psql(&["-w", "-c", "SELECT user_name FROM gust.queries; SELECT 1"]);
        command.env("PGPASSWORD", password).env("PGSSLMODE", mode).env("PGSSLROOTCERT", &root);
        command.output().expect("psql")
    };
    let first = ask(&ada, "require");
    assert_eq!((first.status.code(), String::from_utf8_lossy(&first.stdout).trim()), (Some(0), "1"), "{first:?}");
    let second = ask(&ada, "verify-ca");
    assert_eq!(String::from_utf8_lossy(&second.stdout).trim(), "ada\nada\n1", "{second:?}");
    failed(&ask(&bob, "require"), &["the token is not one of user `ada`"]);
    failed(&ask(&old, "require"), &["the token has expired"]);
    failed(&ask("gust_wrong", "require"), &["the token is not known"]);
    failed(&ask("", "require"), &["no password supplied"]);
    failed(&ask(&ada, "disable"), &["takes connections with TLS only"]);
    assert_eq!(ask(&ada, "require").status.code(), Some(0), "others are still let in");

    // The user of an open connection is asked for again.
    let mut command = server.psql(&["-w"]);
    command.env("PGPASSWORD", &ada).env("PGSSLMODE", "require").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut open = command.stderr(Stdio::piped()).spawn().expect("psql");
    let mut typed = open.stdin.take().expect("a pipe");
    typed.write_all(b"SELECT 1;\n").expect("typed");
    let mut printed = [0; 2];
    open.stdout.as_mut().expect("a pipe").read_exact(&mut printed).expect("its answer");
    write_private(&place.path("tokens.toml"), &bob_lines);
    server.signal("HUP");
    wait_until("the tokens were read anew", || !ask(&ada, "require").status.success());
    typed.write_all(b"SELECT 2;\n").expect("typed");
    drop(typed);
    failed(&open.wait_with_output().expect("its end"), &["FATAL:  28P01: the token is not known"]);

    let serve = ["serve", "--listen", "127.0.0.1:0", "--postgres", "0.0.0.0:0"];
    fails(&Place::new(""), &serve, 2, &["0.0.0.0:0 can be reached from other machines"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--postgres", &taken];
    fails(&Place::new(""), &serve, 2, &[&taken, "hint: choose another with --postgres"]);
}

/// Message with its kind and its length.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub(super) fn startup_of(user: &str) -> Vec<u8> {
    let body = format!("\0\x03\0\0user\0{user}\0\0");
    [&(body.len() as u32 + 4).to_be_bytes()[..], body.as_bytes()].concat()
}

/// Returns what the server sends, and true if it closes the connection, before it is silent for so long or has sent enough.
fn heard_until(socket: &mut TcpStream, silence: Duration, is_enough: impl Fn(&[u8]) -> bool) -> (String, bool) {
    socket.set_read_timeout(Some(silence)).expect("a time-out");
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    let is_closed = loop {
        if is_enough(&bytes) {
            break false;
        }
        match socket.read(&mut part) {
            Ok(0) => break true,
            Ok(read) => bytes.extend_from_slice(&part[..read]),
            Err(error) => break !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        }
    };
    (String::from_utf8_lossy(&bytes).into_owned(), is_closed)
}

pub(super) fn heard(socket: &mut TcpStream, silence: Duration) -> (String, bool) {
    heard_until(socket, silence, |_| false)
}

/// Reads until the server has sent these words.
#[track_caller]
pub(super) fn hears(socket: &mut TcpStream, words: &str) {
    let has_words = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(words);
    let (said, _) = heard_until(socket, Duration::from_secs(20), has_words);
    assert!(said.contains(words), "`{words}` is not in {said}");
}

/// Reads until the server has been ready for a query so many times. The sixth byte of the message is the state of the transaction.
fn heard_until_ready(socket: &mut TcpStream, times: usize) -> (String, bool) {
    let ready = |bytes: &[u8]| bytes.windows(6).filter(|message| message.starts_with(b"Z\0\0\0\x05")).count();
    heard_until(socket, Duration::from_secs(20), |bytes| ready(bytes) >= times)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_messages_end_their_connection_alone() {
    let place = numbers().await;
    let server = Served::start(&place, &POSTGRES);
    let long = Duration::from_secs(30);
    let known = |bytes: &[u8]| {
        let mut socket = server.socket();
        socket.write_all(&startup_of("ada")).expect("sent");
        let (words, is_closed) = heard_until_ready(&mut socket, 1);
        assert!(words.contains("server_version") && !is_closed, "{words}");
        socket.write_all(bytes).expect("sent");
        heard(&mut socket, long)
    };
    for (bytes, words) in [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), "PostgreSQL's protocol"),
        (vec![0x40, 0, 0, 0, 0, 3, 0, 0], "PostgreSQL's protocol"),
        (b"\0\0\0\x08\0\x02\0\0".to_vec(), "version 2.0"),
        (b"\0\0\0\x0e\0\x03\0\0user\0\xff".to_vec(), "08P01"),
        (b"\0\0\0\x09\0\x03\0\0\0".to_vec(), "the client gives no user"),
    ] {
        let mut socket = server.socket();
        socket.write_all(&bytes).expect("sent");
        let (said, is_closed) = heard(&mut socket, long);
        assert!(is_closed && said.contains(words), "{bytes:?}: {said}");
    }
    // A beginning that does not come whole ends by its time.
    let mut half = server.socket();
    half.write_all(b"\0\0\0\x30\0\x03\0\0us").expect("sent");
    let started = Instant::now();
    assert!(heard(&mut half, long).1 && started.elapsed() < long, "{:?}", started.elapsed());
    for (bytes, words) in [
        (b"Q\x40\0\0\0".to_vec(), "at most 67108864 are taken"),
        (message(b'Q', b"SELECT 1"), "a text has no end"),
        (message(b'Q', b"SELECT '\xff'\0"), "22021"),
        (message(b'B', b"\0\0\0\x01"), "shorter than its contents"),
        (message(b'Z', b""), "is not taken"),
        (message(b'p', b"secret\0"), "no password is expected"),
    ] {
        let (said, is_closed) = known(&bytes);
        assert!(is_closed && said.contains("FATAL") && said.contains(words), "{bytes:?}: {said}");
    }
    server.is_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_out_of_place_are_errors_and_the_connection_goes_on() {
    let place = numbers().await;
    let server = Served::start(&place, &POSTGRES);
    let mut socket = server.socket();
    socket.write_all(&startup_of("ada")).expect("sent");
    heard_until_ready(&mut socket, 1);
    let sync = message(b'S', b"");
    let parse = |name: &str, sql: &str| message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes());
    let bind = |portal: &str, statement: &str| message(b'B', format!("{portal}\0{statement}\0\0\0\0\0\0\0").as_bytes());
    let execute = |portal: &str| message(b'E', format!("{portal}\0\0\0\0\0").as_bytes());
    let long = format!("SELECT '{}'\0", "x".repeat(1 << 20));
    for (bytes, words) in [
        ([execute("nothing"), sync.clone()].concat(), "34000"),
        ([message(b'D', b"Pnothing\0"), sync.clone()].concat(), "34000"),
        ([bind("", "nothing"), sync.clone()].concat(), "26000"),
        ([parse("a", "SELECT 1"), parse("a", "SELECT 1"), sync.clone()].concat(), "42P05"),
        ([parse("", "SELECT 1; SELECT 2"), sync.clone()].concat(), "42601"),
        ([parse("", "SELECT $1 + 1"), bind("", ""), execute(""), sync.clone()].concat(), "ERROR"),
        ([message(b'P', b"\0SELECT $1\0\0\x01\0\0\x02\x58"), sync.clone()].concat(), "42704"),
        (message(b'Q', long.as_bytes()), "54000"),
        (message(b'Q', b"SELECT 'open\0"), "42601"),
    ] {
        socket.write_all(&bytes).expect("sent");
        let (said, is_closed) = heard_until_ready(&mut socket, 1);
        assert!(!is_closed && said.contains(words), "{words}: {said}");
    }
    // Nothing is open by this name, which is no error.
    socket.write_all(&message(b'C', b"Snothing\0")).expect("sent");
    hears(&mut socket, "3\0\0\0\x04");
    // An error skips what follows it, up to Sync.
    let skipped = [
        parse("", "SELEC"),
        bind("", ""),
        execute(""),
        sync.clone(),
        parse("", "SELECT 7"),
        bind("", ""),
        execute(""),
        sync,
    ];
    socket.write_all(&skipped.concat()).expect("sent");
    let (said, _) = heard_until_ready(&mut socket, 2);
    assert_eq!((said.matches("ERROR").count() / 2, said.matches("SELECT 1").count()), (1, 1), "{said}");
    // Statements and portals are bounded.
    let many: Vec<u8> = (0..1_100).flat_map(|name| parse(&format!("many{name}"), "SELECT 1")).collect();
    socket.write_all(&[many, message(b'S', b"")].concat()).expect("sent");
    let (said, _) = heard_until_ready(&mut socket, 1);
    assert!(said.contains("1000 statements are prepared"), "{said}");
    socket.write_all(&message(b'Q', b"BEGIN\0")).expect("sent");
    heard_until_ready(&mut socket, 1);
    let many: Vec<u8> = (0..110).flat_map(|name| bind(&format!("p{name}"), "many0")).collect();
    socket.write_all(&[many, message(b'S', b"")].concat()).expect("sent");
    hears(&mut socket, "100 portals are open");
    server.is_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlalchemy_reflects() {
    let place = numbers().await;
    let server = Served::start(&place, &[&POSTGRES[..], &["--setup", "setup.sql"]].concat());
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let port = server.postgres_port().to_string();
    match run_with(cache, CLIENTS, "alchemy.py", &[&port]).unwrap_or_else(|error| panic!("{error:#}")) {
        Run::Done { stdout } => assert_eq!(stdout, "ok\n"),
        Run::Skipped { reason } => eprintln!("skipped: {reason}"),
    }
}
