//! Listings that a store is asked for, and messages where a store does not answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gust_engine::config::Secret;
use gust_tests::parquet_files::{batch, file};
use gust_tests::s3::shape::{Faults, Latency};
use gust_tests::s3::{Operation, Request, Shape};
use parquet::file::properties::WriterProperties;

use super::*;
use crate::ahead::slow;

/// Returns each listing's prefix, relative to the table, with the number of its requests.
fn listed(server: &S3Server) -> BTreeMap<String, usize> {
    let mut listed = BTreeMap::new();
    for request in server.take_requests() {
        if request.operation == Operation::List {
            *listed.entry(request.key.trim_start_matches("t/").to_owned()).or_default() += 1;
        }
    }
    listed
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_lists_only_what_can_match() {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    let bytes = ids([1]).bytes();
    for (year, month, day) in (2022..2025).flat_map(|y| (1..4).flat_map(move |m| (1..3).map(move |d| (y, m, d)))) {
        let key = Key::parse(format!("t/year={year}/month={month:02}/day={day}/a.parquet")).expect("a key");
        store.put(&key, bytes.clone().into()).await.expect("put");
    }
    let session = Session::new(in_s3(&server, Target::Local)).expect("a session");
    let create = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT, year INT, month INT, day INT) STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{}'",
        server.url("t/")
    );
    run(&session, &create).await.expect("setup");
    assert_eq!(listed(&server).len(), 0, "declared columns need no listing");
    for (filter, rows, expect) in [
        (
            "year = 2023 AND month = 2 AND day = 1",
            1,
            &["", "year=2023/", "year=2023/month=02/", "year=2023/month=02/day=1/"][..],
        ),
        ("year = 2023 AND month >= 2", 4, &["", "year=2023/", "year=2023/month=02/", "year=2023/month=03/"]),
        ("year < 2023", 6, &["", "year=2022/"]),
        (
            "(year = 2022 AND month = 1) OR (year = 2024 AND month = 3)",
            4,
            &["", "year=2022/", "year=2024/", "year=2022/month=01/", "year=2024/month=03/"],
        ),
        ("year = 1999", 0, &[""]),
        ("id = 1", 18, &[""]),
    ] {
        let (batches, _) =
            run(&session, &format!("SELECT count(id) FROM t WHERE ({filter}) AND id > 0")).await.expect("rows");
        assert_eq!(lines(&batches), [rows.to_string()], "{filter}");
        let expect: BTreeMap<String, usize> = expect.iter().map(|prefix| ((*prefix).to_owned(), 1)).collect();
        assert_eq!(listed(&server), expect, "{filter}");
    }
    // A pattern is listed from its literal folders on, once for its columns and its rows.
    let glob =
        format!("SELECT count(id) FROM '{}' WHERE id > 0", server.url("t/year=2024/month=0[12]/day=1/*.parquet"));
    let (batches, _) = run(&session, &glob).await.expect("rows");
    assert_eq!(lines(&batches), ["2"]);
    let seen = listed(&server);
    let expect = [
        "year=2024/",
        "year=2024/month=01/",
        "year=2024/month=02/",
        "year=2024/month=01/day=1/",
        "year=2024/month=02/day=1/",
    ];
    assert_eq!(seen, expect.iter().map(|prefix| ((*prefix).to_owned(), 1)).collect(), "a pattern");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_lists_a_table_once_and_the_next_one_lists_it_again() {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    let once = BTreeMap::from([(String::new(), 1)]);
    for on in [Target::Local, Target::InProcess, Target::Auto] {
        for name in ["a", "b"] {
            let key = Key::from(format!("t/{name}.parquet"));
            store.put(&key, ids([1, 2]).bytes().into()).await.expect("put");
        }
        let session = Session::new(in_s3(&server, on)).expect("a session");
        let url = server.url("t/");
        let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{url}'");
        run(&session, &format!("{create}; PREPARE p AS SELECT count(id) FROM t WHERE id > 0")).await.expect("setup");
        assert_eq!(listed(&server), once, "{on:?}");
        let path = format!("'{url}'");
        for sql in [
            "SELECT count(x.id) FROM t AS x, t AS y, t AS z WHERE x.id = y.id AND y.id = z.id AND x.id > 0",
            "SELECT count(id) FROM (SELECT id FROM $P WHERE id > 1 UNION ALL SELECT id FROM $P)",
            "EXPLAIN COST SELECT sum(id) FROM t WHERE id > 0",
            "EXPLAIN COST SELECT sum(id) FROM $P WHERE id > 0",
            "EXECUTE p",
        ] {
            run(&session, &sql.replace("$P", &path)).await.expect(sql);
            assert_eq!(listed(&server), once, "{on:?}: {sql}");
        }
        store.put(&Key::from("t/c.parquet"), ids([3]).bytes().into()).await.expect("put");
        for sql in ["EXECUTE p".to_owned(), format!("SELECT count(id) FROM {path} WHERE id > 0")] {
            let (batches, _) = run(&session, &sql).await.expect("rows");
            assert_eq!(lines(&batches), ["5"], "{on:?}: {sql}");
        }
        store.delete(&Key::from("t/c.parquet")).await.expect("deleted");
        session.close().await;
        server.take_requests();
    }
}

