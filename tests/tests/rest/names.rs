//! Names of tables in catalogs: listings, namespaces, USE, and what pyiceberg has written.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn names_of_several_catalogs_and_nested_namespaces_are_found() {
    let rules = Rules { page_names: 1, ..oauth2(Duration::from_secs(600)) };
    let lake = Lake::new(rules).await;
    for on in [Target::Local, Target::InProcess, Target::Processes] {
        let session = lake.session(on, OAUTH2);
        let sum = |first: i64| (first..first + FILES * ROWS).sum::<i64>().to_string();
        for (name, number) in [
            ("lake.sales.orders", 0),
            ("lake.sales.customers", 1),
            ("lake.sales.eu.orders", 2),
            ("lake.\"sales.eu\".orders", 2),
            ("lake.sales.eu.north.orders", 3),
            ("lake.\"Ünï \"\"q\"\" %2F/\".\"t t\"", 4),
            ("lake.\"dotted.name\".t", 5),
            ("own.n3.t3", 3),
        ] {
            let sql = format!("SELECT sum(id) AS s FROM {name} WHERE name <> 'x'");
            let (found, report) = run(&session, &sql).await.unwrap_or_else(|error| panic!("{on:?}: {sql}: {error}"));
            assert_eq!(texts(&found), [sum(number * 1000)], "{on:?}: {name}");
            if on != Target::Local {
                assert_remote(&report, name);
            }
        }
        let joined = "SELECT count(*) FROM lake.sales.orders a JOIN own.n0.t0 b ON a.id = b.id";
        assert_eq!(rows(&session, joined).await, [(FILES * ROWS).to_string()]);
        session.close().await;
    }
    assert_eq!(lake.server.fired(), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_loads_no_table_and_a_query_lists_none() {
    let lake = Lake::new(Rules { page_names: 1, ..Rules::default() }).await;
    let session = lake.session(Target::Local, "");
    assert_eq!(rows(&session, "SHOW CATALOGS").await, ["datafusion", "lake", "own"]);
    assert_eq!(lake.server.take_asked(), [], "the configuration has the names of catalogs");
    session.use_catalog("lake").await.expect("the catalog");
    lake.server.take_asked();
    assert_eq!(rows(&session, "SELECT count(*) FROM sales.orders").await, [(FILES * ROWS).to_string()]);
    let asked = lake.server.take_asked();
    assert_eq!(
        asked.iter().map(|asked| asked.path.as_str()).collect::<Vec<_>>(),
        ["/v1/namespaces/sales/tables/orders"]
    );
    let all = [
        "dotted.name|t",
        "sales|customers",
        "sales|orders",
        "sales.eu|orders",
        "sales.eu.north|orders",
        "Ünï \"q\" %2F/|t t",
    ];
    let listed = "SELECT table_schema, table_name FROM information_schema.tables
         WHERE table_catalog = 'lake' AND table_schema NOT IN ('gust', 'information_schema') ORDER BY 1, 2";
    assert_eq!(rows(&session, listed).await, all);
    let shown = rows(&session, "SHOW TABLES").await;
    assert!(all.iter().all(|name| shown.contains(&format!("lake|{name}|BASE TABLE"))), "{shown:?}");
    assert_eq!(
        rows(&session, "SHOW TABLES IN lake.sales").await,
        ["lake|sales|customers|BASE TABLE", "lake|sales|orders|BASE TABLE"]
    );
    assert_eq!(rows(&session, "SHOW TABLES IN sales.eu").await, ["lake|sales.eu|orders|BASE TABLE"]);
    let asked = lake.server.take_asked();
    assert_eq!(loads(&asked), 0, "{asked:?}");
    assert!(asked.iter().any(|asked| asked.query.contains("pageToken=1")), "there were pages: {asked:?}");
    let complete =
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'sales' AND table_name LIKE 'or%'";
    assert_eq!(rows(&session, complete).await, ["orders"]);
    let asked = lake.server.take_asked();
    let is_of_sales = |asked: &Asked| asked.path == "/v1/namespaces/sales/tables";
    assert!(asked.len() == 2 && asked.iter().all(is_of_sales), "one namespace is asked for, in two pages: {asked:?}");
    let schemas = rows(&session, "SHOW SCHEMAS IN lake LIKE 's%'").await;
    assert_eq!(schemas, ["sales", "sales.eu", "sales.eu.north"]);
    let asked = lake.server.take_asked();
    assert_eq!(loads(&asked), 0, "{asked:?}");
    // A description loads the table that it describes.
    for sql in ["DESCRIBE sales.eu.orders", "SHOW COLUMNS FROM lake.sales.orders"] {
        let described = rows(&session, sql).await;
        assert!(described.len() == 2 && described[0].contains("id") && described[1].contains("name"), "{described:?}");
        let asked = lake.server.take_asked();
        let is_its_own = |asked: &Asked| asked.path.ends_with("/tables/orders");
        assert!(!asked.is_empty() && asked.iter().all(is_its_own), "{sql}: {asked:?}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tables_are_listed_without_loading_one() {
    const NAMESPACES: usize = 100;
    const TABLES_OF_EACH: usize = 100;
    let lake = Lake::new(Rules::default()).await;
    let tables = (0..NAMESPACES).flat_map(|namespace| {
        (0..TABLES_OF_EACH).map(move |table| (vec![format!("many{namespace}")], format!("table{table}")))
    });
    let tables: Vec<_> = tables.map(|(namespace, table)| (namespace, table, lake.metadata.clone())).collect();
    lake.server.register(&tables).await.expect("registered");
    let session = lake.session(Target::Local, "");
    rows(&session, "USE lake").await;
    lake.server.take_asked();
    let count = "SELECT count(*) FROM information_schema.tables WHERE table_schema LIKE 'many%'";
    assert_eq!(rows(&session, count).await, [(NAMESPACES * TABLES_OF_EACH).to_string()]);
    let asked = lake.server.take_asked();
    assert_eq!(loads(&asked), 0);
    // The namespaces, those below each, and the tables of each.
    let namespaces = NAMESPACES + TABLES.len();
    assert!((2 * NAMESPACES..2 * namespaces + 8).contains(&asked.len()), "{} requests", asked.len());
    assert_eq!(rows(&session, "SELECT min(id) FROM many99.table99").await, ["0"]);
    let asked = lake.server.take_asked();
    assert_eq!((asked.len(), loads(&asked)), (1, 1), "{asked:?}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn use_changes_the_place_of_bare_names() {
    let lake = Lake::new(Rules::default()).await;
    let session = lake.session(Target::Local, "");
    let first = async |name: &str| rows(&session, &format!("SELECT min(id) FROM {name}")).await[0].clone();
    rows(&session, "USE lake.sales").await;
    assert_eq!(first("customers").await, "1000");
    rows(&session, "USE sales.eu").await;
    assert_eq!(first("orders").await, "2000");
    rows(&session, "USE own.n3").await;
    assert_eq!(first("t3").await, "3000");
    rows(&session, "USE datafusion.public").await;
    assert_eq!(first("lake.sales.eu.north.orders").await, "3000");
    rows(&session, "USE lake").await;
    for (sql, message, hint) in [
        ("USE sals", "there is no catalog and no namespace `sals` in catalog `lake`", "did you mean `sales`?"),
        ("USE own.n33", "there is no catalog and no namespace `n33` in catalog `own`", "did you mean `n3`?"),
        ("SELECT * FROM sales.ordrs", "there is no table `sales.ordrs`", "did you mean `sales.orders`?"),
        ("SELECT * FROM customers", "there is no table `customers`", "did you mean `lake.sales.customers`?"),
        (
            "SELECT * FROM orders",
            "there is no table `orders`",
            "did you mean `lake.sales.orders` or `lake.\"sales.eu\".orders` or `lake.\"sales.eu.north\".orders`?",
        ),
        ("SELECT * FROM lake.eu.t3", "there is no table `lake.eu.t3`", "did you mean `own.n3.t3`?"),
        ("CREATE TABLE lake.sales.x AS SELECT 1", "in an Iceberg catalog, which is only read", "datafusion.public.x"),
        ("DROP TABLE lake.sales.orders", "is in an Iceberg catalog", "gust reads"),
    ] {
        let error = failure(&session, sql).await;
        assert!(error.message().contains(message), "{sql}: {error}");
        assert!(error.hint().is_some_and(|given| given.contains(hint)), "{sql}: {error}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pyiceberg_reads_and_writes_the_same_catalog() {
    let folder = TempDir::new().expect("a temporary folder");
    let place = Place::folder(&folder.path().join("warehouse"));
    let server = RestServer::start(folder.path(), place, oauth2(Duration::from_secs(600))).expect("a server");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let arguments = [server.endpoint().to_owned(), folder.path().join("answers").display().to_string()];
    match python::run(cache, "rest_catalog.py", &arguments).unwrap_or_else(|error| panic!("{error}")) {
        Run::Done { .. } => {}
        Run::Skipped { reason } => return eprintln!("skipped: {reason}"),
    }
    let mut config = Config { on: Target::Processes, functions_max: 2, ..Config::default() };
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    let text = format!("[catalogs.lake]\ntype = 'rest'\nuri = '{}'\nallow_http = true\n{OAUTH2}", server.endpoint());
    let file = ConfigFile { path: folder.path().join("gust.toml"), text };
    let loaded = Config::load(Some(&file), [], &Overrides::default()).unwrap_or_else(|error| panic!("{error}"));
    config.catalogs = loaded.catalogs;
    assert!(matches!(config.catalogs["lake"], CatalogConfig::Rest(_)));
    let session = Session::new(config).expect("a session");
    let answers = std::fs::read_to_string(folder.path().join("answers")).expect("answers");
    let mut compared = 0;
    for line in answers.lines() {
        let (sql, expect) = line.split_once('\t').expect("a statement and its rows");
        if let Some(message) = expect.strip_prefix('!') {
            let error = failure(&session, sql).await;
            assert!(error.message().contains(message) && error.hint().is_some(), "{sql}: {error}");
            continue;
        }
        let (found, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(texts(&found).join(";"), expect, "{sql}");
        if sql.contains("<> 'x'") {
            assert_remote(&report, sql);
        }
        compared += 1;
    }
    assert!(compared >= 40, "{answers}");
    session.close().await;
}

/// A catalog brings a table's metadata in its answer: no store is asked, and yet nothing of a table outside of the reach is told.
#[tokio::test(flavor = "multi_thread")]
async fn facts_about_a_table_outside_of_the_reach_are_not_told() {
    let lake = Lake::new(Rules::default()).await;
    let config = lake.session(Target::Local, "").config().clone();
    let own = lake.metadata.split_once("/metadata/").expect("a table's folder").0;
    let options = EngineOptions { reach: Reach::of([own]).expect("a place"), ..EngineOptions::default() };
    let session = Engine::open(config, options).expect("an engine").session(SessionOptions::default());
    let session = session.expect("a session");
    assert_eq!(rows(&session, "SELECT count(*) FROM lake.sales.orders").await, ["300"]);
    for sql in [
        "DESCRIBE lake.sales.customers",
        "SELECT * FROM lake.sales.\"customers$properties\"",
        "SELECT * FROM lake.sales.\"customers$snapshots\"",
        "SELECT * FROM lake.sales.customers.refs",
        "SELECT count(*) FROM lake.sales.customers",
    ] {
        let error = failure(&session, sql).await;
        assert_eq!(error.sqlstate(), "42501", "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_shown_as_the_statement_that_makes_it() {
    let lake = Lake::new(Rules::default()).await;
    let session = lake.session(Target::Local, "");
    let location = lake.metadata.split_once("/metadata/").expect("a table's folder").0;
    let definition = format!(
        "CREATE TABLE lake.sales.orders (\n   id bigint,\n   name varchar\n)\nWITH (\n   format = 'PARQUET',\n   \
         format_version = 2,\n   location = '{location}'\n)"
    );
    let expect = [format!("lake|sales|orders|{definition}")];
    assert_eq!(rows(&session, "SHOW CREATE TABLE lake.sales.orders").await, expect);
    lake.server.take_asked();
    rows(&session, "USE lake.sales").await;
    lake.server.take_asked();
    assert_eq!(rows(&session, "SHOW CREATE TABLE orders").await, expect);
    let asked = lake.server.take_asked();
    assert!(asked.iter().all(|asked| asked.path.ends_with("/sales/tables/orders")), "{asked:?}");
    // A name that is shown is one that can be asked for.
    let odd = (vec!["group".to_owned()], "order".to_owned(), lake.metadata.clone());
    lake.server.register(&[odd]).await.expect("registered");
    let shown = rows(&session, "SHOW CREATE TABLE lake.\"group\".\"order\"").await.remove(0);
    let name = shown.split_once("CREATE TABLE ").and_then(|(_, rest)| rest.split_once(" (")).expect("a name").0;
    assert_eq!(name, "lake.\"group\".\"order\"");
    let expect = rows(&session, "SELECT count(*) FROM lake.sales.orders").await;
    assert_eq!(rows(&session, &format!("SELECT count(*) FROM {name}")).await, expect);
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_about_a_table_are_found_as_spark_spells_them() {
    let lake = Lake::new(Rules::default()).await;
    // A namespace whose name is a table's, too.
    lake.server
        .register(&[(vec!["customers".to_owned()], "files".to_owned(), lake.metadata.clone())])
        .await
        .expect("registered");
    let session = lake.session(Target::Local, "");
    rows(&session, "USE lake.sales").await;
    let count = async |name: &str| rows(&session, &format!("SELECT count(*) FROM {name}")).await[0].clone();
    for (name, expect) in [
        ("orders.files", FILES),
        ("orders.snapshots", 1),
        ("sales.orders.files", FILES),
        ("lake.sales.eu.orders.files", FILES),
        ("\"orders$files\"", FILES),
        ("customers.files", FILES * ROWS),
        ("customers.snapshots", 1),
    ] {
        assert_eq!(count(name).await, expect.to_string(), "{name}");
    }
    let snapshot = rows(&session, "SELECT snapshot_id FROM orders.snapshots").await[0].clone();
    assert_eq!(count(&format!("orders.files FOR VERSION AS OF {snapshot}")).await, FILES.to_string());
    let refused = [
        (format!("orders.refs FOR VERSION AS OF {snapshot}"), "`refs` tells about the whole table"),
        ("nothing.files".to_owned(), "there is no table `nothing.files`"),
        ("orders.other".to_owned(), "there is no table `orders.other`"),
    ];
    for (name, message) in refused {
        let error = failure(&session, &format!("SELECT * FROM {name}")).await;
        assert!(error.message().contains(message), "{name}: {error}");
    }
    // Tables of the session itself.
    run(&session, "USE datafusion.public").await.expect("used");
    let external = format!("CREATE EXTERNAL TABLE mine STORED AS ICEBERG LOCATION '{}'", lake.metadata);
    run(&session, &external).await.expect("made");
    assert_eq!(count("mine.files").await, FILES.to_string());
    session.close().await;
}
