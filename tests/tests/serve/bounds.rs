//! Bounds that hold whatever clients do: connections that say nothing, queries that compute on, readers that stop, users who are
//! thrown out.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Served;
use super::identity::{token, write_private};
use super::postgres::{heard, hears, message, startup_of};
use crate::bad_input::{ENDLESS, Place, wait_until};

fn connect(server: &Served<'_>) -> TcpStream {
    TcpStream::connect(server.url.trim_start_matches("http://")).expect("a connection")
}

/// Waits until the server closes a connection.
#[track_caller]
pub(super) fn is_closed(stream: &mut TcpStream, within: Duration) {
    stream.set_read_timeout(Some(within)).expect("a time-out");
    let mut left = Vec::new();
    // A reset is an end as well.
    let timed_out = stream.read_to_end(&mut left).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out, "it is open after {within:?}, and has said {left:?}");
}

#[test]
fn connections_are_bounded_and_have_to_speak() {
    let place = Place::new("on = 'local'\n[server]\nconnections_max = 3\n");
    let server = Served::start(&place, &[]);
    let started = Instant::now();
    // Nothing, the beginnings of HTTP/2 and of a head, and one more. The server may count them in another order.
    let silent = ["", "PRI", "GET /v1/hea", ""].map(|beginning| {
        let mut stream = connect(&server);
        stream.write_all(beginning.as_bytes()).expect("sent");
        thread::spawn(move || {
            is_closed(&mut stream, Duration::from_secs(20));
            started.elapsed()
        })
    });
    let mut closed = silent.map(|silent| silent.join().expect("it is closed"));
    closed.sort();
    assert!(closed[0] < Duration::from_secs(8), "one of four is closed at once: {closed:?}");
    assert!(closed[1] > Duration::from_secs(9), "the others have their time: {closed:?}");
    server.is_well();
}

/// DataFusion's cross join hands on rows to an aggregate without a pause. 800 million pairs take four seconds of an idle processor.
#[test]
fn a_cancelled_query_holds_its_place_while_it_computes() {
    let place = Place::new("on = 'local'\n[server]\nqueries_max = 1\n");
    let server = Served::start(&place, &[]);
    let post = |request: &serde_json::Value| {
        let body = request.to_string();
        server.curl("/v1/statements", &["-H", "Content-Type: application/json", "--data-binary", &body]).json()
    };
    let pairs = "SELECT sum(a.value + b.value) AS s FROM generate_series(1, 500000) a, generate_series(1, 1600) b";
    let told = post(&json!({ "sql": pairs, "wait_seconds": 1, "on_wait": "cancel" }));
    assert_eq!(told["state"], "CANCELLED", "{told}");
    let before = server.processor_ticks();
    let queued = post(&json!({ "sql": "SELECT 1 AS one", "wait_seconds": 0 }));
    wait_until("it computes on", || server.processor_ticks() > before + 10);
    assert_eq!(server.metric("gust_queries_running"), 1.0);
    let href = queued["href"].as_str().expect("a place");
    assert_eq!(server.curl(href, &[]).json()["state"], "QUEUED", "{queued}");
    let done = server.curl(&format!("{href}?wait_seconds=50"), &[]).json();
    assert_eq!(done["state"], "SUCCEEDED", "its turn has come: {done}");
    wait_until("nothing runs", || server.metric("gust_queries_running") == 0.0);
}

/// Each has a thread of the server, and keeps it as long as it does not read.
#[test]
fn readers_that_stop_are_bounded() {
    let place = Place::new("on = 'local'\n");
    let server = Served::start(&place, &[]);
    let body =
        r#"{"sql": "SELECT value AS v, repeat('x', 100) AS x FROM generate_series(1, 200000)", "wait_seconds": 40}"#;
    let told = server.curl("/v1/statements", &["-H", "Content-Type: application/json", "--data-binary", body]).json();
    assert_eq!(told["state"], "SUCCEEDED", "{told}");
    let result = format!("{}/result", told["href"].as_str().expect("a place"));
    let stopped: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = connect(&server);
            write!(stream, "GET {result} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
            let mut begins = [0; 12];
            stream.read_exact(&mut begins).expect("an answer begins");
            assert_eq!(&begins, b"HTTP/1.1 200");
            stream
        })
        .collect();
    assert_eq!(server.curl(&result, &[]).status, 429, "no place is left");
    let page = server.curl(&format!("{result}?page=0"), &[]);
    assert_eq!((page.status, page.header("retry-after")), (429, Some("5")), "{page:?}");
    let long = "SELECT repeat('x', 1000) AS x FROM generate_series(1, 1000)";
    let refused = server.query("*/*", long);
    assert_eq!((refused.status, &refused.json()["kind"]), (429, &json!("busy")), "{refused:?}");
    assert_eq!(server.query("*/*", "SELECT 1").status, 200, "what fits into one chunk needs no place");
    drop(stopped);
    wait_until("there are places again", || server.query("*/*", long).status == 200);
}

