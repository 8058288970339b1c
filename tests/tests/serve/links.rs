//! Rows that clients read by links: left by functions where nothing but a gather is above them, else written once by the coordinator.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use arrow_ipc::reader::StreamReader;
use futures::TryStreamExt;
use gust_tests::s3::{ACCESS_KEY_ID, Operation, REGION, S3Server, SECRET_ACCESS_KEY};
use object_store::path::Path as Key;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::Served;
use super::identity::with_users;
use super::restart::JSON;
use crate::bad_input::{Place, check, wait_until};

/// Files of the table, each of which is a fragment.
const FILES: u64 = 4;

/// Folder of the objects that the coordinator writes, below those of a query.
const WRITTEN: &str = "/4294967295/";

/// Join of 1,999 rows.
const JOIN: &str = "SELECT a.k, b.name FROM 'data/' AS a JOIN 'data/' AS b ON a.k = b.k + 1";

/// Statements, and whether functions leave their rows: also those that do groups and joins of two large sides.
const STATEMENTS: [(&str, bool); 11] = [
    ("SELECT k, name FROM 'data/' WHERE k % 2 = 0", true),
    ("SELECT k + 1 AS k, [name] AS names FROM 'data/'", true),
    ("SELECT k, name FROM 'data/' WHERE k < 0", true),
    ("SELECT name, k FROM 'data/' ORDER BY k DESC", false),
    ("SELECT count(*) AS n FROM (SELECT k FROM 'data/' LIMIT 7)", false),
    ("SELECT k % 3 AS g, count(*) AS n FROM 'data/' GROUP BY 1", true),
    (JOIN, true),
    ("SELECT k % 3 AS g, count(*) AS n FROM 'data/' GROUP BY 1 ORDER BY 1", false),
    ("SELECT k, k + 0 AS k FROM 'data/' WHERE k < 9", false),
    ("SELECT 1 AS one, 'x' AS word", false),
    ("EXPLAIN SELECT k FROM 'data/'", false),
];

async fn place(exchange: &str, more: &str) -> (Place, [String; 2]) {
    let settings = format!(
        "exchange = '{exchange}'\nfunctions_max = {FILES}\n{more}[server]\nreach = ['data']\ntokens = 'tokens.toml'\n"
    );
    let (place, secrets) = with_users(&settings, [&["ada"], &["bob"]]);
    for file in 0..FILES {
        let rows = format!(
            "SELECT value AS k, 'n' || value AS name FROM generate_series({}, {})",
            file * 500 + 1,
            (file + 1) * 500
        );
        place.parquet(&format!("data/{file}.parquet"), &rows).await;
    }
    (place, secrets)
}

fn s3(store: &S3Server) -> String {
    format!(
        "[s3]\nendpoint = '{}'\nallow_http = true\npath_style = true\nregion = '{REGION}'\naccess_key_id = '{ACCESS_KEY_ID}'\n\
         secret_access_key = '{SECRET_ACCESS_KEY}'\n",
        store.endpoint()
    )
}

/// Submits a statement whose rows are to be linked, and returns its description at its end.
fn submit(server: &Served<'_>, secret: &str, sql: &str) -> Value {
    let body = json!({ "sql": sql, "wait_seconds": 40, "links": true }).to_string();
    let answer = server.ask(secret, "/v1/statements", &[&JSON[..], &["--data-binary", &body]].concat());
    assert_eq!((answer.code, answer.status), (0, 200), "{answer:?}");
    answer.json()
}

/// Fetches a URL without any token. Returns the status and the body.
fn fetched(url: &str) -> (String, Vec<u8>) {
    let always = ["--silent", "--noproxy", "*", "--max-time", "20", "--write-out", "%{stderr}%{http_code}"];
    let output = Command::new("curl").args(always).arg(url).output().expect("curl");
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.stdout)
}

