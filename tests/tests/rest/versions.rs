//! Versions of one table through views, queries of WITH, joins, prepared statements and estimates. Rows are written by hand.

use super::*;

/// Table with two snapshots: one of [`FILES`] files with ids from 0, and one with another file of the next [`ROWS`] ids.
struct Versions {
    lake: Lake,
    first: i64,
}

impl Versions {
    const NAME: &str = "lake.sales.grown";

    async fn new() -> Self {
        let lake = Lake::new(Rules::default()).await;
        let store = lake.s3.store().expect("a client");
        let stores = {
            let store = Arc::clone(&store);
            CatalogStores::new(move |_| Ok(Arc::clone(&store)))
        };
        let database = lake.folder.path().join("own.db");
        let catalog = Catalog::sqlite(&database, "own", &lake.s3.url("lake"), stores).await.expect("the catalog");
        let table = catalog.load("n0", "t0").await.expect("the table");
        let first = table.snapshot_id().expect("a snapshot");
        let file = data_file(&table, FILES, 0, store.as_ref()).await;
        let table = catalog.append(&table, &[file]).await.expect("appended");
        let location = table.metadata_location().to_owned();
        lake.server.register(&[(vec!["sales".to_owned()], "grown".to_owned(), location)]).await.expect("registered");
        Self { lake, first }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_goes_wherever_a_table_goes() {
    let Versions { lake, first } = Versions::new().await;
    let name = Versions::NAME;
    let old = format!("{name} FOR VERSION AS OF {first}");
    for on in [Target::Local, Target::InProcess, Target::Processes] {
        let session = lake.session(on, "");
        for sql in [
            format!("CREATE VIEW datafusion.public.old AS SELECT * FROM {old} WHERE name <> 'x'"),
            "CREATE VIEW datafusion.public.older AS SELECT id FROM datafusion.public.old WHERE id >= 200".to_owned(),
            format!("PREPARE q AS SELECT count(*) FROM {old} WHERE id >= $1"),
        ] {
            run(&session, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let (view, views) = ("datafusion.public.old", "datafusion.public.older");
        for (sql, expect) in [
            (format!("SELECT count(*), max(id) FROM {name} WHERE name <> 'x'"), "400|399"),
            (format!("SELECT count(*), max(id) FROM {old} WHERE name <> 'x'"), "300|299"),
            (format!("SELECT count(*), max(id) FROM {view}"), "300|299"),
            (format!("SELECT count(*), min(id) FROM {views}"), "100|200"),
            (
                format!(
                    "WITH a AS (SELECT * FROM {old} WHERE name <> 'x'), b AS (SELECT id FROM a) SELECT count(*) FROM b"
                ),
                "300",
            ),
            (
                format!(
                    "SELECT count(*), count(a.id) FROM {name} b LEFT JOIN {old} a ON a.id = b.id WHERE b.name <> 'x'"
                ),
                "400|300",
            ),
            (format!("SELECT count(*) FROM {name} WHERE id NOT IN (SELECT id FROM {old}) AND name <> 'x'"), "100"),
            (format!("SELECT count(*) FROM {name} a JOIN {view} b ON a.id = b.id + 100 WHERE a.name <> b.name"), "300"),
            (
                format!("SELECT count(*) FROM (SELECT id FROM {name} WHERE name <> 'x' EXCEPT SELECT id FROM {old})"),
                "100",
            ),
            ("EXECUTE q(250)".to_owned(), "50"),
        ] {
            let (found, report) = run(&session, &sql).await.unwrap_or_else(|error| panic!("{on:?}: {sql}: {error}"));
            assert_eq!(texts(&found), [expect], "{on:?}: {sql}");
            if on != Target::Local {
                assert_remote(&report, &sql);
            }
        }
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_is_that_of_the_version() {
    let Versions { lake, first } = Versions::new().await;
    let session = lake.session(Target::Local, "");
    let bytes = async |version: &str| {
        let sql = format!("EXPLAIN COST SELECT sum(id) FROM {} {version} WHERE name <> 'x'", Versions::NAME);
        let (found, _) = run(&session, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let column = found[0].column_by_name("bytes").expect("a column");
        array_value_to_string(column, 0).expect("a text").parse::<u64>().expect("a number")
    };
    // What planning reads of metadata counts the first time.
    bytes("").await;
    bytes(&format!("FOR VERSION AS OF {first}")).await;
    let (now, old) = (bytes("").await, bytes(&format!("FOR VERSION AS OF {first}")).await);
    // Three files of four.
    assert!((2 * old..3 * old).contains(&(2 * now)) && old > 0, "{old} bytes of the version, {now} of today");
    let explained =
        rows(&session, &format!("EXPLAIN SELECT * FROM {} FOR VERSION AS OF {first}", Versions::NAME)).await;
    assert_eq!(explained.join("\n").matches(".parquet").count(), FILES as usize, "{explained:?}");
    session.close().await;
}