#[test]
fn a_user_who_is_thrown_out_has_nothing_that_goes_on() {
    let place = Place::new("on = 'local'\n[server]\ntokens = 'tokens.toml'\n");
    let (ada, ada_lines) = token(&place, &["ada"]);
    let (eve, eve_lines) = token(&place, &["eve"]);
    write_private(&place.path("tokens.toml"), &format!("{ada_lines}\n{eve_lines}"));
    std::fs::write(place.path("setup.sql"), "CREATE VIEW costs AS SELECT * FROM gust.queries").expect("written");
    let server = Served::start(&place, &["--setup", "setup.sql", "--postgres", "127.0.0.1:0"]);
    let ask = |secret: &str, path: &str, sql: &str| {
        let bearer = format!("Authorization: Bearer {secret}");
        server.curl(path, &["-H", &bearer, "-H", "Content-Type: application/sql", "--data-binary", sql])
    };
    let metrics_of = |secret: &str| server.ask(secret, "/metrics", &[]).text();
    // A view of the set-up shows nobody's statements.
    assert_eq!(ask(&ada, "/v1/query", "SELECT 'secret' AS word").status, 200);
    let seen = ask(&eve, "/v1/query", "SELECT statement FROM costs WHERE statement LIKE '%secret%'");
    assert_eq!((seen.status, seen.json()), (200, json!([])), "{seen:?}");
    // She reads a long result slowly, follows a statement, and has a connection of PostgreSQL that says nothing.
    let long = "SELECT value AS v, repeat('x', 100) AS x FROM generate_series(1, 200000)";
    let kept = ask(&eve, "/v1/statements?wait_seconds=40", long).json();
    assert_eq!(kept["state"], "SUCCEEDED", "{kept}");
    let mut reading = connect(&server);
    let path = format!("{}/result", kept["href"].as_str().expect("a place"));
    write!(reading, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {eve}\r\n\r\n").expect("sent");
    reading.read_exact(&mut [0; 12]).expect("an answer begins");
    let mut idle = server.socket();
    idle.write_all(&startup_of("eve")).expect("sent");
    idle.write_all(&message(b'p', format!("{eve}\0").as_bytes())).expect("sent");
    hears(&mut idle, "TimeZone");
    let endless = ENDLESS.replace('\n', " ");
    let (asking, following, submitted) = thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&eve, "/v1/query", &endless));
        let submitted = ask(&eve, "/v1/statements?wait_seconds=1", &endless).json();
        let events = format!("{}/events", submitted["href"].as_str().expect("a place"));
        let (bearer, accept) = (format!("Authorization: Bearer {eve}"), "Accept: text/event-stream");
        let mut following = server.command(&events, &["--no-buffer", "-H", &bearer, "-H", accept]);
        let mut following = following.stdout(Stdio::piped()).spawn().expect("curl");
        let mut told = BufReader::new(following.stdout.take().expect("its events"));
        let mut followed = String::new();
        while !followed.contains("planned") {
            assert!(told.read_line(&mut followed).expect("events") > 0, "it is not followed: {followed}");
        }
        wait_until("both run", || metrics_of(&ada).contains("gust_queries_running 2\n"));
        write_private(&place.path("tokens.toml"), &ada_lines);
        server.signal("HUP");
        told.read_to_string(&mut followed).expect("events");
        following.wait().expect("its end");
        (asking.join().expect("no panic"), followed, submitted)
    });
    assert_eq!((asking.status, &asking.json()["code"]), (401, &json!("28000")), "{asking:?}");
    assert_eq!(submitted["state"], "RUNNING", "{submitted}");
    assert!(following.ends_with("200"), "{following}");
    assert!(!following.contains("event: end"), "it is cut before the statement's end: {following}");
    let (said, is_closed) = heard(&mut idle, Duration::from_secs(10));
    assert!(is_closed && said.contains("the token is not known"), "{said}");
    let mut rest = Vec::new();
    reading.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    let ended = reading.read_to_end(&mut rest);
    assert!(ended.is_err() || !rest.ends_with(b"0\r\n\r\n"), "{} bytes look like the whole", rest.len());
    wait_until("nothing of hers runs", || {
        let text = metrics_of(&ada);
        text.contains("gust_queries_running 0") && text.contains("gust_statements_total{outcome=\"cancelled\"} 2")
    });
}

/// One who waits in the queue learns why his turn never came, also with another token.
#[test]
fn a_token_that_is_replaced_ends_what_it_began() {
    let place = Place::new("on = 'local'\n[server]\ntokens = 'tokens.toml'\nqueries_max = 1\n");
    let (ada, ada_lines) = token(&place, &["ada"]);
    let (stolen, stolen_lines) = token(&place, &["eve"]);
    let (new, new_lines) = token(&place, &["eve"]);
    write_private(&place.path("tokens.toml"), &format!("{ada_lines}\n{stolen_lines}\n{new_lines}"));
    let server = Served::start(&place, &[]);
    let submit = |secret: &str, sql: &str| {
        let flags = ["-H", "Content-Type: application/sql", "--data-binary", sql];
        server.ask(secret, "/v1/statements?wait_seconds=1", &flags).json()
    };
    let endless = ENDLESS.replace('\n', " ");
    let runs = submit(&ada, &endless);
    let (by_stolen, by_new) = (submit(&stolen, "SELECT 1 AS one"), submit(&new, "SELECT 2 AS two"));
    assert_eq!([&runs["state"], &by_stolen["state"], &by_new["state"]], ["RUNNING", "QUEUED", "QUEUED"]);
    write_private(&place.path("tokens.toml"), &format!("{ada_lines}\n{new_lines}"));
    server.signal("HUP");
    let state = |of: &serde_json::Value| server.ask(&new, of["href"].as_str().expect("a place"), &[]).json();
    wait_until("it is over", || state(&by_stolen)["state"] == "CANCELLED");
    assert_eq!(state(&by_stolen)["error"]["code"], "28000", "{}", state(&by_stolen));
    assert_eq!(state(&by_new)["state"], "QUEUED", "what the other token began goes on");
    assert_eq!(server.ask(&stolen, "/v1/statements", &[]).status, 401);
    let href = runs["href"].as_str().expect("a place");
    assert_eq!(server.ask(&ada, href, &["-X", "DELETE"]).status, 200);
    wait_until("its turn has come", || state(&by_new)["state"] == "SUCCEEDED");
}