/// Returns all values as texts, in order.
fn values(streams: &[Vec<u8>]) -> Vec<Vec<String>> {
    let of = |batch: RecordBatch| {
        let row = |row| {
            let column = |column| array_value_to_string(column, row).expect("a text");
            batch.columns().iter().map(|of| column(of.as_ref())).collect::<Vec<_>>()
        };
        (0..batch.num_rows()).map(row).collect::<Vec<_>>()
    };
    let batches = streams.iter().flat_map(|stream| StreamReader::try_new(stream.as_slice(), None).expect("a stream"));
    batches.flat_map(|batch| of(batch.expect("rows"))).collect()
}

fn links(told: &Value) -> &Vec<Value> {
    told["links"].as_array().expect("links")
}

#[tokio::test(flavor = "multi_thread")]
async fn linked_rows_are_read_at_the_store_and_not_through_the_server() {
    let store = S3Server::start().expect("a server");
    let (place, [ada, bob]) =
        place(&store.url("x"), &format!("join = 'local'\nshuffle = 'hash'\n{}", s3(&store))).await;
    let server = Served::start(&place, &["--on", "processes"]);
    let keys = |folder: &str| -> Vec<String> {
        let (client, folder) = (store.store().expect("a client"), Key::from(folder));
        let listed = client.list(Some(&folder)).map_ok(|meta| meta.location.to_string()).try_collect();
        tokio::task::block_in_place(|| Handle::current().block_on(listed)).expect("listed")
    };
    for (sql, by_functions) in STATEMENTS {
        store.take_requests();
        let told = submit(&server, &ada, sql);
        assert_eq!((&told["state"], &told["result"]["is_linked"]), (&json!("SUCCEEDED"), &json!(true)), "{told}");
        let (id, query) = (told["id"].as_str().expect("an id"), told["query_id"].as_str().expect("an id"));
        let folder = format!("x/results/{query}");
        // Nobody has read a byte of them, and those of functions were written by these.
        let of_rows: Vec<_> = store.requests().into_iter().filter(|it| it.key.starts_with(&folder)).collect();
        assert!(of_rows.iter().all(|it| ![Operation::Get, Operation::Head].contains(&it.operation)), "{of_rows:?}");
        let written = of_rows.iter().filter(|it| it.operation == Operation::Put).count() as u64;
        assert_eq!(of_rows.iter().any(|it| it.key.contains(WRITTEN)), !by_functions, "{sql}: {of_rows:?}");
        let is_of_two_stages = ["GROUP", "JOIN"].iter().any(|word| sql.contains(word));
        if by_functions && !is_of_two_stages {
            assert!(written >= FILES, "{sql}: {written}");
            assert_eq!(told["report"]["fragments_adopted"], FILES, "{sql}: {told}");
        } else if by_functions {
            let [adopted, all] = ["fragments_adopted", "fragments"].map(|name| told["report"][name].as_u64());
            assert!(written > 0 && adopted == all && all > Some(FILES), "{sql}: {written}: {told}");
        }
        let place_of_links = told["result"]["href"].as_str().expect("a place");
        let linked = server.ask(&ada, place_of_links, &[]);
        assert_eq!((linked.status, linked.header("cache-control")), (200, Some("no-store")), "{linked:?}");
        let linked = linked.json();
        let mut streams = Vec::new();
        for link in links(&linked) {
            assert_eq!(link["is_presigned"], true, "{link}");
            let (status, bytes) = fetched(link["href"].as_str().expect("a URL"));
            assert_eq!((status.as_str(), bytes.len() as u64), ("200", link["bytes"].as_u64().expect("a number")));
            assert_eq!(u64::from(crc32fast::hash(&bytes)), link["crc32"].as_u64().expect("a number"), "{link}");
            let own = values(std::slice::from_ref(&bytes)).len() as u64;
            assert_eq!(Some(own), link["rows"].as_u64(), "{link}");
            streams.push(bytes);
        }
        let schema = StreamReader::try_new(streams[0].as_slice(), None).expect("a stream").schema();
        let columns: Vec<Value> = schema
            .fields()
            .iter()
            .map(|field| json!({ "name": field.name(), "type": field.data_type().to_string() }))
            .collect();
        assert_eq!(told["result"]["columns"], json!(columns), "{sql}");
        assert!(!format!("{schema:?}").contains("View"), "{sql}: plain types: {schema:?}");
        let accept = ["-H", "Accept: application/vnd.apache.arrow.stream", "-H", "Content-Type: application/sql"];
        let streamed = server.ask(&ada, "/v1/query", &[&accept[..], &["--data-binary", sql]].concat());
        assert_eq!((streamed.code, streamed.status), (0, 200), "{streamed:?}");
        let (mut rows, mut expect) = (values(&streams), values(&[streamed.body]));
        assert_eq!(Some(rows.len() as u64), told["result"]["rows"].as_u64(), "{sql}");
        if !sql.contains("ORDER BY") {
            rows.sort();
            expect.sort();
        }
        assert!(sql.starts_with("EXPLAIN") || rows == expect, "{sql}: {rows:?} and not {expect:?}");
        // They are nobody else's.
        for path in [place_of_links.to_owned(), format!("{place_of_links}/0")] {
            assert_eq!((server.ask(&bob, &path, &[]).status, server.curl(&path, &[]).status), (404, 401), "{path}");
        }
        let rows = server.ask(&ada, &format!("/v1/statements/{id}/result"), &[]);
        assert_eq!((rows.status, &rows.json()["kind"]), (409, &json!("links")), "{rows:?}");
        // With the statement its rows are forgotten.
        assert_eq!(keys(&folder).len(), of_rows.iter().filter(|it| it.operation == Operation::Put).count());
        let forgotten = server.ask(&ada, &format!("/v1/statements/{id}?forget=true"), &["-X", "DELETE"]);
        assert_eq!(forgotten.status, 204, "{forgotten:?}");
        wait_until("the rows are gone", || keys(&folder).is_empty());
        assert_eq!(server.ask(&ada, place_of_links, &[]).status, 404);
        assert_eq!(fetched(links(&linked)[0]["href"].as_str().expect("a URL")).0, "404");
    }
    let failed = submit(&server, &ada, "SELECT 1 / (k % 1) AS q FROM 'data/'");
    assert_eq!(failed["state"], "FAILED", "{failed}");
    let refused = server.ask(&ada, &format!("/v1/statements/{}/links", failed["id"].as_str().expect("an id")), &[]);
    assert_eq!((refused.status, &refused.json()["kind"]), (422, &json!("data")), "{refused:?}");
    wait_until("nothing is left", || keys("x").is_empty());
}

