//! The cloud-shaped S3 server: each trouble fires, and a client gets through it or notices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fragment_fn::StoreClient;
use gust_engine::config::{Config, Target};
use gust_tests::query::{plain, run};
use gust_tests::s3::identity::{FUNCTION, access_key};
use gust_tests::s3::shape::{Faults, Latency, Pipe, RequestLimits};
use gust_tests::s3::{Operation, Repeated, Request, S3Server, Shape, StorageFault, accounts, repeated};
use gust_tests::{cloud, tpch};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tempfile::TempDir;

const PLAIN: Shape = Shape {
    seed: 1,
    scale: 1.0,
    pipe: None,
    latency: None,
    limits: None,
    faults: Faults { slow_down: 0.0, internal_error: 0.0, reset: 0.0, reset_in_body: 0.0, truncated: 0.0 },
};

fn object(bytes: usize) -> Bytes {
    (0..bytes).map(|index| (index * 7 % 251) as u8).collect::<Vec<_>>().into()
}

/// Starts a server with one object. Returns it with a client that has the retries of gust.
async fn server(name: &str) -> (S3Server, StoreClient) {
    let server = S3Server::start().expect("a server on loopback");
    let client = fragment_fn::connect(&cloud::access(&server, name), None).expect("a client of it");
    client.store.put(&Key::from("t/object"), object(300_000).into()).await.expect("put");
    server.take_requests();
    (server, client)
}

async fn read(client: &StoreClient, start: u64) -> object_store::Result<Bytes> {
    let range = Some(GetRange::Bounded(start..start + 100_000));
    let options = GetOptions { range, ..Default::default() };
    client.store.get_opts(&Key::from("t/object"), options).await?.bytes().await
}

#[tokio::test]
async fn each_identity_has_a_pipe_and_an_account() {
    let (server, one) = server("one").await;
    let two = fragment_fn::connect(&cloud::access(&server, "two"), None).expect("a client");
    let rate = 4e6;
    let pipe =
        Pipe { burst_once_bytes: 0.0, burst_bytes: 0.0, line_bytes_per_second: 1e9, refill_bytes_per_second: rate };
    server.set_shape(Some(Shape { scale: 4.0, pipe: Some(pipe), ..PLAIN }));
    let began = Instant::now();
    let (a, b, c) = tokio::join!(read(&one, 0), read(&one, 100_000), read(&two, 0));
    let took = began.elapsed();
    assert_eq!(a.expect("read"), object(300_000)[..100_000]);
    assert_eq!(b.expect("read"), object(300_000)[100_000..200_000]);
    assert_eq!(c.expect("read").len(), 100_000);
    // The busier pipe bounds the time: it has a quarter of the rate.
    assert!(took >= Duration::from_secs_f64(200_000.0 / (rate / 4.0)), "{took:?}");
    let (one, two) = (access_key("one"), access_key("two"));
    assert_eq!(server.passed_bytes(), BTreeMap::from([(one.clone(), 200_000), (two.clone(), 100_000)]));
    let accounts = accounts(&server.take_requests());
    assert_eq!((accounts[&one].bytes_read, accounts[&two].bytes_read), (200_000, 100_000));
    assert_eq!(accounts[&one].requests, BTreeMap::from([(Operation::Get, 2)]));
}