/// A query on the coordinator is planned by earlier listings, and its rows are those of its own one.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_have_changed_since_an_earlier_statement_are_seen() {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    for on in [Target::Local, Target::InProcess] {
        let session = Session::new(in_s3(&server, on)).expect("a session");
        let put = async |name: &str, id: i64| {
            store.put(&Key::from(format!("t/{name}")), ids([id]).bytes().into()).await.expect("put");
        };
        put("a.parquet", 1).await;
        put("b.parquet", 2).await;
        let create = format!("CREATE EXTERNAL TABLE t (id BIGINT) STORED AS PARQUET LOCATION '{}'", server.url("t/"));
        run(&session, &create).await.expect("made");
        let check = async |what: &str, expect: &[&str], begins_anew: bool| {
            server.take_requests();
            let (batches, report) = run(&session, "SELECT sum(id), count(*) FROM t WHERE id > 0").await.expect("rows");
            assert_eq!(lines(&batches), expect, "{on:?}: {what}");
            let begins_anew = begins_anew && on == Target::Local;
            assert_eq!(report.restarted.is_some(), begins_anew, "{on:?}: {what}: {:?}", report.restarted);
            if !begins_anew && on == Target::Local {
                assert_eq!(listed(&server), BTreeMap::from([(String::new(), 1)]), "{what}");
            }
        };
        check("the first one", &["3|2"], false).await;
        check("nothing has changed", &["3|2"], false).await;
        put("c.parquet", 10).await;
        check("one more", &["13|3"], true).await;
        check("it waits after one that was misled", &["13|3"], false).await;
        put("b.parquet", 3).await;
        check("another one of that name", &["14|3"], true).await;
        check("nothing has changed again", &["14|3"], false).await;
        store.delete(&Key::from("t/a.parquet")).await.expect("deleted");
        check("one is gone", &["13|2"], true).await;
        put("d.parquet", 20).await;
        check("it waits, so that a change costs nothing", &["33|3"], false).await;
        for name in ["t/b.parquet", "t/c.parquet", "t/d.parquet"] {
            store.delete(&Key::from(name)).await.expect("deleted");
        }
        let error = run(&session, "SELECT sum(id) FROM t").await.expect_err("no file").to_string();
        assert!(error.contains("there is no such file"), "{error}");
        session.close().await;
    }
}

