//! Findings of the doctor about the places of tables.

use std::path::Path;

use futures::StreamExt;
use gust_engine::config::{Config, Secret, Target};
use gust_engine::session::Session;
use gust_tests::cloud;
use gust_tests::s3::{BUCKETS, Operation, S3Server, SECRET_ACCESS_KEY};
use object_store::ObjectStoreExt;

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_lists_the_places_of_tables() {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    store.put(&"tables/t/a.parquet".into(), "x".into()).await.expect("written");
    let found = async |secret: &str| {
        let mut config = cloud::config(&server, Config { on: Target::Local, ..Config::default() }, Path::new("unused"));
        config.exchange = None;
        config.s3.secret_access_key = Some(Secret::new(secret));
        config.server.reach = vec![server.url("tables/"), server.url("none/"), "/data".to_owned()];
        let session = Session::new(config).expect("a session");
        let findings = session.examine().await;
        session.close().await;
        let of_tables = findings.into_iter().filter(|finding| finding.subject.starts_with("tables "));
        of_tables
            .map(|finding| {
                (finding.subject, finding.outcome.map_err(|error| format!("{error}, hint: {:?}", error.hint())))
            })
            .collect::<Vec<_>>()
    };
    let well = found(SECRET_ACCESS_KEY).await;
    let (tables, none) = (format!("tables {}", server.url("tables/")), format!("tables {}", server.url("none/")));
    let expect = [(none, "can be listed, and is empty"), (tables, "can be listed: tables/t/a.parquet")];
    assert_eq!(well, expect.map(|(subject, told)| (subject, Ok(told.to_owned()))));
    let ill = found("wrong").await;
    assert!(ill.iter().all(|(_, outcome)| outcome.as_ref().is_err_and(|told| told.contains("hint: Some"))), "{ill:?}");
}

/// A function has to have its rights in all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_tried_in_each_bucket_of_the_exchange() {
    let server = S3Server::start().expect("a server");
    for buckets in [1, 3] {
        let exchange = Some(server.spread_url(buckets, "exchange"));
        let config = Config { on: Target::InProcess, exchange, ..Config::default() };
        let session = Session::new(cloud::config(&server, config, Path::new("unused"))).expect("a session");
        server.take_requests();
        let findings = session.examine().await;
        session.close().await;
        let answers = |found: &&str| found.starts_with("answered in ");
        let answered: Vec<&str> = findings.iter().filter_map(|it| it.outcome.as_deref().ok()).filter(answers).collect();
        assert_eq!(answered.len(), 1, "{findings:?}");
        assert_eq!(answered[0].ends_with(", in each of 3 buckets"), buckets == 3, "{answered:?}");
        let requests = server.take_requests();
        let of_rows = requests.iter().filter(|it| it.operation == Operation::Put && it.key.ends_with(".arrows"));
        let written: Vec<&str> = of_rows.map(|it| it.bucket.as_str()).collect();
        assert_eq!(written, BUCKETS[..buckets], "{requests:?}");
        for bucket in BUCKETS {
            let mut left = server.store_of(bucket).expect("a client").list(None);
            assert!(left.next().await.is_none(), "something is left in {bucket}");
        }
    }
}
