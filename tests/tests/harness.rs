//! Tests of the harness itself: the S3 server, the tables that tests share, and DuckDB as a judge.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use gust::demo::queries;
use gust::demo::table::TpchTable;
use gust_tests::compare::{Rule, compare};
use gust_tests::duckdb;
use gust_tests::python::{self, Run};
use gust_tests::s3::shape::Latency;
use gust_tests::s3::{GONE, Operation, Repeated, Request, S3Server, Shape, in_flight_max, repeated};
use gust_tests::tpch;
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    UpdateVersion, WriteMultipart,
};
use tokio::net::TcpStream;

use crate::tpch::judged;

fn cache() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn server() -> (S3Server, Arc<dyn ObjectStore>) {
    let server = S3Server::start().expect("a server on loopback");
    let store = server.store().expect("a client of it");
    (server, store)
}

async fn get(store: &dyn ObjectStore, key: &str, options: GetOptions) -> object_store::Result<Bytes> {
    store.get_opts(&Key::from(key), options).await?.bytes().await
}

async fn head(store: &dyn ObjectStore, key: &str, options: GetOptions) -> object_store::Result<ObjectMeta> {
    Ok(store.get_opts(&Key::from(key), GetOptions { head: true, ..options }).await?.meta)
}

#[tokio::test]
async fn ranges_are_served_to_the_byte_and_noted() {
    let (server, store) = server();
    // The object is longer than a piece of the body, and not a multiple of one.
    let object: Bytes = (0..3_000_001_u32).map(|index| (index * 7 % 251) as u8).collect::<Vec<_>>().into();
    store.put(&Key::from("a/object"), object.clone().into()).await.unwrap();
    store.put(&Key::from("a/short"), Bytes::from_static(b"0123456789").into()).await.unwrap();
    server.take_requests();

    let size = object.len() as u64;
    for (key, range, expect) in [
        ("a/object", None, 0..size),
        ("a/object", Some(GetRange::Bounded(0..1)), 0..1),
        ("a/object", Some(GetRange::Bounded(1_048_570..2_097_160)), 1_048_570..2_097_160),
        ("a/object", Some(GetRange::Bounded(size - 1..size + 100)), size - 1..size),
        ("a/object", Some(GetRange::Offset(2_999_999)), 2_999_999..size),
        ("a/object", Some(GetRange::Suffix(5)), size - 5..size),
        ("a/short", Some(GetRange::Suffix(10)), 0..10),
        ("a/short", Some(GetRange::Suffix(524_288)), 0..10),
    ] {
        let what = format!("{key} {range:?}");
        let got = get(&store, key, GetOptions { range, ..Default::default() }).await.unwrap();
        let whole = if key == "a/object" { object.as_ref() } else { b"0123456789".as_slice() };
        assert_eq!(got, whole[expect.start as usize..expect.end as usize], "{what}");
        let request = server.take_requests().pop().unwrap();
        assert_eq!((request.operation, request.bytes, request.refused), (Operation::Get, expect, None), "{what}");
        assert_eq!(request.key, key);
    }

    let beyond = GetOptions { range: Some(GetRange::Bounded(10..20)), ..Default::default() };
    get(&store, "a/short", beyond).await.unwrap_err();
    assert_eq!(server.take_requests().pop().unwrap().refused, Some(416));
    let many = store.get_ranges(&Key::from("a/short"), &[0..2, 8..10]).await.unwrap();
    assert_eq!(many, [Bytes::from_static(b"01"), Bytes::from_static(b"89")]);
}

#[tokio::test]
async fn stretches_that_are_served_again_are_found() {
    let (server, store) = server();
    store.put(&Key::from("a"), Bytes::from(vec![1; 100]).into()).await.unwrap();
    store.put(&Key::from("b"), Bytes::from(vec![2; 100]).into()).await.unwrap();
    let range = |range| GetOptions { range: Some(GetRange::Bounded(range)), ..Default::default() };
    for (key, bytes) in [("a", 0..10), ("a", 10..20), ("a", 5..15), ("a", 8..12), ("b", 0..10), ("a", 60..70)] {
        get(&store, key, range(bytes)).await.unwrap();
    }
    get(&store, "b", range(100..200)).await.unwrap_err();
    get(&store, "b", GetOptions { range: Some(GetRange::Suffix(95)), ..Default::default() }).await.unwrap();
    let again = |key: &str, bytes, times| Repeated { key: key.to_owned(), bytes, times };
    let expect = [again("a", 5..8, 2), again("a", 8..12, 3), again("a", 12..15, 2), again("b", 5..10, 2)];
    assert_eq!(repeated(&server.take_requests()), expect);
}