/// Returns the rows of a statement's links as the server sends them, in order.
fn sorted_rows(server: &Served<'_>, secret: &str, told: &Value) -> Vec<Vec<String>> {
    let linked = server.ask(secret, told["result"]["href"].as_str().expect("a place"), &[]).json();
    let part = |link: &Value| server.ask(secret, link["href"].as_str().expect("a path"), &[]).body;
    let mut rows = values(&links(&linked).iter().map(part).collect::<Vec<_>>());
    rows.sort();
    rows
}

/// Returns true if the server has written rows of a statement, in an exchange that is a folder.
fn has_written(place: &Place, told: &Value) -> bool {
    let of_query = place.path(&format!("exchange/results/{}", told["query_id"].as_str().expect("an id")));
    assert!(of_query.is_dir(), "nobody has left rows: {told}");
    of_query.join(WRITTEN.trim_matches('/')).exists()
}

/// Every function gets the smaller side of the join, from the beginning or once it turns out to be small. One that is larger than was
/// expected is joined by the server.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_join_leave_the_rows() {
    let long = "SELECT a.k, b.name FROM (SELECT k + 1 AS k, repeat(name, 100) AS name FROM 'data/' WHERE k % 5 < 5) AS b \
                JOIN 'data/' AS a ON a.k = b.k";
    for (settings, sql, count, repeated) in [
        ("join = 'broadcast'\n", JOIN, "broadcasts", 1),
        ("shuffle = 'hash'\nbuild_first = 'always'\n", JOIN, "builds_copied", 1),
        ("join = 'broadcast'\nbroadcast_bytes_max = '200KiB'\n", long, "joined_here", 100),
    ] {
        let (place, [ada, _]) = place("exchange", settings).await;
        std::fs::create_dir(place.path("exchange")).expect("made");
        let server = Served::start(&place, &["--on", "processes"]);
        let told = submit(&server, &ada, sql);
        assert_eq!((&told["state"], &told["result"]["rows"]), (&json!("SUCCEEDED"), &json!(1_999)), "{count}: {told}");
        assert_eq!(told["report"][count], 1, "{count}: {told}");
        let [adopted, all] = ["fragments_adopted", "fragments"].map(|name| told["report"][name].as_u64());
        assert!(adopted > Some(0) && adopted == all, "{count}: {told}");
        assert_eq!(has_written(&place, &told), count == "joined_here", "{count}: {told}");
        let mut expect: Vec<_> =
            (2..=2_000).map(|k| vec![k.to_string(), format!("n{}", k - 1).repeat(repeated)]).collect();
        expect.sort();
        assert!(sorted_rows(&server, &ada, &told) == expect, "{count}: other rows");
    }
}

