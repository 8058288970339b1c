//! Catalogs that come, go and move while a server runs: SIGHUP reads them anew.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
use gust_catalog::{Catalog, DataFile, Field, Schema, Type};
use gust_engine::config::S3Config;
use gust_engine::storage::Stores;
use gust_tests::parquet_files;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use super::postgres::{POSTGRES, has_psql};
use super::restart::JSON;
use super::{Served, pause};
use crate::bad_input::{ENDLESS, Place, wait_until};

/// Words of a reload.
const READ: &str = "the catalogs were read anew";
const SAME: &str = "no catalog has changed";
const KEPT: &str = "the earlier catalogs hold";

/// Makes a catalog in a folder of its own, with a table `demo.t` of so many rows, whose column has the name `of_FOLDER`.
async fn lake(place: &Place, folder: &str, name: &str, rows: i64) {
    let tables = place.path(folder).join("tables");
    std::fs::create_dir_all(&tables).expect("made");
    let (of_folder, id) = (format!("of_{folder}"), HashMap::from([("PARQUET:field_id".to_owned(), "1".to_owned())]));
    let field = ArrowField::new(&of_folder, DataType::Int64, true).with_metadata(id);
    let column = Arc::new(Int64Array::from_iter_values(0..rows));
    let batch = RecordBatch::try_new(Arc::new(ArrowSchema::new(vec![field])), vec![column]).expect("rows");
    let bytes = parquet_files::file(&[batch], WriterProperties::builder().build());
    let file = tables.join("a.parquet");
    std::fs::write(&file, &bytes).expect("written");
    let stores = Stores::new(S3Config::default()).for_catalog();
    let (database, warehouse) = (place.path(folder).join("catalog.db"), format!("file://{}", tables.display()));
    let catalog = Catalog::create_sqlite(&database, name, &warehouse, stores).await.expect("a catalog");
    let id = Field { id: 1, name: of_folder, required: false, ty: Type::Long, initial_default: None };
    let table = catalog.create_table("demo", "t", &Schema { fields: vec![id] }, &[], &[]).await.expect("a table");
    let path = format!("file://{}", file.display());
    let data = DataFile { path, size_bytes: bytes.len() as u64, record_count: rows as u64, ..DataFile::default() };
    catalog.append(&table, &[data]).await.expect("appended");
}

/// Returns a configuration with catalogs by name, each in a folder.
fn configuration(place: &Place, catalogs: &[(&str, &str)]) -> String {
    let catalogs = catalogs.iter().map(|(name, folder)| {
        let folder = place.path(folder).display().to_string();
        format!(
            "[catalogs.{name}]\ntype = 'sqlite'\npath = '{folder}/catalog.db'\nwarehouse = 'file://{folder}/tables'\n"
        )
    });
    format!("on = 'local'\n{}", catalogs.collect::<String>())
}

