//! Other suites, through the catalog: the matrix of Iceberg tables with tokens that end and pages of names, and random tables with
//! deletes, on S3, with lent keys alone.
//!
//! `MATRIX_REST=all` runs every table of the matrix, and `MATRIX` those whose names contain a text.

use std::fs;

use gust_tests::asks::lines;
use gust_tests::random_tables::{Random, Version};
use object_store::local::LocalFileSystem;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::iceberg_matrix::{ROOT, Table as MatrixTable, copy_tables, fault, truth};

const FUNCTIONS: u32 = 4;
/// One of so many tables is asked for, unless all are.
const SHARE: usize = 4;
/// Time after which the matrix' tokens end.
const TOKEN_LIFE: Duration = Duration::from_secs(1);

/// Returns the location of a table's metadata.
fn metadata_of(name: &str) -> String {
    let folder = format!("{ROOT}/{name}/metadata");
    let version = fs::read_to_string(format!("{folder}/version-hint.text")).expect("a number");
    let file = |suffix: &str| format!("{folder}/v{}{suffix}", version.trim());
    let plain = file(".metadata.json");
    let path = if Path::new(&plain).exists() { plain } else { file(".gz.metadata.json") };
    format!("file://{path}")
}

/// Tells if a table is asked for. Those with asks for versions and metadata tables always are.
fn is_chosen(number: usize, table: &MatrixTable) -> bool {
    let only = std::env::var("MATRIX").unwrap_or_default();
    let all = std::env::var("MATRIX_REST").is_ok_and(|which| which == "all") || !only.is_empty();
    let is_special = |sql: &str| sql.contains(" AS OF ") || sql.contains('$');
    table.name.contains(&only)
        && (all || number.is_multiple_of(SHARE) || table.ask.iter().any(|ask| is_special(&ask.sql)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_holds_through_the_catalog() {
    copy_tables();
    let mut tables = truth();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    let folder = TempDir::new().expect("a temporary folder");
    let place = Place { warehouse: format!("file://{ROOT}"), store: Arc::new(LocalFileSystem::new()) };
    let pages = 3;
    let rules = Rules { page_names: tables.len().div_ceil(pages), ..oauth2(TOKEN_LIFE) };
    let server = RestServer::start(folder.path(), place, rules).expect("a server");
    let registered = tables.iter().map(|table| (vec!["m".to_owned()], table.name.clone(), metadata_of(&table.name)));
    server.register(&registered.collect::<Vec<_>>()).await.expect("registered");
    let mut faults = Vec::new();
    for on in [Target::Local, Target::Processes] {
        let text =
            format!("[catalogs.lake]\ntype = 'rest'\nuri = '{}'\nallow_http = true\n{OAUTH2}\n", server.endpoint());
        let file = ConfigFile { path: folder.path().join("gust.toml"), text };
        let overrides = Overrides { on: Some(on), functions_max: Some(FUNCTIONS), ..Overrides::default() };
        let mut config = Config::load(Some(&file), [], &overrides).unwrap_or_else(|error| panic!("{error}"));
        config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
        let session = Session::new(config).expect("a session");
        run(&session, "USE lake.m").await.expect("a namespace");
        server.take_asked();
        let mut names =
            rows(&session, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'm'").await;
        names.sort();
        assert_eq!(names, tables.iter().map(|table| table.name.clone()).collect::<Vec<_>>());
        let asked = server.take_asked();
        let listed = asked.iter().filter(|asked| asked.path.ends_with("/m/tables") && asked.status == 200).count();
        assert_eq!((listed, loads(&asked)), (pages, 0), "{asked:?}");
        let tokens = server.tokens_given();
        let chosen = tables.iter().enumerate().filter(|(number, table)| is_chosen(*number, table));
        for (_, table) in chosen {
            for ask in &table.ask {
                if let Some(fault) = fault(&session, on, table, None, ask).await {
                    faults.push(format!("{}: `{}` on {on:?}: {fault}", table.name, ask.sql));
                }
            }
        }
        assert!(server.tokens_given() > tokens, "no token ended on {on:?}");
        session.close().await;
    }
    assert!(faults.is_empty(), "{} asks fail:\n{}", faults.len(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn random_tables_with_deletes_are_read_with_lent_keys() {
    const TABLES: u64 = 12;
    let lake = Lake::new(Rules { page_names: 1, ..oauth2(TOKEN_LIFE) }).await;
    let keys = lake.s3.lent().clone();
    lake.server.set(|rules| rules.lends = Some(Lending { keys, life: Duration::from_secs(600), prefix: None }));
    let store = lake.s3.store().expect("a client");
    let mut made = Vec::new();
    for seed in 0..TABLES {
        let mut random = StdRng::seed_from_u64(seed);
        let location = lake.s3.url(&format!("random/t{seed}"));
        let table = Random::new(Path::new(&location), &mut random);
        let mut files = Vec::new();
        let (metadata, _) = table.put(Path::new(&location), &mut random, &mut |path, bytes| {
            files.push((path.to_owned(), bytes.to_vec()));
        });
        for (path, bytes) in files {
            let key = path.strip_prefix(&lake.s3.url("")).expect("below the bucket");
            store.put(&Key::parse(key).expect("a key"), bytes.into()).await.expect("put");
        }
        made.push((format!("t{seed}"), metadata, table));
    }
    let registered = made.iter().map(|(name, metadata, _)| (vec!["random".to_owned()], name.clone(), metadata.clone()));
    lake.server.register(&registered.collect::<Vec<_>>()).await.expect("registered");
    for on in [Target::Local, Target::Processes] {
        let session = lake.without_own_keys(on, OAUTH2);
        let (refused, mut remote) = (lake.s3.lent().refused(), 0);
        lake.s3.take_requests();
        for (name, _, table) in &made {
            let left = table.lines(Version::Now, table.left(Version::Now).into_values());
            let sql = table.sql(&format!("lake.random.{name}"));
            let (found, report) =
                run(&session, &format!("{sql} ORDER BY c1")).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(lines(&found, "NULL"), left, "{name} on {on:?}");
            if on == Target::Processes && report.fragments > 0 {
                assert_remote(&report, &sql);
                remote += 1;
            }
        }
        assert!(on == Target::Local || remote > TABLES / 2, "{remote} tables were read by functions");
        assert_eq!(lake.s3.lent().refused(), refused, "{on:?}: no key was used for another table's files");
        let of_tables = lake.s3.requests();
        let is_lent = |request: &Request| request.identity.contains("-lent-");
        let own = |request: &&Request| request.key.starts_with("random/") && !request.key.ends_with(".metadata.json");
        let of_tables: Vec<&Request> = of_tables.iter().filter(own).collect();
        assert!(of_tables.len() > 50 && of_tables.iter().all(|request| is_lent(request)), "{on:?}: {of_tables:?}");
        session.close().await;
    }
}