#[tokio::test]
async fn requests_in_flight_are_counted() {
    let (server, store) = server();
    store.put(&Key::from("a"), Bytes::from_static(b"a").into()).await.unwrap();
    let latency = Latency { least_ms: 500.0, longer_ms: Vec::new(), worst_ms: 500.0 };
    let shape =
        Shape { seed: 1, scale: 1.0, pipe: None, latency: Some(latency), limits: None, faults: Default::default() };
    server.set_shape(Some(shape));
    server.take_requests();
    let once = || get(&store, "a", GetOptions::default());
    futures::future::try_join_all((0..8).map(|_| once())).await.unwrap();
    let requests = server.take_requests();
    assert_eq!(in_flight_max(&requests), [("gust-test-key".to_owned(), 8)].into());
    let waited = |request: &Request| request.at.end - request.at.start;
    assert!(requests.iter().all(|request| waited(request) >= Duration::from_millis(500)), "{requests:?}");
    for _ in 0..2 {
        once().await.unwrap();
    }
    let requests = server.take_requests();
    assert_eq!(in_flight_max(&requests), [("gust-test-key".to_owned(), 1)].into());
    assert!(requests[0].at.end <= requests[1].at.start, "{requests:?}");

    // A request that its client gives up is over, and is noted.
    tokio::time::timeout(Duration::from_millis(250), once()).await.unwrap_err();
    for _ in 0..1000 {
        if server.in_flight() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.take_requests().pop().unwrap().refused, Some(GONE));
}