/// A file that is written anew while a statement reads it, with as many bytes: no row of it stands beside one of the file before.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_anew_meanwhile_is_refused() {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    let put = async |version: i64| {
        let group = |group: i64| {
            let values = (0..20_000).map(|row| group * 20_000 + row + version);
            batch(vec![("v", Arc::new(Int64Array::from_iter_values(values)) as ArrayRef)])
        };
        let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
        let bytes = file(&(0..10).map(group).collect::<Vec<_>>(), properties);
        store.put(&Key::from("t/a.parquet"), bytes.into()).await.expect("put");
    };
    for on in [Target::Local, Target::InProcess] {
        server.set_shape(None);
        put(1).await;
        // Its row groups are read one after the other.
        let config = Config { functions_max: 1, read_ahead_requests_max: 0, ..in_s3(&server, on) };
        let session = Session::new(config).expect("a session");
        let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", server.url("t/"));
        run(&session, &format!("{create}; SET datafusion.execution.target_partitions = 1")).await.expect("setup");
        slow(&server, 60.0, Faults::default());
        server.take_requests();
        // Two of its ten row groups have been read by then.
        let is_row_group = |it: &&Request| it.operation == Operation::Get && it.bytes.end - it.bytes.start > 100_000;
        let anew = async {
            let read = || server.requests().iter().filter(is_row_group).count();
            for _ in 0..2_000 {
                if read() >= 2 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(read() >= 2, "{on:?}: it is read");
            put(2).await;
        };
        let (answer, ()) = tokio::join!(run(&session, "SELECT sum(v) FROM t"), anew);
        let error = answer.expect_err("its file is another one now").to_string();
        assert!(error.contains("t/a.parquet"), "{on:?}: {error}");
        let requests = server.take_requests();
        assert!(requests.iter().any(|request| request.refused == Some(412)), "{on:?}: {requests:?}");
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_tables_are_made_in_the_time_of_three() {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    let session = Session::new(in_s3(&server, Target::Local)).expect("a session");
    let create =
        |name: &str| format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{}/'", server.url(name));
    let names: Vec<String> = (0..8).map(|table| format!("t{table}")).collect();
    for name in names.iter().map(String::as_str).chain(["alone"]) {
        store.put(&Key::from(format!("{name}/a.parquet")), ids([1]).bytes().into()).await.expect("put");
    }
    // It is far above what a busy machine takes for the rest.
    let latency = Latency { least_ms: 500.0, longer_ms: Vec::new(), worst_ms: 500.0 };
    let shape =
        Shape { seed: 1, scale: 1.0, pipe: None, latency: Some(latency), limits: None, faults: Faults::default() };
    server.set_shape(Some(shape));
    let started = Instant::now();
    session.set_up(&create("alone")).await.expect("made");
    let alone = started.elapsed();
    let started = Instant::now();
    session.set_up(&names.iter().map(|name| create(name)).collect::<Vec<_>>().join(";")).await.expect("made");
    let together = started.elapsed();
    server.set_shape(None);
    assert!(together < 3 * alone, "one takes {alone:?}, eight take {together:?}");
    let (batches, _) = run(&session, "SELECT sum(x.id + y.id) FROM t0 AS x, t7 AS y").await.expect("rows");
    assert_eq!(lines(&batches), ["2"]);
    // The first error is told, whichever came first.
    let error = session.set_up(&[create("none"), create("nothing")].join(";")).await.expect_err("no files").to_string();
    assert!(error.contains("/none/`"), "{error}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_that_cannot_be_opened_says_why() {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    store.put(&Key::from("t/a.parquet"), ids([1]).bytes().into()).await.expect("put");
    store.put(&Key::from("t/b.parquet"), "no Parquet at all".into()).await.expect("put");
    let folder = TempDir::new().expect("a temporary folder");
    std::fs::write(folder.path().join("e.json"), "{\"a\":1}\n").expect("written");
    let local = |name: &str| format!("{}/{name}", folder.path().display());
    let mut wrong = in_s3(&server, Target::Local);
    wrong.s3.secret_access_key = Some(Secret::new("wrong"));
    for (config, sql, expect) in [
        (
            in_s3(&server, Target::Local),
            format!("SELECT * FROM '{}'", server.url("u/")),
            &["there is no such file"][..],
        ),
        (
            in_s3(&server, Target::Local),
            "SELECT * FROM 's3://no-such-bucket/t/'".to_owned(),
            &["`s3://no-such-bucket/t/`", "NoSuchBucket", "hint: there is no such bucket"],
        ),
        (
            wrong.clone(),
            format!("SELECT * FROM '{}'", server.url("t/")),
            &["SignatureDoesNotMatch", "hint: the store does not take these keys"],
        ),
        (wrong, format!("SELECT * FROM '{}'", server.url("t/a.parquet")), &["`s3://gust-test/t/a.parquet`", "hint: "]),
        (
            in_s3(&server, Target::Local),
            format!("SELECT * FROM '{}'", server.url("t/")),
            &["t/b.parquet`", "not Parquet; write it again"],
        ),
        (on_disk(Target::Local), "SELECT * FROM 'ftp://x/t/'".to_owned(), &["scheme `ftp` is not supported"]),
        (
            on_disk(Target::Local),
            format!("CREATE EXTERNAL TABLE e STORED AS NDJSON LOCATION '{}'", local("e.json")),
            &["factory for NDJSON", "ARROW, CSV, ICEBERG, JSON, PARQUET", "STORED AS JSON"],
        ),
        (
            on_disk(Target::Local),
            format!("CREATE EXTERNAL TABLE e STORED AS ORC LOCATION '{}'", local("e.json")),
            &["factory for ORC", "PARQUET"],
        ),
        (
            on_disk(Target::Local),
            format!("CREATE EXTERNAL TABLE e STORED AS AVRO LOCATION '{}'", local("e.json")),
            &["factory for AVRO"],
        ),
        (
            on_disk(Target::Local),
            format!("CREATE EXTERNAL TABLE e STORED AS TEXTFILE LOCATION '{}'", local("e.json")),
            &["factory for TEXTFILE", "STORED AS CSV"],
        ),
        (
            on_disk(Target::Local),
            format!(
                "CREATE EXTERNAL TABLE e STORED AS CSV LOCATION '{}' OPTIONS ('format.has_haeder' 'true')",
                local("e.json")
            ),
            &["has_haeder"],
        ),
        (
            on_disk(Target::Local),
            format!("CREATE EXTERNAL TABLE e STORED AS PARQUET LOCATION '{}'", local("e.json")),
            &["e.json`", "not Parquet"],
        ),
        (
            on_disk(Target::Local),
            format!("CREATE EXTERNAL TABLE e STORED AS PARQUET LOCATION '{}'", local("none/")),
            &["none/`: there is no such file"],
        ),
    ] {
        let session = Session::new(config).expect("a session");
        let error = run(&session, &sql).await.expect_err(&sql).to_string();
        for part in expect {
            assert!(error.contains(part), "{sql}: `{part}` is not in: {error}");
        }
        assert!(
            expect[0] == "there is no such file" || !error.contains("check the endpoint, the region and"),
            "{sql}: {error}"
        );
        session.close().await;
    }
}