/// Writes another configuration, and waits until the server has said something new about it.
#[track_caller]
fn reloaded(server: &Served<'_>, configuration: &str, words: &str) {
    let said = || server.said().matches(words).count();
    let before = said();
    std::fs::write(server.place.path("gust.toml"), configuration).expect("written");
    server.signal("HUP");
    wait_until(words, || said() == before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogs_are_read_anew() {
    let place = Place::new("");
    for (folder, name, rows) in [("one", "lake", 3), ("two", "lake", 5), ("three", "extra", 7)] {
        lake(&place, folder, name, rows).await;
    }
    let first = configuration(&place, &[("lake", "one")]);
    std::fs::write(place.path("gust.toml"), &first).expect("written");
    std::fs::write(place.path("setup.sql"), "CREATE VIEW v AS SELECT count(*) AS n FROM lake.demo.t").expect("written");
    let server = Served::start(&place, &[&POSTGRES[..], &["--setup", "setup.sql"]].concat());
    let count = |from: &str| server.rows(&format!("SELECT count(*) AS n FROM {from}"))[0]["n"].clone();
    let (viewed, file) = ("SELECT n FROM v", format!("'{}'", place.path("one/tables/a.parquet").display()));
    let refused = |from: &str, status: u16| {
        let answer = server.query("application/json", &format!("SELECT count(*) AS n FROM {from}"));
        assert_eq!(answer.status, status, "{answer:?}");
        answer.text()
    };
    assert_eq!((count("lake.demo.t"), server.rows(viewed)), (json!(3), json!([{ "n": 3 }])));
    assert_eq!(count(&file), json!(3), "the warehouse may be read");
    assert!(refused("extra.demo.t", 400).contains("extra"));

    // A statement under way goes on with what it began with.
    let body = json!({ "sql": ENDLESS, "wait_seconds": 0 }).to_string();
    let endless = server.curl("/v1/statements", &[&JSON[..], &["--data-binary", &body]].concat()).json();
    let endless = endless["href"].as_str().expect("a place").to_owned();
    let state = || server.curl(&endless, &[]).json()["state"].clone();
    wait_until("it runs", || state() == "RUNNING");

    // Nothing has changed, and nothing is done.
    reloaded(&server, &first, SAME);
    // One is added, and the warehouse of the other has moved.
    let moved = configuration(&place, &[("extra", "three"), ("lake", "two")]);
    let columns = || {
        let output = server.psql(&["-d", "lake", "-c", "\\d demo.t"]).output().expect("psql");
        String::from_utf8(output.stdout).expect("text")
    };
    if has_psql() {
        assert!(columns().contains("of_one|bigint"), "{}", columns());
        // A session keeps the catalogs that it began with.
        std::fs::write(place.path("gust.toml"), &moved).expect("written");
        let hang_up = format!("\\! kill -HUP {} && sleep 2", server.child.id());
        let mut psql =
            server.psql(&["-c", viewed, "-c", &hang_up, "-c", viewed, "-c", "SELECT count(*) FROM lake.demo.t"]);
        let seen = psql.output().expect("psql");
        assert_eq!(String::from_utf8_lossy(&seen.stdout), "3\n3\n3\n", "{seen:?}");
        server.has_said(READ);
        // Columns that were kept are another catalog's.
        assert!(columns().contains("of_two|bigint"), "{}", columns());
    } else {
        reloaded(&server, &moved, READ);
    }
    assert_eq!((count("lake.demo.t"), server.rows(viewed)), (json!(5), json!([{ "n": 5 }])));
    assert_eq!(count("extra.demo.t"), json!(7));
    assert!(!refused(&file, 403).is_empty(), "the earlier warehouse is out of reach");
    assert_eq!(state(), "RUNNING");

    // Bad files change nothing: one that is no TOML, an unknown type, and one without a catalog that the set-up needs.
    let unknown = moved.replacen("'sqlite'", "'sqlight'", 1);
    let gone = configuration(&place, &[("extra", "three")]);
    for bad in ["on = [", unknown.as_str(), gone.as_str()] {
        reloaded(&server, bad, KEPT);
        assert_eq!((count("lake.demo.t"), count("extra.demo.t")), (json!(5), json!(7)), "{bad}");
    }
    assert!(server.said().contains("catalogs.extra"), "the log does not tell the reason: {}", server.said());

    // One is removed. Its files are out of reach, too.
    reloaded(&server, &configuration(&place, &[("lake", "two")]), READ);
    assert!(refused("extra.demo.t", 400).contains("extra"));
    refused(&format!("'{}'", place.path("three/tables/a.parquet").display()), 403);
    let asked = server
        .curl("/v1/query", &[&JSON[..], &["--data-binary", r#"{"sql": "SELECT 1", "catalog": "extra"}"#]].concat());
    assert!(asked.status == 400 && asked.text().contains("no catalog `extra`"), "{asked:?}");
    assert_eq!(server.rows(viewed), json!([{ "n": 5 }]));
    assert_eq!(state(), "RUNNING");
    assert_eq!(server.curl(&endless, &["-X", "DELETE"]).json()["state"], "CANCELLED");
    server.is_well();
}

/// Statements that wait for their turn during a reload have the catalogs of their request, as their journals say.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_keeps_its_catalogs() {
    let place = Place::new("");
    for (folder, rows) in [("one", 3), ("two", 5)] {
        lake(&place, folder, "lake", rows).await;
    }
    let of = |folder: &str| format!("{}[server]\nqueries_max = 1\n", configuration(&place, &[("lake", folder)]));
    std::fs::write(place.path("gust.toml"), of("one")).expect("written");
    let server = Served::start(&place, &["--catalog", "lake"]);
    let submit = |sql: &str| {
        let body = json!({ "sql": sql, "wait_seconds": 0 }).to_string();
        let told = server.curl("/v1/statements", &[&JSON[..], &["--data-binary", &body]].concat()).json();
        told["href"].as_str().expect("a place").to_owned()
    };
    let state = |href: &str| server.curl(href, &[]).json()["state"].clone();
    let endless = submit(ENDLESS);
    wait_until("it runs", || state(&endless) == "RUNNING");
    let count = "SELECT count(*) AS n FROM demo.t";
    let before = submit(count);
    let flags = ["-H", "Content-Type: application/sql", "--data-binary", count];
    let asking = server.command("/v1/query", &flags).stdout(Stdio::piped()).spawn().expect("curl");
    wait_until("both wait", || server.metric("gust_queries_waiting") == 2.0);
    reloaded(&server, &of("two"), READ);
    let after = submit(count);
    server.curl(&endless, &["-X", "DELETE"]);
    let asked = asking.wait_with_output().expect("its end").stdout;
    let asked = String::from_utf8_lossy(&asked).replace(' ', "");
    assert!(asked.contains("\"n\":3"), "{asked}");
    for (href, rows) in [(before, 3), (after, 5)] {
        wait_until("it has ended", || state(&href) == "SUCCEEDED");
        assert_eq!(server.curl(&format!("{href}/result"), &[]).json(), json!([{ "n": rows }]));
    }
}

/// Signals that come faster than a reload leave what the last of them has read. A server that ends meanwhile ends in time.
#[tokio::test(flavor = "multi_thread")]
async fn many_signals_leave_the_last_catalogs() {
    let place = Place::new("");
    for (folder, rows) in [("one", 3), ("two", 5)] {
        lake(&place, folder, "lake", rows).await;
    }
    let of = |folder: &str| configuration(&place, &[("lake", folder)]);
    std::fs::write(place.path("gust.toml"), of("one")).expect("written");
    let mut server = Served::start(&place, &["--catalog", "lake"]);
    for folder in ["two", "one"].iter().cycle().take(9) {
        std::fs::write(place.path("gust.toml"), of(folder)).expect("written");
        server.signal("HUP");
        pause(std::time::Duration::from_millis(30));
    }
    // Those who ask meanwhile see either of them.
    wait_until("the last catalogs are there", || {
        server.rows("SELECT count(*) AS n FROM demo.t") == json!([{ "n": 5 }])
    });
    server.signal("HUP");
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0));
}
