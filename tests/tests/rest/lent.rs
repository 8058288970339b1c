//! Credentials that a catalog lends for one table.

use gust_tests::s3::shape::{Faults, Latency, Shape};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn lent_credentials_read_their_table_alone() {
    let lake = Lake::new(Rules::default()).await;
    let lending = |life: u64| Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(life), prefix: None };
    let sql = "SELECT sum(id) FROM lake.sales.orders WHERE name <> 'x'";
    let join = "SELECT count(*), min(a.id), max(b.id) FROM lake.sales.orders a JOIN lake.sales.customers b ON a.id + 1000 = b.id
         WHERE a.name <> b.name";
    for on in [Target::Local, Target::InProcess, Target::Processes] {
        let session = lake.without_own_keys(on, "");
        let error = failure(&session, sql).await;
        assert!(
            error.to_string().contains("forbid")
                || error.to_string().contains("denied")
                || error.to_string().contains("403"),
            "{error}"
        );
        session.close().await;
        lake.server.set(|rules| rules.lends = Some(lending(600)));
        let session = lake.without_own_keys(on, "");
        let (before, refused) = (lake.s3.lent().count(), lake.s3.lent().refused());
        lake.s3.take_requests();
        for (sql, expect) in [(sql, "44850"), (join, "300|0|1299")] {
            let (found, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{on:?}: {sql}: {error}"));
            assert_eq!(texts(&found), [expect], "{on:?}");
            if on != Target::Local {
                assert_remote(&report, sql);
            }
            let shown = format!("{report:?}");
            assert!(!shown.contains(SECRET_ACCESS_KEY) && !shown.contains("lent-session-token"), "{shown}");
        }
        let explained = rows(&session, &format!("EXPLAIN {join}")).await.join("\n");
        assert!(!explained.contains(SECRET_ACCESS_KEY) && !explained.contains("-lent-"), "{explained}");
        assert!(lake.s3.lent().count() > before, "keys were lent");
        assert_eq!(lake.s3.lent().refused(), refused, "no key was used for another table's files");
        let mut of_tables = lake.s3.requests();
        // The catalog itself reads metadata files, with keys of its own.
        of_tables.retain(|request| request.key.starts_with("lake/") && !request.key.ends_with(".metadata.json"));
        let is_lent = |request: &Request| request.identity.contains("-lent-");
        assert!(!of_tables.is_empty() && of_tables.iter().all(is_lent), "{on:?}: {of_tables:?}");
        // The grant of a table is nobody's to name.
        for url in ["s3://id@gust-test/lake/", "s3://a:b@gust-test/lake/x.parquet"] {
            let error = failure(&session, &format!("SELECT * FROM '{url}'")).await;
            assert!(error.message().contains('@'), "{error}");
        }
        lake.server.set(|rules| rules.lends = None);
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lent_credentials_are_renewed_before_their_end() {
    let lake = Lake::new(Rules::default()).await;
    let lending = Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(3), prefix: None };
    lake.server.set(|rules| rules.lends = Some(lending));
    for on in [Target::Local, Target::Processes] {
        let session = lake.without_own_keys(on, "");
        let sql = "SELECT sum(id) FROM lake.sales.orders WHERE name <> 'x'";
        let refused = lake.s3.lent().refused();
        // The table is described by the first statement, and read again once its keys have ended.
        run(&session, "PREPARE q AS SELECT sum(id) FROM lake.sales.orders WHERE name <> 'x'").await.expect("prepared");
        run(&session, sql).await.expect("rows");
        tokio::time::sleep(Duration::from_millis(3_200)).await;
        lake.server.take_asked();
        let (found, report) = run(&session, "EXECUTE q").await.unwrap_or_else(|error| panic!("{on:?}: {error}"));
        assert_eq!(texts(&found), ["44850"]);
        if on == Target::Processes {
            assert_remote(&report, sql);
        }
        let asked = lake.server.take_asked();
        assert!(asked.iter().any(|asked| asked.path.ends_with("/credentials") && asked.status == 200), "{asked:?}");
        assert_eq!(lake.s3.lent().refused(), refused, "no key was used after its end");
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tries_a_table_of_each_catalog() {
    let lake = Lake::new(Rules::default()).await;
    let found = async |keys: &str| {
        let session = lake.without_own_keys(Target::Local, keys);
        let findings = session.examine().await;
        session.close().await;
        let finding = findings.into_iter().find(|finding| finding.subject == "catalog lake").expect("a finding");
        finding.outcome.map_err(|error| error.message().to_owned())
    };
    let denied = found("").await.expect_err("the keys open nothing");
    assert!(denied.contains("catalog `lake`: cannot reach s3://gust-test/lake/"), "{denied}");
    let lending = Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(600), prefix: None };
    lake.server.set(|rules| rules.lends = Some(lending));
    let told = found("").await.expect("a healthy catalog");
    let expect = "3 namespaces at the top, dotted.name.t can be read, lends credentials for s3://gust-test/lake/n5/t5/";
    assert_eq!(told, expect);
    lake.server.set(|rules| rules.access = Access::Token("right".to_owned()));
    let refused = found("token = 'wrong'").await.expect_err("a wrong token");
    assert!(refused.contains("catalog lake does not accept the credentials (401)"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_a_clock_that_is_wrong() {
    let lake = Lake::new(Rules::default()).await;
    let found = async |keys: &str| {
        let session = lake.session(Target::Local, keys);
        let findings = session.examine().await;
        session.close().await;
        let finding = findings.into_iter().find(|finding| finding.subject == "catalog lake").expect("a finding");
        finding.outcome.map_err(|error| error.message().to_owned())
    };
    let (service, region) = ("glue".to_owned(), "eu-central-1".to_owned());
    let signed = Access::SigV4 { service, region, key_id: access::cloud_key(), secret: SECRET_ACCESS_KEY.to_owned() };
    let keys = "sigv4_name = 'glue'\nsigv4_region = 'eu-central-1'";
    for (rules, keys, refusal) in [
        (oauth2(Duration::from_secs(600)), OAUTH2, None),
        (
            Rules { access: signed, ..Rules::default() },
            keys,
            Some("does not accept the credentials (403): Signature expired"),
        ),
    ] {
        for (ahead, seconds) in [(3600, 3600), (-3600, 3600), (200, 0)] {
            lake.server.set(|current| *current = Rules { clock_ahead: ahead, ..rules.clone() });
            let told = found(keys).await;
            if seconds == 0 {
                assert!(told.is_ok(), "{told:?}");
                continue;
            }
            let told = told.expect_err("the clocks differ");
            // A request takes its time.
            let differ =
                [seconds - 1, seconds, seconds + 1].map(|s| format!("its clock and this machine's differ by {s} s"));
            assert!(differ.iter().any(|words| told.contains(words)), "{told}");
            assert_eq!(told.contains(refusal.unwrap_or("; ")), refusal.is_some(), "{told}");
        }
    }
}

/// Tables of other formats stand before the first of Iceberg, as in Glue.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_passes_by_tables_of_other_formats() {
    let lake = Lake::new(Rules::default()).await;
    let found = async || {
        let session = lake.session(Target::Local, "");
        let findings = session.examine().await;
        session.close().await;
        let finding = findings.into_iter().find(|finding| finding.subject == "catalog lake").expect("a finding");
        finding.outcome.map_err(|error| error.message().to_owned())
    };
    let body = r#"{"error": {"message": "Not an iceberg table", "type": "NoSuchIcebergTableException"}}"#;
    let hive = |part: &str| Fault { body: body.to_owned(), ..Fault::new(part, 404, 99) };
    lake.server.set(|rules| rules.faults = vec![hive("/dotted.name/tables/t")]);
    let told = found().await.expect("a table can be read");
    assert!(told.contains("3 namespaces at the top, sales.customers can be read"), "{told}");
    lake.server.set(|rules| rules.faults = vec![hive("/dotted.name/tables/t"), hive("/sales/tables/"), hive("/t%20t")]);
    let told = found().await.expect_err("no table is of Iceberg");
    assert!(told.contains("table dotted.name.t has another format than Iceberg"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_for_another_place_are_not_used() {
    let lake = Lake::new(Rules::default()).await;
    let prefix = Some("s3://gust-test/elsewhere/".to_owned());
    let lending = Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(600), prefix };
    lake.server.set(|rules| rules.lends = Some(lending));
    let session = lake.session(Target::Local, "");
    let error = failure(&session, "SELECT sum(id) FROM lake.sales.orders").await;
    assert!(
        error
            .message()
            .contains("its catalog lends credentials for s3://gust-test/elsewhere/, not for s3://gust-test/lake/"),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Data);
    session.close().await;
}

/// Latency of each request to the S3 server.
fn slow(ms: f64) -> Shape {
    let latency = Latency { least_ms: ms, longer_ms: Vec::new(), worst_ms: ms };
    let faults = Faults { slow_down: 0.0, internal_error: 0.0, reset: 0.0, reset_in_body: 0.0, truncated: 0.0 };
    Shape { seed: 1, scale: 1.0, pipe: None, latency: Some(latency), limits: None, faults }
}

/// A query takes longer than the keys of its table and the catalog's tokens live. Functions stand in line for most of it. Each has half of
/// the keys' life: enough to start and to read on a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_end_within_a_query_are_renewed_within_it() {
    const LIFE: Duration = Duration::from_millis(4_500);
    let lake = Lake::new(oauth2(Duration::from_secs(1))).await;
    let lending = Lending { keys: lake.s3.lent().clone(), life: LIFE, prefix: None };
    lake.server.set(|rules| rules.lends = Some(lending));
    // Each side of a join is read after the one before it.
    let joined = "SELECT count(*) FROM lake.sales.orders JOIN lake.sales.orders b USING (id)
         JOIN lake.sales.orders c USING (id) JOIN lake.sales.orders d USING (id)";
    let scanned = ["SELECT name FROM lake.sales.orders WHERE name <> 'x'"; 24].join(" UNION ALL ");
    let scanned = format!("SELECT count(*) FROM ({scanned})");
    for (on, latency_ms, sql, expect) in
        [(Target::Local, 1_200.0, joined, "300"), (Target::Processes, 300.0, scanned.as_str(), "7200")]
    {
        let session = lake.without_own_keys(on, OAUTH2);
        let (refused, tokens) = (lake.s3.lent().refused(), lake.server.tokens_given());
        lake.server.take_asked();
        lake.s3.set_shape(Some(slow(latency_ms)));
        let started = Instant::now();
        let (found, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{on:?}: {error}"));
        let took = started.elapsed();
        lake.s3.set_shape(None);
        assert_eq!(texts(&found), [expect], "{on:?}");
        if on == Target::Processes {
            assert_remote(&report, sql);
        }
        assert!(took > LIFE, "{on:?}: it took {took:?}, so that no key ended within it");
        assert_eq!(lake.s3.lent().refused(), refused, "{on:?}: no key was used after its end");
        let asked = lake.server.take_asked();
        let renewed = asked.iter().filter(|asked| asked.path.ends_with("/credentials") && asked.status == 200);
        assert!(renewed.count() >= 1, "{on:?}: {asked:?}");
        assert!(lake.server.tokens_given() > tokens + 1, "{on:?}: tokens were renewed: {asked:?}");
        session.close().await;
    }
}

/// The catalog stops lending while functions stand in line: the query ends with the catalog's reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_lends_no_more_ends_a_query_with_its_reason() {
    let lake = Lake::new(Rules::default()).await;
    let lending = Lending { keys: lake.s3.lent().clone(), life: Duration::from_secs(1), prefix: None };
    lake.server.set(|rules| rules.lends = Some(lending));
    let session = lake.without_own_keys(Target::Processes, "");
    let scanned = ["SELECT name FROM lake.sales.orders WHERE name <> 'x'"; 10].join(" UNION ALL ");
    lake.server.set(|rules| rules.faults = vec![Fault::new("/credentials", 403, 99)]);
    lake.s3.set_shape(Some(slow(150.0)));
    let error = failure(&session, &format!("SELECT count(*) FROM ({scanned})")).await;
    lake.s3.set_shape(None);
    assert!(
        error.message().contains("forbids to read credentials of table sales.orders (403): told to fail"),
        "{error}"
    );
    assert_eq!(error.sqlstate(), "42501", "{error}");
    assert!(lake.server.fired().get(&403).is_some_and(|fired| *fired > 0));
    session.close().await;
}

/// The store itself keeps keys to their table, so that tests of clients are worth something.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_refuses_keys_of_another_table_and_those_that_have_ended() {
    let lake = Lake::new(Rules::default()).await;
    let get = async |key_id: String, object: &str| {
        let mut access = cloud::access(&lake.s3, "other");
        access.options.insert("aws_access_key_id".to_owned(), key_id);
        access.options.insert("aws_session_token".to_owned(), "lent-session-token".to_owned());
        let client = fragment_fn::connect(&access, None).expect("a client");
        client.store.get(&Key::from(object)).await.map(drop).map_err(|error| error.to_string())
    };
    let lend = |until| lake.s3.lent().lend(ACCESS_KEY_ID, &lake.s3.url("lake/n0/t0"), until);
    let (own, other) = ("lake/n0/t0/data/0.parquet", "lake/n1/t1/data/0.parquet");
    let refused = lake.s3.lent().refused();
    get(lend(far()), own).await.expect("its own table");
    for (key_id, object, code) in
        [(lend(far()), other, "AccessDenied"), (lend(std::time::SystemTime::now()), own, "ExpiredToken")]
    {
        let error = get(key_id, object).await.expect_err(code);
        assert!(error.contains(&format!("<Code>{code}</Code>")), "{error}");
        assert!(!error.contains("lent-session-token"), "{error}");
    }
    assert_eq!(lake.s3.lent().refused(), refused + 2);
}
