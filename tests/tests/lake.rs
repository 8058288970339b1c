//! Tables, partitions and results on S3, checked against the server's own account of the requests.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use gust::demo::queries;
use gust::demo::table::TpchTable;
use gust_engine::config::{Config, Target};
use gust_engine::session::Session;
use gust_tests::compare::{Rule, compare};
use gust_tests::query::{assert_remote, plain, run};
use gust_tests::s3::{Operation, S3Server};
use gust_tests::tpch;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;

use crate::tpch::assert_used;

/// Server, and a session with four processes that leaves its results there.
struct LakeOnS3 {
    server: S3Server,
    store: Arc<dyn ObjectStore>,
    session: Session,
}

impl LakeOnS3 {
    fn open() -> Self {
        let server = S3Server::start().expect("a server");
        let exchange = Some(server.url("exchange"));
        let mut config =
            Config { on: Target::Processes, functions_max: 4, exchange, s3: server.config(), ..Config::default() };
        config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
        let store = server.store().expect("a client");
        Self { session: Session::new(config).expect("a session"), server, store }
    }

    /// Uploads every file below a folder, under the same names.
    async fn upload(&self, folder: &Path, prefix: &str) {
        for entry in std::fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable")) {
            let key = format!("{prefix}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("readable").is_dir() {
                Box::pin(self.upload(&entry.path(), &key)).await;
            } else {
                let bytes = std::fs::read(entry.path()).expect("readable");
                self.store.put(&Key::from(key), bytes.into()).await.expect("put");
            }
        }
    }

    async fn keys(&self, prefix: &str) -> Vec<Key> {
        let listed = self.store.list(Some(&Key::from(prefix))).map_ok(|meta| meta.location);
        listed.try_collect().await.expect("a listing")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_on_s3_has_datafusions_rows() {
    let tables = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
    let lake = LakeOnS3::open();
    lake.upload(tables.root(), "tpch").await;
    for table in TpchTable::ALL.map(TpchTable::name) {
        let location = lake.server.url(&format!("tpch/{table}/"));
        let create = format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{location}'");
        run(&lake.session, &create).await.expect("setup");
    }
    let setup = tables.create_statements();
    // Requests of a cancelled attempt are not metered, and may come during the next query.
    let mut settled = true;
    for number in 1..=queries::COUNT {
        let what = format!("query {number} on S3");
        lake.server.take_requests();
        let (rows, report) = run(&lake.session, queries::query(number)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let expected = plain(&setup, queries::query(number)).await;
        compare(&expected, &rows, Rule::same_engine()).unwrap_or_else(|difference| panic!("{what}: {difference}"));
        assert_used(number, &report, &what);
        let asked = report.functions.requests;
        assert_eq!((asked.head, asked.list), (0, 0), "{what}: a function asked for what the plan tells it");
        let served = lake.server.take_requests();
        let gets = served.iter().filter(|request| request.operation == Operation::Get).count() as u64;
        let settled_before = std::mem::replace(&mut settled, report.attempts_failed.is_empty());
        if settled_before && settled {
            assert_eq!(asked.get + report.coordinator.requests.get, gets, "{what}: not metered as it was served");
        }
    }
    lake.session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_partitions_are_not_asked_for() {
    let folder = TempDir::new().expect("a temporary folder");
    for (region, year) in [("north", 2022), ("north", 2023), ("south", 2022), ("south", 2023)] {
        for file in ["a", "b"] {
            let path = folder.path().join(format!("region={region}/year={year}/{file}.parquet"));
            let select = format!("SELECT value AS k, '{region} {year} {file}' AS v FROM generate_series(1, 100)");
            plain(&[], &format!("COPY ({select}) TO '{}' STORED AS PARQUET", path.display())).await;
        }
    }
    let lake = LakeOnS3::open();
    lake.upload(folder.path(), "sales").await;
    let create = |location: String| {
        let columns = "k BIGINT, v VARCHAR, region VARCHAR, year INT";
        format!(
            "CREATE EXTERNAL TABLE sales ({columns}) STORED AS PARQUET PARTITIONED BY (region, year) LOCATION '{location}'"
        )
    };
    run(&lake.session, &create(lake.server.url("sales/"))).await.expect("setup");
    let setup = [create(format!("{}/", folder.path().display()))];
    for (filter, expect) in [
        ("region = 'south' AND year = 2023", &["south/year=2023"][..]),
        ("year = 2022", &["north/year=2022", "south/year=2022"]),
        ("region <> 'south' AND year > 2022", &["north/year=2023"]),
    ] {
        let sql = format!("SELECT region, year, v, sum(k) FROM sales WHERE {filter} GROUP BY 1, 2, 3 ORDER BY 3");
        lake.server.take_requests();
        let (rows, report) = run(&lake.session, &sql).await.expect("rows");
        assert_remote(&report, filter);
        compare(&plain(&setup, &sql).await, &rows, Rule::same_engine()).unwrap_or_else(|e| panic!("{filter}: {e}"));
        let asked = lake.server.take_requests().into_iter();
        let objects = asked.filter(|request| matches!(request.operation, Operation::Get | Operation::Head));
        let folders: BTreeSet<String> = objects
            .map(|request| {
                request.key.trim_start_matches("sales/region=").rsplit_once('/').expect("a file").0.to_owned()
            })
            .collect();
        assert_eq!(folders.iter().map(String::as_str).collect::<Vec<_>>(), expect, "{filter}");
    }
    lake.session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_results_pass_through_the_exchange() {
    let folder = TempDir::new().expect("a temporary folder");
    // Digits of checksums hardly compress, so each file's rows are more than a response can hold.
    let select = |file: u32| {
        let text = "md5(CAST(value AS VARCHAR)) || md5(CAST(-value AS VARCHAR))";
        format!("SELECT value AS k, {text} AS v FROM generate_series({}, {})", file * 100_000, file * 100_000 + 99_999)
    };
    for file in 0..4 {
        let path = folder.path().join(format!("{file}.parquet"));
        plain(&[], &format!("COPY ({}) TO '{}' STORED AS PARQUET", select(file), path.display())).await;
    }
    let lake = LakeOnS3::open();
    lake.upload(folder.path(), "wide").await;
    let sql = |location: String| format!("SELECT * FROM '{location}' WHERE k % 10 <> 3");
    lake.server.take_requests();
    let (rows, report) = run(&lake.session, &sql(lake.server.url("wide/"))).await.expect("rows");
    assert_remote(&report, "large results");
    assert_eq!((report.fragments, report.results_in_exchange), (4, 4), "{report:?}");
    let expected = plain(
        &[],
        &format!("SELECT * FROM ({}) WHERE k % 10 <> 3", (0..4).map(select).collect::<Vec<_>>().join(" UNION ALL ")),
    )
    .await;
    compare(&expected, &rows, Rule::same_engine().in_any_order()).unwrap_or_else(|difference| panic!("{difference}"));
    let asked = lake.server.take_requests();
    let written = asked.iter().filter(|request| {
        matches!(request.operation, Operation::Put | Operation::CompleteMultipart)
            && request.key.starts_with("exchange/")
    });
    assert_eq!(written.count(), 4, "one object a result: {asked:?}");
    assert_eq!(lake.keys("exchange").await, Vec::<Key>::new(), "the exchange is not empty");
    lake.session.close().await;
    assert_eq!(lake.keys("wide").await.len(), 4, "data files are not to be cleaned");
}