/// Each fault fires. Gust's own client gets the right bytes, and the server has counted the requests.
#[tokio::test]
async fn each_fault_fires_and_a_client_comes_through() {
    for (faults, fault) in [
        (Faults { slow_down: 0.4, ..Faults::default() }, StorageFault::SlowDown),
        (Faults { internal_error: 0.4, ..Faults::default() }, StorageFault::InternalError),
        (Faults { reset: 0.4, ..Faults::default() }, StorageFault::Reset),
        (Faults { reset_in_body: 0.4, ..Faults::default() }, StorageFault::ResetInBody),
    ] {
        let (server, client) = server("one").await;
        server.set_shape(Some(Shape { faults, ..PLAIN }));
        let starts = (0..10).map(|part| part * 20_000);
        let reads = futures::future::join_all(starts.clone().map(|start| read(&client, start))).await;
        for (start, bytes) in starts.zip(reads) {
            let bytes = bytes.unwrap_or_else(|error| panic!("{fault:?} at {start}: {error}"));
            assert_eq!(bytes, object(300_000)[start as usize..start as usize + 100_000], "{fault:?} at {start}");
        }
        let fired = server.fired();
        assert_eq!(fired.keys().copied().collect::<Vec<_>>(), [fault]);
        let requests = server.take_requests();
        let refused = requests.iter().filter(|request| request.refused.is_some()).count() as u64;
        let noted = match fault {
            StorageFault::SlowDown | StorageFault::InternalError => fired[&fault],
            StorageFault::Reset | StorageFault::ResetInBody | StorageFault::Truncated => 0,
        };
        assert_eq!(refused, noted, "{requests:?}");
        // object_store has sent these again by itself. The client's pace knows of them.
        let slow_downs = if fault == StorageFault::SlowDown { noted } else { 0 };
        assert_eq!(client.pace().expect("a client over HTTP").slow_downs(), slow_downs, "{fault:?}");
        if fault == StorageFault::ResetInBody {
            // object_store reads on from where the body broke off: each break costs one more request.
            assert_eq!(requests.len() as u64, 10 + fired[&fault]);
        }
    }
}

/// object_store takes such a body for whole. Gust's own decorators notice it.
#[tokio::test]
async fn a_truncated_body_is_noticed() {
    let (server, client) = server("one").await;
    server.set_shape(Some(Shape { faults: Faults { truncated: 1.0, ..Faults::default() }, ..PLAIN }));
    let short = read(&client, 0).await.expect("taken for whole");
    assert!(short.len() < 100_000, "{} bytes came", short.len());
    assert_eq!(server.fired(), BTreeMap::from([(StorageFault::Truncated, 1)]));
    let config = Config { on: Target::Local, ..Config::default() };
    let session = cloud::session(&server, config, "no function".as_ref()).expect("a session");
    let watched = session.stores().open(&url::Url::parse(&server.url("t/")).unwrap()).expect("the same store");
    let watched = StoreClient::new(watched, None);
    let error = read(&watched, 0).await.expect_err("a part of the bytes");
    assert!(error.to_string().contains("100000 bytes were asked for"), "{error}");
}

#[tokio::test]
async fn one_seed_fires_the_same_faults_in_any_order() {
    let faults = Faults { slow_down: 0.2, internal_error: 0.2, reset_in_body: 0.2, ..Faults::default() };
    let mut stories = Vec::new();
    for (seed, backwards) in [(1, false), (1, true), (2, false)] {
        let (server, client) = server("one").await;
        server.set_shape(Some(Shape { seed, faults, ..PLAIN }));
        let mut starts: Vec<u64> = (0..20).map(|part| part * 10_000).collect();
        if backwards {
            starts.reverse();
        }
        futures::future::join_all(starts.into_iter().map(|start| read(&client, start))).await;
        stories.push(server.fired());
    }
    assert_eq!(stories[0], stories[1], "in whatever order requests come");
    assert_ne!(stories[0], stories[2]);
}

/// The coordinator has read the footer to plan, so the function reads none. It reads no byte that the query
/// does not ask for.
#[tokio::test(flavor = "multi_thread")]
async fn a_known_footer_comes_with_the_fragment() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("a.parquet");
    let rows = "SELECT value AS k, md5(CAST(value AS VARCHAR)) AS v FROM generate_series(1, 30000)";
    plain(&[], &format!("COPY ({rows}) TO '{}' STORED AS PARQUET", file.display())).await;
    let object = std::fs::read(&file).expect("readable");
    let size = object.len() as u64;
    let server = S3Server::start().expect("a server");
    server.store().expect("a client").put(&Key::from("t/a.parquet"), object.into()).await.expect("put");

    let config = Config { on: Target::Processes, functions_max: 1, ..Config::default() };
    let function = env!("CARGO_BIN_EXE_bootstrap_under_test");
    let session = cloud::session(&server, config, function.as_ref()).expect("a session");
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", server.url("t/"));
    run(&session, &create).await.expect("a table");
    run(&session, "EXPLAIN SELECT sum(k) FROM t").await.expect("a plan");
    server.take_requests();
    let (_, report) = run(&session, "SELECT sum(k) FROM t").await.expect("rows");
    assert_eq!(report.fragments_adopted, 1);
    let requests = server.take_requests();
    let reads = requests.iter().filter(|request| request.identity.starts_with(&access_key(FUNCTION)));
    let reads: Vec<_> = reads.map(|request| request.bytes.clone()).collect();
    assert!(!reads.is_empty() && reads.iter().all(|read| read.end < size - 1_000), "{reads:?} of {size} bytes");
    let read = report.functions.bytes_read;
    assert!(read < size / 4, "{read} of {size} bytes for a narrow column");
    session.close().await;
}

