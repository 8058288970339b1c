//! `gust query --server` and `gust cost --server`, against a server of the same program.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::identity::{certificate, token, write_private};
use super::{Served, numbers};
use crate::bad_input::{ENDLESS, Place, check, wait_until};

impl Served<'_> {
    /// Runs `gust query` on this server.
    fn remote(&self, arguments: &[&str]) -> Output {
        self.remote_command(arguments).output().expect("it starts")
    }

    fn remote_command(&self, arguments: &[&str]) -> Command {
        self.place.gust(&[&["query", "--server", &self.url], arguments].concat())
    }
}

fn printed(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_have_every_format_and_words_go_to_stderr() {
    let place = numbers().await;
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    for sql in [
        "SELECT k FROM t ORDER BY k",
        "SELECT k, k / 7.0 AS q, CAST(k AS DECIMAL(20, 3)) AS d FROM t WHERE k < 0",
        "SELECT value AS v FROM generate_series(1, 30000)",
        "SELECT DISTINCT [1, NULL] AS l, NULL AS n, true AS b FROM t",
    ] {
        for format in ["table", "csv", "json", "ndjson", "arrow", "parquet"] {
            let flags = ["--report", "none", "--format", format, sql];
            let here = place.gust(&[&["query", "--setup", "setup.sql"], &flags[..]].concat()).output().expect("rows");
            let there = server.remote(&flags);
            check(&here, 0, &[]);
            check(&there, 0, &[]);
            assert!(here.stdout == there.stdout, "{format}: {sql}: {}", String::from_utf8_lossy(&there.stdout));
            assert_eq!(there.stderr, b"", "{format}: {sql}");
        }
    }
    // Views of texts come as plain texts.
    let texts = server.remote(&["--format", "csv", "--report", "none", "SELECT name FROM t WHERE k = 7"]);
    assert_eq!(printed(&texts), "name\nn7\n");
    let several = "CREATE VIEW w AS SELECT 41 + 1 AS k; SELECT k FROM w";
    assert_eq!(printed(&server.remote(&["--format", "csv", several])), "k\n42\n");
    let silent = server.remote(&["SET datafusion.execution.batch_size = 1000"]);
    check(&silent, 0, &["cost"]);
    assert_eq!(silent.stdout, b"");

    // The report is the server's.
    let file = place.path("report.json");
    let reported = ["--report", "json", "--report-file", file.to_str().expect("a path"), "--label", "team=café"];
    let output = server.remote(&[&reported[..], &["--format", "csv", "SELECT max(k) AS m FROM t"]].concat());
    check(&output, 0, &[]);
    assert_eq!(printed(&output), "m\n1000\n");
    let report: Value = serde_json::from_slice(&std::fs::read(file).expect("a report")).expect("JSON");
    let id = report["id"].as_str().expect("an id");
    // Files of this machine cost nothing.
    assert_eq!((&report["cost"]["known"], &report["cost"]["region"]), (&json!(0), &json!("us-east-1")), "{report}");
    let recorded = server.rows(&format!("SELECT labels['team'] AS team, rows FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "team": "café", "rows": 1 }]));
    let words = server.remote(&["SELECT max(k) AS m FROM t"]);
    check(&words, 0, &["cost"]);
    let dry = server.remote(&["--dry-run", "--format", "json", "SELECT max(k) AS m FROM t"]);
    assert_eq!(serde_json::from_slice::<Value>(&dry.stdout).expect("JSON")[0]["place"], "local", "{dry:?}");

    // A file is there whole or not at all.
    let rows = place.path("rows.parquet");
    let path = rows.to_str().expect("a path");
    check(&server.remote(&["--format", "parquet", "--output", path, "SELECT k FROM t"]), 0, &[]);
    let count = ["query", "--format", "csv", "--report", "none", "SELECT count(*) AS n FROM 'rows.parquet'"];
    assert_eq!(printed(&place.gust(&count).output().expect("rows")), "n\n1000\n");
    check(&server.remote(&["--output", path, "SELECT k FROM t"]), 2, &["the file exists"]);
    let none = place.path("none.csv");
    let cut = "SELECT 1 / (value - 3000000) AS q FROM generate_series(1, 3000000)";
    check(&server.remote(&["--output", none.to_str().expect("a path"), "--format", "csv", cut]), 1, &["ivide by zero"]);
    assert!(!none.exists(), "a file with a part of the rows");
    let cost =
        place.gust(&["cost", "--server", &server.url, "--by", "outcome", "--format", "csv"]).output().expect("it");
    check(&cost, 0, &[]);
    assert!(printed(&cost).starts_with("outcome,") && printed(&cost).contains("\nfailed,"), "{cost:?}");
    server.is_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_exit_codes_of_the_command_line() {
    let place = numbers().await;
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    let cut = "SELECT 1 / (value - 3000000) AS q FROM generate_series(1, 3000000)";
    for (arguments, code, words) in [
        (&["SELECT * FROM ordres"][..], 1, &["error: there is no table `ordres`"][..]),
        (&["SELEC 1"], 1, &["SELEC", "Line: 1, Column: 1"]),
        (&["SELECT 1; SELECT 2"], 1, &["one result", "hint: send each query by itself"]),
        (&["SELECT * FROM '/etc/passwd'"], 1, &["outside of what this server reads"]),
        (&["--timeout", "300ms", ENDLESS], 124, &["300"]),
        (&["--catalog", "lake", "SELECT 1"], 1, &["no catalog `lake`"]),
        (&["--format", "csv", cut], 1, &["ivide by zero"]),
        (&[""], 1, &["there is no statement"]),
        (&["--on", "local", "SELECT 1"], 2, &["--on is about this machine"]),
    ] {
        check(&server.remote(arguments), code, words);
    }
    let dear = Place::new("on = 'local'\n[cost]\ncoordinator_hour = 3600\n");
    check(&Served::start(&dear, &[]).remote(&["--max-cost", "0.05", ENDLESS]), 4, &["stopped at the cap of $0.05"]);
    let refused = |arguments: &[&str], code, words| {
        check(&place.gust(arguments).output().expect("it starts"), code, &[words]);
    };
    for (url, words) in [
        ("http://127.0.0.1:1", "cannot connect to http://127.0.0.1:1/"),
        ("https://127.0.0.1:1", "cannot connect to https://127.0.0.1:1/"),
        ("gust.example", "begins with neither https:// nor http://"),
        (&*server.url.replace("http://", "https://"), "cannot connect"),
    ] {
        refused(&["query", "--server", url, "SELECT 1"], 2, words);
        refused(&["cost", "--server", url], 2, words);
    }
    // Servers of other protocols.
    for words in ["HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", ""] {
        let other = answers(words);
        refused(&["query", "--server", &other, "SELECT 1"], 1, "hint: is it `gust serve`");
    }
    server.is_well();
}

/// Answers each connection with these words, and closes it. Returns the URL.
fn answers(words: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            let heard = connection.read(&mut [0; 1024]).expect("the client speaks first");
            assert!(heard > 0);
            connection.write_all(words.as_bytes()).expect("sent");
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_with_the_program() {
    let place = numbers().await;
    let server = Served::start(&place, &[]);
    let rows = "SELECT a.value AS v FROM generate_series(1, 10000000) a";
    for (signal, code, sql) in [("INT", 130, ENDLESS), ("TERM", 143, ENDLESS), ("INT", 130, rows)] {
        let mut command = server.remote_command(&["--format", "csv", sql]);
        // Rows that nobody reads hold the query up.
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let metrics = || server.curl("/metrics", &[]).text();
        wait_until("it runs", || metrics().contains("gust_queries_running 1"));
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
        let output = child.wait_with_output().expect("its end");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        wait_until("it was cancelled", || metrics().contains("gust_queries_running 0"));
    }
    wait_until("all are recorded", || {
        server.outcomes(ENDLESS) == ["cancelled", "cancelled"] && server.outcomes(rows) == ["cancelled"]
    });
    server.is_well();
}

#[test]
fn a_token_comes_from_a_file_or_a_variable_and_goes_over_tls() {
    let settings =
        "on = 'local'\n[server]\ntokens = 'tokens.toml'\ntls = { certificate = 'tls.pem', key = 'tls.key' }\n";
    let place = Place::new(settings);
    if !certificate(&place, "tls") || !certificate(&place, "other") {
        eprintln!("skipped: openssl is missing");
        return;
    }
    let (secret, lines) = token(&place, &["ada"]);
    write_private(&place.path("tokens.toml"), &lines);
    write_private(&place.path("secret"), &format!("{secret}\n"));
    write_private(&place.path("wrong"), "gust_wrong\n");
    let server = Served::start(&place, &[]);
    let ask = |arguments: &[&str]| {
        let sql = ["--format", "csv", "SELECT user_name FROM gust.queries UNION ALL SELECT 'none' ORDER BY 1 LIMIT 1"];
        server.remote_command(&[arguments, &sql].concat())
    };
    let known = ["--ca", "tls.pem"];
    for _ in 0..2 {
        check(&ask(&[&known[..], &["--token-file", "secret"]].concat()).output().expect("it starts"), 0, &["cost"]);
    }
    let by_variable = ask(&known).env("GUST_TOKEN", &secret).output().expect("it starts");
    assert_eq!(printed(&by_variable), "user_name\nada\n", "{by_variable:?}");
    let refused = |arguments: &[&str], words: &[&str]| {
        let output = ask(arguments).output().expect("it starts");
        check(&output, 2, words);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("gust_wrong"), "the secret shows: {output:?}");
    };
    refused(
        &known,
        &["the request has no token", "hint: name a file with the token by --token-file, or set GUST_TOKEN"],
    );
    refused(&["--ca", "tls.pem", "--token-file", "wrong"], &["the token is not known"]);
    refused(&["--ca", "other.pem", "--token-file", "secret"], &["cannot connect", "certificate"]);
    refused(&["--token-file", "secret"], &["cannot connect", "--ca names its authority"]);
    refused(&["--ca", "secret", "--token-file", "secret"], &["--ca secret: it has no certificate in PEM"]);
    refused(&["--ca", "tls.pem", "--token-file", "nothing"], &["--token-file nothing"]);
    std::fs::set_permissions(place.path("secret"), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    refused(&["--ca", "tls.pem", "--token-file", "secret"], &["everybody on this machine can read it", "chmod o="]);
    // Nobody on the way may read a token.
    let plain = ["query", "--server", "http://192.0.2.1:8123", "--token-file", "wrong", "SELECT 1"];
    check(
        &place.gust(&plain).output().expect("it starts"),
        2,
        &["192.0.2.1 would get the token", "hint: write https://"],
    );
    let in_url = ["query", "--server", "http://gust_wrong@127.0.0.1:8123", "SELECT 1"];
    check(&place.gust(&in_url).output().expect("it starts"), 2, &["a URL with a user is not taken"]);
}

#[test]
fn rows_of_a_server_that_dies_are_cut() {
    let place = Place::new("on = 'local'\n");
    let server = Served::start(&place, &[]);
    let mut client = server
        .remote_command(&["--format", "csv", "SELECT value FROM generate_series(1, 100000000000)"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut first = [0; 1 << 16];
    client.stdout.as_mut().expect("rows").read_exact(&mut first).expect("rows");
    server.signal("KILL");
    let mut rest = client.stdout.take().expect("rows");
    std::thread::spawn(move || std::io::copy(&mut rest, &mut std::io::sink()));
    let output = client.wait_with_output().expect("its end");
    check(&output, 1, &["the connection to the server broke among the rows", "history has it as 0"]);
}

/// The command line and a server's clients see the same description of a run, and the history has it.
#[tokio::test(flavor = "multi_thread")]
async fn an_analyzed_query_is_described() {
    let place = numbers().await;
    let server = Served::start(&place, &["--setup", "setup.sql", "--on", "in-process"]);
    let sql = "EXPLAIN ANALYZE SELECT k % 7 AS g, count(*) FROM t GROUP BY 1";
    let flags = ["--format", "json", "--report", "none", sql];
    let mut here = place.gust(&[&["query", "--setup", "setup.sql", "--on", "in-process"], &flags[..]].concat());
    for output in [here.output().expect("rows"), server.remote(&flags)] {
        check(&output, 0, &[]);
        let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(
            (&rows[0]["plan_type"], &rows[1]["plan_type"]),
            (&json!("gust"), &json!("Plan with Metrics")),
            "{rows}"
        );
        let work = rows[0]["plan"].as_str().expect("text");
        for told in
            ["decision     functions", "\nstage 0      ", " adopted", "\nhere         7 rows", "\ntotal        "]
        {
            assert!(work.contains(told), "{told}: {work}");
        }
    }
    let analyzed = "SELECT place, attempts > 0 AS ran, rows FROM gust.queries WHERE statement LIKE 'EXPLAIN ANALYZE%'";
    let expect = json!({"place": "functions", "ran": true, "rows": 2});
    assert_eq!(server.rows(analyzed), json!([expect, expect]), "both records are in the place's history");
    server.is_well();
}