/// One function does its fragment. The others begin once its rows are there, and refuse theirs.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_run_that_failed_are_not_linked() {
    let (place, [ada, _]) = place("exchange", "allow_fallback = true\n").await;
    std::fs::create_dir(place.path("exchange")).expect("made");
    let program = place.path("function.sh");
    let (first, results) = (place.path("first"), place.path("exchange/results"));
    let text = format!(
        "#!/bin/sh\nPATH=/usr/bin:/bin\nif ! mkdir '{}' 2> /dev/null; then\n\
         for _ in $(seq 200); do if ls '{}'/*/*/* > /dev/null 2>&1; then break; fi; sleep 0.1; done\n\
         sleep 3\nTEST_OTHER_RELEASE=1\nexport TEST_OTHER_RELEASE\nfi\nexec '{}'\n",
        first.display(),
        results.display(),
        env!("CARGO_BIN_EXE_bootstrap_under_test")
    );
    std::fs::write(&program, text).expect("written");
    std::fs::set_permissions(&program, Permissions::from_mode(0o700)).expect("its owner may run it");
    let mut command = Served::command_of(&place, &["--on", "processes"]);
    command.env("GUST_PROCESS__PROGRAM", &program);
    let server = Served::started(&place, command, &[]);
    let told = submit(&server, &ada, STATEMENTS[0].0);
    assert_eq!((&told["state"], &told["result"]["rows"]), (&json!("SUCCEEDED"), &json!(1_000)), "{told}");
    let report = &told["report"];
    assert!(report["fell_back"].is_string() && report["fragments_adopted"].as_u64() > Some(0), "{told}");
    assert!(has_written(&place, &told), "{told}");
    let mut expect: Vec<_> = (1..=1_000).map(|k| vec![(2 * k).to_string(), format!("n{}", 2 * k)]).collect();
    expect.sort();
    assert!(sorted_rows(&server, &ada, &told) == expect, "other rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn linked_rows_come_through_the_server_where_nobody_signs() {
    let (place, [ada, bob]) = place("exchange", "").await;
    std::fs::create_dir(place.path("exchange")).expect("made");
    let mut server = Served::start(&place, &["--on", "processes"]);
    let told = submit(&server, &ada, STATEMENTS[0].0);
    assert_eq!(told["state"], "SUCCEEDED", "{told}");
    let place_of_links = told["result"]["href"].as_str().expect("a place");
    let linked = server.ask(&ada, place_of_links, &[]).json();
    assert_eq!((links(&linked).len() as u64, &linked["parts"]), (FILES, &json!(FILES)), "{linked}");
    let from = server.ask(&ada, &format!("{place_of_links}?from=3"), &[]).json();
    assert_eq!((links(&from).len(), &from["links"][0]["part"]), (1, &json!(3)), "{from}");
    let mut streams = Vec::new();
    for link in links(&linked) {
        let href = link["href"].as_str().expect("a path");
        let part = server.ask(&ada, href, &[]);
        assert_eq!((part.code, part.status, &link["is_presigned"]), (0, 200, &json!(false)), "{part:?}");
        assert_eq!(part.header("content-type"), Some("application/vnd.apache.arrow.stream"));
        assert_eq!(part.header("content-length").map(str::to_owned), Some(link["bytes"].to_string()), "{link}");
        assert_eq!(u64::from(crc32fast::hash(&part.body)), link["crc32"].as_u64().expect("a number"));
        assert_eq!((server.ask(&bob, href, &[]).status, server.curl(href, &[]).status), (404, 401), "{href}");
        streams.push(part.body);
    }
    assert_eq!(values(&streams).len(), 1_000);
    for (path, status) in [(format!("{place_of_links}/4"), 404), (format!("{place_of_links}?from=x"), 400)] {
        assert_eq!(server.ask(&ada, &path, &[]).status, status, "{path}");
    }
    let plain = server.ask(&ada, "/v1/statements", &["-H", "Content-Type: application/sql", "-d", "SELECT 1 AS k"]);
    let of_plain = format!("/v1/statements/{}/links", plain.json()["id"].as_str().expect("an id"));
    assert_eq!(server.ask(&ada, &of_plain, &[]).json()["kind"], "links");
    let by_path =
        server.ask(&ada, "/v1/statements?links=true", &["-H", "Content-Type: application/sql", "-d", "SELECT 1"]);
    assert_eq!(by_path.json()["result"]["is_linked"], true, "{by_path:?}");
    let one_shot = [&JSON[..], &["--data-binary", r#"{"sql": "SELECT 1", "links": true}"#]].concat();
    assert_eq!(server.ask(&ada, "/v1/query", &one_shot).status, 400);
    // A server that is killed removes nothing. The cleaning spares rows for as long as a server would keep them.
    let files = || walk(&place.path("exchange/results"));
    let before = files();
    assert_eq!(before, FILES as usize + 1);
    server.signal("KILL");
    server.child.wait().expect("its end");
    let gc = |keep: &str| {
        let mut command = place.gust(&["exchange", "gc", "--older-than", "0s"]);
        check(&command.env("GUST_SERVER__KEEP_SECONDS", keep).output().expect("it starts"), 0, &[]);
        files()
    };
    assert_eq!(gc("3600"), before, "they are kept");
    wait_until("they had their time", || gc("1") == 0);
    // One that ends in order takes its rows along.
    let mut server = Served::start(&place, &["--on", "processes"]);
    assert_eq!(submit(&server, &ada, STATEMENTS[0].0)["state"], "SUCCEEDED");
    assert_eq!(files(), FILES as usize);
    server.signal("TERM");
    assert_eq!((server.child.wait().expect("its end").code(), files()), (Some(0), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn linked_rows_are_bounded() {
    let (place, [ada, _]) = place("exchange", "").await;
    std::fs::create_dir(place.path("exchange")).expect("made");
    let mut command = Served::command_of(&place, &["--on", "processes"]);
    command.env("GUST_SERVER__LINKS_BYTES_MAX", "4KiB");
    let server = Served::started(&place, command, &[]);
    let small = "SELECT 1 AS one";
    assert_eq!(submit(&server, &ada, small)["state"], "SUCCEEDED");
    for (by, sql) in
        [("functions", "SELECT k, name FROM 'data/'"), ("the server", "SELECT name, k FROM 'data/' ORDER BY k DESC")]
    {
        let told = submit(&server, &ada, sql);
        assert_eq!((&told["state"], &told["error"]["code"]), (&json!("FAILED"), &json!("53400")), "{by}: {told}");
        assert!(told["error"]["hint"].as_str().is_some_and(|hint| hint.contains("links_bytes_max")), "{told}");
        assert_ne!(told["report"]["fragments_adopted"], 0, "{by}: {told}");
        // A query that has failed takes no room.
        assert_eq!(submit(&server, &ada, small)["state"], "SUCCEEDED", "{by}");
    }
}

/// Counts the files of a folder and of those in it.
fn walk(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |path: std::path::PathBuf| if path.is_dir() { walk(&path) } else { 1 };
    entries.map(|entry| count(entry.expect("readable").path())).sum()
}
