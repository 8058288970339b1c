//! Findings of the doctor about the places of tables.

use std::path::Path;

use gust_engine::config::{Config, Secret, Target};
use gust_engine::session::Session;
use gust_tests::cloud;
use gust_tests::s3::{S3Server, SECRET_ACCESS_KEY};
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
