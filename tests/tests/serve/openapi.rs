//! The API as it describes itself: its methods, and what a client that is made from the description sees.

use std::path::Path;

use gust_tests::python::{OPENAPI, Run, run_with};

use super::Served;
use super::identity::with_users;

const CONFIGURATION: &str = "on = 'local'\ntimeout_seconds = 5\n[server]\ntokens = 'tokens.toml'\n";

/// Examples for each operation, and the beginning of their chance.
const EXAMPLES: &str = "15";
const SEED: &str = "7";

#[test]
fn each_path_has_the_methods_that_are_described() {
    let (place, [ada]) = with_users(CONFIGURATION, [&["ada"]]);
    let server = Served::start(&place, &[]);
    let api = server.curl("/openapi.json", &[]);
    assert_eq!((api.status, api.header("content-type")), (200, Some("application/json")), "everybody may read it");
    let api = api.json();
    assert_eq!(api["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
    for (path, item) in api["paths"].as_object().expect("paths") {
        let place = path.replace("{id}", "nothing").replace("{part}", "0");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = server.ask(&ada, &place, &["-X", method]);
            let is_described = item.get(method.to_lowercase()).is_some();
            assert_eq!(answer.status != 405, is_described, "{method} {path}: {answer:?}");
            if answer.status == 405 {
                let allowed = answer.header("allow").expect("what is allowed");
                assert!(allowed.split(',').all(|name| name == "HEAD" || item.get(name.to_lowercase()).is_some()));
            }
        }
        let is_open = item["get"]["security"][0].as_object().is_some_and(serde_json::Map::is_empty);
        assert_eq!(server.curl(&place, &[]).status != 401, is_open, "{path}");
    }
}

#[test]
fn a_client_of_the_description_finds_no_fault() {
    let (place, [ada]) = with_users(CONFIGURATION, [&["ada"]]);
    let server = Served::start(&place, &[]);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let arguments = [server.url.as_str(), &ada, EXAMPLES, SEED];
    match run_with(cache, OPENAPI, "openapi_client.py", &arguments).expect("no fault") {
        Run::Done { stdout } => assert!(stdout.contains("Tested: 13"), "{stdout}"),
        Run::Skipped { reason } => eprintln!("skipped: {reason}"),
    }
    let described = server.curl("/openapi.json", &[]).json();
    assert_eq!(described["paths"].as_object().map(serde_json::Map::len), Some(12));
    assert_eq!(server.sql_of(&ada, "SELECT 1 AS one").status, 200);
}
