//! Tables of the schema `gust`, as their users see them.

use std::io::Read;
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::{Value, json};

use super::Served;
use super::identity::with_users;
use crate::bad_input::{ENDLESS, Place, wait_until};

#[test]
fn each_user_sees_what_is_his() {
    let configuration = "on = 'local'\nfunctions_max = 3\n[server]\ntokens = 'tokens.toml'\n";
    let (place, [ada, bob]) = with_users(configuration, [&["ada"], &["bob"]]);
    std::fs::write(place.path("setup.sql"), "CREATE VIEW all_running AS SELECT * FROM gust.running").expect("written");
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    let rows = |secret: &str, sql: &str| server.sql_of(secret, sql).json();
    let endless = ENDLESS.replace('\n', " ");
    let submit = ["-H", "Content-Type: application/sql", "--data-binary", &endless];
    let hers = server.ask(&ada, "/v1/statements?wait_seconds=0", &submit).json();
    let others = "SELECT id, user_name, statement, state, memory_bytes_foreseen, place, seconds > 0 AS has_begun, attempts FROM gust.running WHERE statement NOT LIKE '%gust.running%'";
    wait_until("it runs", || rows(&ada, others)[0]["place"] == "local");
    let told = server.ask(&ada, hers["href"].as_str().expect("a place"), &[]).json();
    let seen = json!([{
        "id": told["query_id"], "user_name": "ada", "statement": endless, "state": "running", "memory_bytes_foreseen": null, "place": "local", "has_begun": true, "attempts": 0
    }]);
    assert_eq!(rows(&ada, others), seen);
    assert_eq!(rows(&bob, others), json!([]));
    assert_eq!(rows(&bob, "SELECT user_name FROM gust.running"), json!([{ "user_name": "bob" }]), "his own question");
    assert_eq!(rows(&bob, "SELECT * FROM all_running"), json!([]), "a view of the set-up shows nobody's");
    assert_eq!(server.ask(&ada, hers["href"].as_str().expect("a place"), &["-X", "DELETE"]).status, 200);
    wait_until("it is gone", || rows(&ada, others) == json!([]));

    let functions = rows(&bob, "SELECT platform, functions_max, is_healthy, lanes FROM gust.functions");
    let expect = json!([{ "platform": "this machine", "functions_max": 3, "is_healthy": true, "lanes": 1 }]);
    assert_eq!(functions, expect);
    let settings = "SET gust.max_cost = '0.25'; SELECT name, value, may_change FROM gust.settings \
                    WHERE name IN ('gust.max_cost', 'datafusion.execution.batch_size', 'datafusion.catalog.default_schema') ORDER BY name";
    let seen = json!([
        { "name": "datafusion.catalog.default_schema", "value": "public", "may_change": false },
        { "name": "datafusion.execution.batch_size", "value": "8192", "may_change": true },
        { "name": "gust.max_cost", "value": "$0.2500", "may_change": true },
    ]);
    assert_eq!(rows(&ada, settings), seen);
    assert_eq!(rows(&bob, "SELECT value FROM gust.settings WHERE name = 'gust.max_cost'"), json!([{ "value": null }]));
}

/// A store that answers nothing holds up those who read it, and a client that reads nothing holds up its EXPLAIN, whose text is 40 MB long.
#[test]
fn statements_without_a_plan_are_told_to_run_once_they_do() {
    let store = TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = Place::new(&format!(
        "on = 'local'\n[s3]\nendpoint = 'http://{}'\nallow_http = true\npath_style = true\nregion = 'r'\naccess_key_id = 'k'\n\
         secret_access_key = 's'\n[server]\nreach = ['s3://b/']\n",
        store.local_addr().expect("an address")
    ));
    let server = Served::start(&place, &[]);
    let states = || server.rows("SELECT state FROM gust.running WHERE statement NOT LIKE '%gust.running%'");
    let of_sql = |sql| ["-H", "Content-Type: application/sql", "--data-binary", sql];
    for (sql, state) in [
        ("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://b/t/'", "running"),
        ("EXPLAIN SELECT * FROM 's3://b/t/'", "planning"),
    ] {
        let told = server.curl("/v1/statements?wait_seconds=0", &of_sql(sql)).json();
        wait_until(sql, || states() == json!([{ "state": state }]));
        let gone = server.curl(told["href"].as_str().expect("a place"), &["-X", "DELETE"]).json();
        assert_eq!(gone["state"], "CANCELLED", "{sql}: {gone}");
    }
    let mut reading = server.command("/v1/query", &of_sql("EXPLAIN SELECT repeat('x', 40000000) AS x"));
    let mut reading = reading.stdout(Stdio::piped()).spawn().expect("curl");
    let mut rows = reading.stdout.take().expect("its rows");
    rows.read_exact(&mut [0; 16]).expect("a row");
    assert_eq!(states(), json!([{ "state": "running" }]), "its text is there");
    reading.kill().expect("killed");
    reading.wait().expect("its end");
    wait_until("it is gone", || states() == Value::Array(Vec::new()));
}