#[tokio::test]
async fn an_absent_object_is_a_404() {
    let (server, store) = server();
    let error = get(&store, "absent", GetOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = head(&store, "absent", GetOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let refused: Vec<_> = server.requests().into_iter().map(|request| (request.operation, request.refused)).collect();
    assert_eq!(refused, [(Operation::Get, Some(404)), (Operation::Head, Some(404))]);
}

#[tokio::test]
async fn a_replaced_object_fails_its_old_etag() {
    let (server, store) = server();
    let key = Key::from("data/file.parquet");
    let old = store.put(&key, Bytes::from_static(b"old").into()).await.unwrap().e_tag.unwrap();
    let if_match = |etag: &str| GetOptions { if_match: Some(etag.to_owned()), ..Default::default() };
    let if_none_match = |etag: &str| GetOptions { if_none_match: Some(etag.to_owned()), ..Default::default() };
    assert_eq!(head(&store, "data/file.parquet", GetOptions::default()).await.unwrap().e_tag.unwrap(), old);
    assert_eq!(get(&store, "data/file.parquet", if_match(&old)).await.unwrap(), "old");
    let error = get(&store, "data/file.parquet", if_none_match(&old)).await.unwrap_err();
    assert!(matches!(error, Error::NotModified { .. }), "{error}");

    let new = store.put(&key, Bytes::from_static(b"new").into()).await.unwrap().e_tag.unwrap();
    assert_ne!(old, new);
    server.take_requests();
    let error = get(&store, "data/file.parquet", if_match(&old)).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
    assert_eq!(server.take_requests().pop().unwrap().refused, Some(412));
    let error = head(&store, "data/file.parquet", if_match(&old)).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
    assert_eq!(get(&store, "data/file.parquet", if_none_match(&old)).await.unwrap(), "new");
}

#[tokio::test]
async fn writes_keep_their_conditions() {
    let (_server, store) = server();
    let key = Key::from("catalog/pointer");
    let put = async |mode: PutMode| {
        let options = PutOptions { mode, ..Default::default() };
        store.put_opts(&key, Bytes::from_static(b"x").into(), options).await
    };
    let update = |e_tag: Option<String>| PutMode::Update(UpdateVersion { e_tag, version: None });
    let first = put(PutMode::Create).await.unwrap();
    let error = put(PutMode::Create).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    put(update(first.e_tag)).await.unwrap();
    let error = put(update(Some("\"another\"".to_owned()))).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");

    // Twenty writers create the same object, and one of them succeeds.
    let contended = Key::from("catalog/contended");
    let create = PutOptions { mode: PutMode::Create, ..Default::default() };
    let tries = (0..20).map(|_| store.put_opts(&contended, Bytes::from_static(b"y").into(), create.clone()));
    let results = futures::future::join_all(tries).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
}

#[tokio::test]
async fn listings_come_in_order_in_pages_with_etags() {
    let (server, store) = server();
    let mut keys: Vec<String> = (0..1_100).map(|index| format!("many/part={}/{index:05}.parquet", index % 3)).collect();
    // A folder of files could not hold a key beside keys below it, or a key that is longer than a file's name may be.
    keys.extend(["many/part=0".to_owned(), format!("many/{}end", "long/".repeat(80)), "other".to_owned()]);
    let store = &store;
    futures::stream::iter(&keys)
        .map(|key| Key::from(key.as_str()))
        .map(|key| async move { store.put(&key, Bytes::from_static(b"z").into()).await })
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    server.take_requests();

    let listed: Vec<_> = store.list(Some(&Key::from("many"))).try_collect().await.unwrap();
    let mut expect: Vec<&str> = keys.iter().filter(|key| key.starts_with("many/")).map(String::as_str).collect();
    expect.sort_unstable();
    assert_eq!(listed.iter().map(|meta| meta.location.as_ref()).collect::<Vec<_>>(), expect);
    assert!(listed.iter().all(|meta| meta.size == 1 && meta.e_tag.is_some()));
    assert_eq!(server.take_requests().len(), 2, "a page holds a thousand keys");

    let shallow = store.list_with_delimiter(Some(&Key::from("many"))).await.unwrap();
    let folders: Vec<&str> = shallow.common_prefixes.iter().map(Key::as_ref).collect();
    assert_eq!(folders, ["many/long", "many/part=0", "many/part=1", "many/part=2"]);
    assert_eq!(shallow.objects.len(), 1);
    let after = store.list_with_offset(Some(&Key::from("many")), &Key::from("many/part=2/01000.parquet"));
    let after: Vec<_> = after.map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    assert!(after.iter().all(|key| key.as_str() > "many/part=2/01000.parquet") && !after.is_empty());
}

#[tokio::test]
async fn copies_keep_attributes_and_deleted_objects_are_gone() {
    let (server, store) = server();
    let options = PutOptions {
        attributes: Attributes::from_iter([
            (Attribute::ContentType, "application/vnd.apache.parquet"),
            (Attribute::Metadata("owner".into()), "gust"),
        ]),
        ..Default::default()
    };
    let from = Key::from("from");
    store.put_opts(&from, Bytes::from_static(b"body").into(), options.clone()).await.unwrap();
    store.copy(&from, &Key::from("to")).await.unwrap();
    store.delete(&from).await.unwrap();
    let copied = store.get(&Key::from("to")).await.unwrap();
    assert_eq!(copied.attributes, options.attributes);
    assert_eq!(copied.bytes().await.unwrap(), "body");

    let doomed = futures::stream::iter([Ok(Key::from("to")), Ok(Key::from("absent"))]).boxed();
    store.delete_stream(doomed).try_collect::<Vec<_>>().await.unwrap();
    let left: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(left, []);
    assert!(server.requests().iter().any(|request| request.operation == Operation::DeleteMany));
}

#[tokio::test]
async fn multipart_uploads_appear_whole_or_not_at_all() {
    let (server, store) = server();
    let key = Key::from("big/object");
    let body: Vec<u8> = (0..11_000_000_u32).map(|index| (index % 253) as u8).collect();
    let mut upload = WriteMultipart::new_with_chunk_size(store.put_multipart(&key).await.unwrap(), 5 << 20);
    upload.write(&body);
    upload.wait_for_capacity(0).await.unwrap();
    let error = head(&store, "big/object", GetOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "it is not complete yet: {error}");
    let etag = upload.finish().await.unwrap().e_tag.unwrap();
    assert!(etag.ends_with("-3\""), "{etag}");
    assert_eq!(get(&store, "big/object", GetOptions::default()).await.unwrap(), body);
    let parts = server.requests().into_iter().filter(|request| request.operation == Operation::UploadPart);
    assert_eq!(parts.map(|request| request.bytes.end).sum::<u64>(), body.len() as u64);

    let abandoned = WriteMultipart::new(store.put_multipart(&Key::from("big/abandoned")).await.unwrap());
    abandoned.abort().await.unwrap();
    let error = head(&store, "big/abandoned", GetOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");

    // Parts below the minimum are refused, as on S3.
    let mut small = store.put_multipart(&Key::from("big/small")).await.unwrap();
    small.put_part(Bytes::from_static(b"too small").into()).await.unwrap();
    small.put_part(Bytes::from_static(b"the last may be").into()).await.unwrap();
    small.complete().await.unwrap_err();
}

#[tokio::test]
async fn strangers_are_refused() {
    let (server, _) = server();
    let stranger = object_store::aws::AmazonS3Builder::new()
        .with_bucket_name("gust-test")
        .with_endpoint(server.endpoint())
        .with_region("us-east-1")
        .with_access_key_id("gust-test-key")
        .with_secret_access_key("not the secret")
        .with_allow_http(true)
        .build()
        .unwrap();
    let error = stranger.get(&Key::from("anything")).await.unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    assert_eq!(server.requests(), []);
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let server = S3Server::start().unwrap();
    let address = server.endpoint().trim_start_matches("http://").to_owned();
    TcpStream::connect(&address).await.unwrap();
    drop(server);
    // The server's threads end in their own time.
    for _ in 0..1000 {
        if TcpStream::connect(&address).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the server still answers");
}

#[test]
fn tables_have_the_files_that_were_asked_for() {
    let files = tpch::Files { lineitem: 5, orders: 2, others: 1 };
    let tables = tpch::tables_in_files(cache(), 0.001, files, 1000).unwrap();
    for table in TpchTable::ALL {
        let expect = match table {
            TpchTable::LineItem => 5,
            TpchTable::Orders => 2,
            _ => 1,
        };
        assert_eq!(fs::read_dir(tables.folder(table)).unwrap().count(), expect, "{}", table.name());
        assert!(tables.locations()[table.name()].ends_with(&format!("/{}/", table.name())));
    }
}

#[test]
fn shared_tables_are_made_once_and_whole() {
    let tables = tpch::tables(cache()).unwrap();
    for table in TpchTable::ALL {
        let files: Vec<_> = fs::read_dir(tables.folder(table)).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), if table.is_scaled() { tpch::FILES } else { 1 }, "{}", table.name());
    }
    let made = fs::metadata(tables.root()).unwrap().modified().unwrap();
    let again = tpch::tables(cache()).unwrap();
    assert_eq!(fs::metadata(again.root()).unwrap().modified().unwrap(), made);
}

#[tokio::test]
async fn datafusion_and_duckdb_agree_on_every_query() {
    let tables = tpch::tables(cache()).unwrap();
    let Some(answers) = duckdb::tpch_answers(cache(), &tables).unwrap() else { return };
    assert_eq!(answers.len(), queries::COUNT);
    for (number, answer) in (1..).zip(answers) {
        let rows = judged(queries::query(number)).await;
        compare(answer, rows, Rule::other_engine().in_any_order())
            .unwrap_or_else(|difference| panic!("Q{number}: {difference}"));
        assert!(!answer.is_empty(), "Q{number}: a result has a batch, if only for its columns");
    }
}

#[test]
fn a_script_that_fails_says_why() {
    match python::run(cache(), "tpch_judge.py", &["no/such/folder", "unused", "unused.sql"]) {
        Ok(Run::Skipped { reason }) => eprintln!("skipped: {reason}"),
        Ok(Run::Done { stdout }) => panic!("it had nothing to judge, and printed {stdout:?}"),
        Err(error) => assert!(error.to_string().contains("no/such/folder"), "{error}"),
    }
}
