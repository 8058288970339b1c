//! Requests to a catalog: tokens, signatures, refusals, pauses.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed_before_their_end_and_after_a_refusal() {
    let lake = Lake::new(oauth2(Duration::from_secs(600))).await;
    let session = lake.session(Target::Local, OAUTH2);
    let sql = "SELECT count(*) FROM lake.sales.orders";
    rows(&session, sql).await;
    rows(&session, sql).await;
    assert_eq!(lake.server.tokens_given(), 1);
    lake.server.expire_tokens();
    lake.server.take_asked();
    rows(&session, sql).await;
    let statuses: Vec<u16> = lake.server.take_asked().iter().map(|asked| asked.status).collect();
    assert_eq!((lake.server.tokens_given(), statuses), (2, vec![419, 200, 304]), "419, a token, and once more");
    // A token is renewed at three quarters of its life, before anybody refuses it.
    lake.server.set(|rules| rules.access = oauth2(Duration::from_secs(3)).access);
    lake.server.expire_tokens();
    rows(&session, sql).await;
    lake.server.take_asked();
    tokio::time::sleep(Duration::from_millis(2_400)).await;
    rows(&session, sql).await;
    assert!(lake.server.take_asked().iter().all(|asked| asked.status != 419), "it was renewed in time");
    // A catalog that refuses the new token, too, is asked no third time.
    lake.server.set(|rules| rules.faults = vec![Fault::new("/tables/orders", 401, 9)]);
    let error = failure(&session, sql).await;
    assert!(error.message().contains("does not accept the credentials (401): told to fail"), "{error}");
    assert_eq!(lake.server.fired().get(&401), Some(&2));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_busy_is_asked_again() {
    let lake = Lake::new(Rules::default()).await;
    let session = lake.session(Target::Local, "");
    let sql = "SELECT count(*) FROM lake.sales.orders";
    for (status, retry_after, least) in [(503, Some(1), 1.0), (429, None, 0.1), (502, None, 0.1)] {
        let fault = Fault::new("/tables/orders", status, 1);
        let fault = retry_after.map_or(fault.clone(), |seconds| fault.clone().retry_after(seconds));
        lake.server.set(|rules| rules.faults = vec![fault]);
        let started = Instant::now();
        assert_eq!(rows(&session, sql).await, [(FILES * ROWS).to_string()]);
        assert!(started.elapsed().as_secs_f64() >= least, "{status}: it waited {:?}", started.elapsed());
        assert_eq!(lake.server.fired().get(&status), Some(&1));
    }
    // A pause that no query waits for, and a catalog that never recovers.
    lake.server.set(|rules| rules.faults = vec![Fault::new("/tables/orders", 503, 9).retry_after(3600)]);
    let error = failure(&session, sql).await;
    assert!(error.message().contains("(it asks to come back in 3600 s)"), "{error}");
    assert_eq!(lake.server.fired().get(&503), Some(&2), "it is not asked again");
    lake.server.set(|rules| rules.faults = vec![Fault::new("/tables/orders", 500, 99)]);
    let error = failure(&session, sql).await;
    assert!(error.message().contains("answers with status 500: told to fail"), "{error}");
    assert_eq!(lake.server.fired().get(&500), Some(&5), "once, and four more times");
    // A slow answer is waited for.
    lake.server.set(|rules| (rules.faults, rules.delay) = (Vec::new(), Duration::from_millis(300)));
    assert_eq!(rows(&session, sql).await, [(FILES * ROWS).to_string()]);
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_to_change_and_shows_no_secret() {
    const SQL: &str = "SELECT count(*) FROM lake.sales.orders";
    let lake = Lake::new(Rules { access: Access::Token("right".to_owned()), ..Rules::default() }).await;
    let check = async |rules: Rules, keys: &str, expect: &str, sqlstate: &str| {
        lake.server.set(|current| *current = rules);
        let session = lake.session(Target::Local, keys);
        let error = failure(&session, SQL).await;
        let text = format!("{error} {error:?}");
        assert!(error.message().contains(expect), "{expect}: {error}");
        assert!(error.hint().is_some(), "{error}");
        assert!(!text.contains("s3cret-42"), "{text}");
        if !sqlstate.is_empty() {
            assert_eq!(error.sqlstate(), sqlstate, "{error}");
        }
        session.close().await;
    };
    let token = || Rules { access: Access::Token("right".to_owned()), ..Rules::default() };
    let open = |faults: Vec<Fault>| Rules { faults, ..Rules::default() };
    check(token(), "token = 's3cret-42'", "(401): the token (hidden) is wrong", "28000").await;
    check(token(), "", "does not accept the credentials (401)", "28000").await;
    let wrong_client = "oauth2_client_id = 'gust'\noauth2_client_secret = 's3cret-42'";
    check(
        oauth2(Duration::from_secs(9)),
        wrong_client,
        "(401): no token: invalid_client: no client with (hidden)",
        "28000",
    )
    .await;
    let forbidden = vec![Fault::new("/tables/orders", 403, 9)];
    check(open(forbidden), "", "forbids to read table sales.orders (403): told to fail", "42501").await;
    check(open(vec![]), "warehouse = 'wrong'", "status 404: Warehouse wrong does not exist", "").await;
    let html = Fault { body: "<html>hello</html>".to_owned(), ..Fault::new("/v1/config", 200, 9) };
    check(open(vec![html]), "", "it is no answer of Iceberg's REST protocol", "").await;
    let hive = r#"{"error": {"message": "Not an iceberg table: sales.orders", "type": "NoSuchIcebergTableException"}}"#;
    let hive = Fault { body: hive.to_owned(), ..Fault::new("/tables/orders", 404, 9) };
    check(open(vec![hive]), "", "table sales.orders has another format than Iceberg", "").await;
    let delta =
        r#"{"error": {"message": "Table sales.orders is not an Iceberg table", "type": "BadRequestException"}}"#;
    let delta = Fault { body: delta.to_owned(), ..Fault::new("/tables/orders", 400, 9) };
    check(open(vec![delta]), "", "table sales.orders has another format than Iceberg", "").await;
    let signs = BTreeMap::from([("s3.remote-signing-enabled".to_owned(), "true".to_owned())]);
    check(Rules { table_config: signs, ..Rules::default() }, "", "(remote signing), which is not supported", "").await;
    let file = lake.folder.path().join("token");
    check(token(), "token_file = 'token'", "secret file", "").await;
    std::fs::write(&file, "right\n").expect("written");
    lake.server.set(|current| *current = token());
    let session = lake.session(Target::Local, "token_file = 'token'");
    assert_eq!(rows(&session, SQL).await, [(FILES * ROWS).to_string()]);
    assert!(!format!("{:?}", session.config()).contains("right"));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_signed_as_aws_checks_them() {
    let s3_tables = "arn%3Aaws%3As3tables%3Aeu-central-1%3A012345678901%3Abucket%2Flake";
    let signed = |service: &str| Rules {
        access: Access::SigV4 {
            service: service.to_owned(),
            region: "eu-central-1".to_owned(),
            key_id: cloud_key(),
            secret: SECRET_ACCESS_KEY.to_owned(),
        },
        // S3 Tables tells the bucket's ARN, encoded.
        prefix: if service == "s3tables" { s3_tables } else { "catalogs/012345678901" }.to_owned(),
        page_names: 2,
        ..Rules::default()
    };
    let lake = Lake::new(signed("glue")).await;
    let uri = format!("uri = '{}'\nallow_http = true", lake.server.endpoint());
    let arn = "arn:aws:s3tables:eu-central-1:012345678901:bucket/lake";
    for (service, catalog, warehouse) in [
        ("glue", format!("type = 'glue'\nregion = 'eu-central-1'\naccount = '012345678901'\n{uri}"), "012345678901"),
        ("s3tables", format!("type = 's3tables'\nbucket_arn = '{arn}'\n{uri}"), "bucket%2Flake"),
        ("other", format!("type = 'rest'\nsigv4_name = 'other'\nsigv4_region = 'eu-central-1'\n{uri}"), ""),
    ] {
        lake.server.set(|rules| *rules = signed(service));
        let file = ConfigFile { path: "gust.toml".into(), text: format!("[catalogs.aws]\n{catalog}") };
        let overrides = Overrides { on: Some(Target::Local), ..Overrides::default() };
        let config = Config::load(Some(&file), [], &overrides).unwrap_or_else(|error| panic!("{error}"));
        let config = cloud::config(&lake.s3, config, env!("CARGO_BIN_EXE_bootstrap_under_test").as_ref());
        let session = Session::new(config).expect("a session");
        lake.server.take_asked();
        for (name, first) in
            [("sales.orders", "0"), ("\"Ünï \"\"q\"\" %2F/\".\"t t\"", "4000"), ("sales.eu.orders", "2000")]
        {
            assert_eq!(rows(&session, &format!("SELECT min(id) FROM aws.{name}")).await, [first], "{service}: {name}");
        }
        assert_eq!(rows(&session, "SHOW SCHEMAS IN aws LIKE 'sales.%'").await, ["sales.eu", "sales.eu.north"]);
        let asked = lake.server.take_asked();
        assert!(asked[0].path == "/v1/config" && asked[0].query.contains(warehouse), "{asked:?}");
        // Another service's name is another signature.
        lake.server.set(|rules| *rules = signed("else"));
        let error = failure(&session, "SELECT * FROM aws.sales.customers").await;
        assert!(
            error.message().contains("does not accept the credentials (403): the request is signed for"),
            "{error}"
        );
        assert_eq!((error.sqlstate(), error.hint().is_some_and(|hint| hint.contains("clock"))), ("28000", true));
        // A right that is missing is another matter than keys that are wrong.
        let message = "User: arn:aws:iam::012345678901:user/a is not authorized to perform: glue:GetTable";
        let flat = format!(r#"{{"message": "{message}", "__type": "AccessDeniedException"}}"#);
        let model = format!(r#"{{"error": {{"message": "{message}", "type": "AccessDeniedException", "code": 403}}}}"#);
        for body in [flat, model] {
            let fault = Fault { body, ..Fault::new("/tables/customers", 403, 1) };
            lake.server.set(|rules| (rules.access, rules.faults) = (signed(service).access, vec![fault]));
            let error = failure(&session, "SELECT * FROM aws.sales.customers").await;
            let expect = format!("forbids to read table sales.customers (403): {message}");
            assert!(error.message().contains(&expect), "{error}");
            assert_eq!(error.sqlstate(), "42501");
        }
        for kind in ["ExpiredTokenException", "UnrecognizedClientException"] {
            let body = format!(r#"{{"message": "no", "__type": "com.amazon.coral.service#{kind}"}}"#);
            let fault = Fault { body, ..Fault::new("/tables/customers", 403, 1) };
            lake.server.set(|rules| rules.faults = vec![fault]);
            let error = failure(&session, "SELECT * FROM aws.sales.customers").await;
            assert!(error.message().contains("does not accept the credentials (403): no"), "{kind}: {error}");
        }
        session.close().await;
    }
}

/// Key with which the coordinator signs.
pub(super) fn cloud_key() -> String {
    gust_tests::s3::identity::access_key(gust_tests::s3::identity::COORDINATOR)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_is_busy_is_asked_again() {
    let lake = Lake::new(oauth2(Duration::from_secs(600))).await;
    let sql = "SELECT count(*) FROM lake.sales.orders";
    let with = async |fault: Fault| {
        lake.server.set(|rules| rules.faults = vec![fault]);
        let session = lake.session(Target::Local, OAUTH2);
        let started = Instant::now();
        let ended = run(&session, sql).await.map(|(found, _)| texts(&found));
        session.close().await;
        (ended, started.elapsed())
    };
    let (ended, took) = with(Fault::new("/v1/oauth/tokens", 503, 2).retry_after(1)).await;
    assert_eq!(ended.expect("a token at last"), ["300"]);
    assert!(took >= Duration::from_secs(2), "it waited {took:?}");
    assert_eq!(lake.server.fired().get(&503), Some(&2));
    let (ended, took) = with(Fault::new("/v1/oauth/tokens", 429, 9).retry_after(3600)).await;
    assert!(ended.is_err_and(|error| error.message().contains("status 429")) && took < Duration::from_secs(20));
    assert_eq!(lake.server.fired().get(&429), Some(&1), "nobody waits for an hour");
    let (ended, _) = with(Fault::new("/v1/oauth/tokens", 401, 9)).await;
    assert!(ended.is_err_and(|error| error.sqlstate() == "28000"));
    assert_eq!(lake.server.fired().get(&401), Some(&1), "a refusal is no reason to ask again");
}

/// Replaces the file of a token before the token ends, as Kubernetes does for its services.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_is_read_again_when_its_token_is_refused() {
    let lake = Lake::new(Rules { access: Access::Token("first".to_owned()), ..Rules::default() }).await;
    let file = lake.folder.path().join("token");
    std::fs::write(&file, "first\n").expect("written");
    let session = lake.session(Target::Local, "token_file = 'token'");
    let sql = "SELECT count(*) FROM lake.sales.orders";
    assert_eq!(rows(&session, sql).await, ["300"]);
    std::fs::write(&file, "second\n").expect("written");
    lake.server.set(|rules| rules.access = Access::Token("second".to_owned()));
    lake.server.take_asked();
    assert_eq!(rows(&session, sql).await, ["300"]);
    let statuses: Vec<u16> = lake.server.take_asked().iter().map(|asked| asked.status).collect();
    assert_eq!(statuses, [401, 304], "refused, and asked with the new token");
    lake.server.set(|rules| rules.access = Access::Token("third".to_owned()));
    let error = failure(&session, sql).await;
    assert!(error.message().contains("(401): the token (hidden) is wrong"), "{error}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_bounded_over_all_of_its_pages_and_namespaces() {
    let lake = Lake::new(Rules { page_names: 1, ..Rules::default() }).await;
    let settings = RestSettings {
        name: "lake".to_owned(),
        uri: lake.server.endpoint().to_owned(),
        warehouse: None,
        allow_http: true,
        auth: RestAuth::None,
        grants: Grants::default(),
    };
    let catalog =
        Catalog::rest(settings, CatalogStores::new(|_| Err("no store is asked for".into()))).expect("a client");
    let listed = async |names: usize| {
        let room = NamesRoom::for_names(names);
        let namespaces = catalog.namespaces_within(&room).await?;
        let mut tables = Vec::new();
        for namespace in &namespaces {
            tables.extend(catalog.tables_within(namespace, &room).await?);
        }
        Ok::<_, gust_catalog::Error>((namespaces.len(), tables.len()))
    };
    // Five namespaces, of three levels, and six tables.
    assert_eq!(listed(11).await.expect("a listing"), (5, 6));
    for too_few in [1, 4, 10] {
        let error = listed(too_few).await.expect_err("more names than there is room for").to_string();
        assert_eq!(error, format!("a listing has more than {too_few} namespaces and tables"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_shorter_than_a_tables_metadata_may_be() {
    let lake = Lake::new(Rules::default()).await;
    let long = "x".repeat(17 << 20);
    let page = Fault { body: format!("{{\"x\": \"{long}\"}}"), ..Fault::new("/namespaces?", 200, 1) };
    lake.server.set(|rules| {
        rules.faults = vec![page];
        rules.table_config = BTreeMap::from([("x".to_owned(), long)]);
    });
    let session = lake.session(Target::Local, "");
    let error = failure(&session, "SHOW SCHEMAS IN lake").await;
    assert!(error.message().contains("its answer has more than 16777216 bytes"), "{error}");
    // Long answers come two at once, and make room for others.
    let sql = "SELECT count(*) FROM lake.sales.orders, lake.sales.customers, lake.sales.eu.orders WHERE false";
    let (one, other, third) = tokio::join!(run(&session, sql), run(&session, sql), run(&session, sql));
    for (found, _) in [one, other, third].map(|ended| ended.expect("rows")) {
        assert_eq!(texts(&found), ["0"]);
    }
    session.close().await;
}

/// A commit of somebody else is seen by the next statement of a session that knows the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_changed_is_loaded_again() {
    let lake = Lake::new(Rules::default()).await;
    let session = lake.session(Target::Local, "");
    let sql = "SELECT count(*), max(id) FROM lake.sales.orders";
    let asked = || lake.server.take_asked().iter().map(|asked| asked.status).collect::<Vec<u16>>();
    assert_eq!(rows(&session, sql).await, ["300|299"]);
    asked();
    assert_eq!((rows(&session, sql).await, asked()), (vec!["300|299".to_owned()], vec![304]));
    let store = lake.s3.store().expect("a client");
    let stores = {
        let store = Arc::clone(&store);
        CatalogStores::new(move |_| Ok(Arc::clone(&store)))
    };
    let database = lake.folder.path().join("own.db");
    let catalog = Catalog::sqlite(&database, "own", &lake.s3.url("lake"), stores).await.expect("the catalog");
    let table = catalog.load("n0", "t0").await.expect("the table");
    let file = data_file(&table, FILES, 0, store.as_ref()).await;
    let table = catalog.append(&table, &[file]).await.expect("appended");
    lake.server.point(&["sales".to_owned()], "orders", table.metadata_location()).await.expect("pointed");
    assert_eq!((rows(&session, sql).await, asked()), (vec!["400|399".to_owned()], vec![200]));
    assert_eq!((rows(&session, sql).await, asked()), (vec!["400|399".to_owned()], vec![304]));
    session.close().await;
}

/// The client's own secret is withdrawn while a token of it is in use.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_refused_a_new_token_is_told_so() {
    let lake = Lake::new(oauth2(Duration::from_secs(600))).await;
    let session = lake.session(Target::Local, OAUTH2);
    let sql = "SELECT count(*) FROM lake.sales.orders";
    rows(&session, sql).await;
    lake.server.expire_tokens();
    lake.server.set(|rules| {
        let body = r#"{"error": "invalid_client", "error_description": "client-secret was withdrawn"}"#.to_owned();
        rules.faults = vec![Fault { body, ..Fault::new("/v1/oauth/tokens", 401, 9) }];
    });
    let error = failure(&session, sql).await;
    let expect = "catalog lake does not accept the credentials (401): no token: invalid_client: (hidden) was withdrawn";
    assert!(error.message().contains(expect), "{error}");
    assert_eq!((error.sqlstate(), lake.server.fired().get(&401)), ("28000", Some(&1)));
    session.close().await;
}