/// Functions with identities of their own read a throttled table through a slow network. The rows are right, and each byte that the
/// server has sent once is in the report.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_gets_through_a_store_that_asks_to_slow_down() {
    let server = S3Server::start().expect("a server");
    let upload = server.store().expect("a client");
    let tables = tpch::tables(env!("CARGO_TARGET_TMPDIR").as_ref()).expect("tables");
    let files = tables.folder(gust::demo::table::TpchTable::LineItem);
    for file in std::fs::read_dir(&files).expect("made").map(|file| file.expect("readable").path()) {
        let key = Key::from(format!("lineitem/{}", file.file_name().unwrap().display()));
        upload.put(&key, std::fs::read(&file).expect("readable").into()).await.expect("put");
    }
    let sql = "SELECT l_returnflag, count(*) AS n, sum(l_quantity) FROM lineitem GROUP BY 1 ORDER BY 1";
    let create = |location: &str| format!("CREATE EXTERNAL TABLE lineitem STORED AS PARQUET LOCATION '{location}'");
    let config = Config { on: Target::Processes, functions_max: 4, ..Config::default() };
    let function = env!("CARGO_BIN_EXE_bootstrap_under_test");
    let session = cloud::session(&server, config, function.as_ref()).expect("a session");
    run(&session, &create(&server.url("lineitem/"))).await.expect("a table");

    let latency = Latency { least_ms: 5.0, longer_ms: vec![(0.5, 10.0), (0.01, 30.0)], worst_ms: 100.0 };
    let limits = RequestLimits { reads_per_second: 60.0, writes_per_second: 60.0, burst: 6.0 };
    server.set_shape(Some(Shape { latency: Some(latency), limits: Some(limits), ..PLAIN }));
    server.take_requests();
    let (rows, report) = run(&session, sql).await.expect("rows");
    // Retries inside an attempt and new attempts both get through: object_store's delays have no seed, so chance decides.
    assert_eq!((report.fragments_adopted, &report.fell_back), (4, &None), "{report:?}");
    assert_eq!(rows, plain(&[create(&format!("{}/", files.display()))], sql).await);
    assert!(server.fired()[&StorageFault::SlowDown] > 0, "{:?}", server.fired());
    let is_of_function = |request: &Request| request.identity.starts_with(&access_key(FUNCTION));
    let requests: Vec<Request> = server.take_requests().into_iter().filter(is_of_function).collect();
    let accounts = accounts(&requests);
    assert_eq!(accounts.len(), 4, "{accounts:?}");
    // A late read is sent twice, and one of its answers is dropped. So are answers to an attempt that gave up. The server counts their bytes; the
    // report has the bytes that came. Nothing else is served twice.
    let again = repeated(&requests);
    let times_more = |Repeated { bytes, times, .. }: &Repeated| (bytes.end - bytes.start) * (*times as u64 - 1);
    let served: u64 = accounts.values().map(|account| account.bytes_read).sum();
    let served_once = served - again.iter().map(times_more).sum::<u64>();
    let (metered, hedged) = (report.functions.bytes_read, report.functions.requests.hedged);
    let told =
        format!("{metered} bytes came of {served}, {hedged} reads were sent twice, these were served again: {again:?}");
    assert!((served_once..=served).contains(&metered), "{told}");
    assert!(report.attempts > report.fragments || again.len() as u64 <= hedged, "{told}");
    session.close().await;
}
