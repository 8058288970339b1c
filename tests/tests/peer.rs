//! Tests of the line protocol behind which `lab` measures builds beside each other.

use std::path::Path;
use std::process::Command;

use gust::demo::queries;
use gust_tests::compare::{Rule, compare, read_arrow_file};
use gust_tests::peer::{Peer, PeerQuery, Question};
use gust_tests::s3::identity::access_key;
use gust_tests::s3::{Operation, REGION, S3Server, SECRET_ACCESS_KEY};
use gust_tests::tpch::{self, Tables};
use gust_tests::{query, s3};

#[tokio::test]
async fn every_side_of_this_build_answers_with_its_rows() {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let tables = tpch::tables(cache).unwrap();
    let server = S3Server::start().unwrap();
    let root = format!("s3://{}", s3::BUCKET);
    tables.upload(server.store().unwrap().as_ref(), &root).await.unwrap();
    let sql = queries::query(3);
    let expect = query::plain(&tables.create_statements(), sql).await;
    let folder = tempfile::tempdir().unwrap();
    for arguments in
        [&["local"][..], &["processes", "2"], &["processes", "2", "auto"], &["processes", "2", "shuffle"], &["stock"]]
    {
        let key = access_key(arguments[0]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_gust_peer"));
        command
            .args(arguments)
            .env("AWS_ENDPOINT_URL", server.endpoint())
            .env("AWS_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", &key)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        let mut peer = Peer::start(command).unwrap();
        peer.ask(&Question::Tables(Tables::locations_at(&root))).unwrap();
        server.take_requests();
        let rows = folder.path().join(format!("{}.arrow", arguments[0]));
        let question = PeerQuery { number: 3, sql: sql.to_owned(), rows: rows.clone() };
        let answer = peer.ask(&Question::Query(question)).unwrap();
        peer.end().unwrap();
        compare(&expect, &read_arrow_file(&rows).unwrap(), Rule::same_engine()).unwrap();
        assert!(answer.rows == 10 && answer.seconds > 0.0, "{answer:?}");
        // The side's key tells its requests apart, those of its functions included.
        let requests = server.take_requests();
        assert!(requests.iter().any(|request| request.operation == Operation::Get), "{arguments:?}: {requests:?}");
        assert!(requests.iter().all(|request| request.identity == key), "{arguments:?}: {requests:?}");
        match arguments[0] {
            "processes" => {
                assert!(answer.gigabyte_seconds.unwrap() > 0.0, "{answer:?}");
                assert!(answer.report["fragments"].as_u64().unwrap() > 0, "{answer:?}");
                assert_eq!(answer.report["fragments_adopted"], answer.report["fragments"]);
            }
            "local" => assert_eq!(answer.report["fragments"], 0),
            _ => assert!(answer.report.is_null()),
        }
    }
}

#[test]
fn a_program_that_ends_is_an_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gust_peer"));
    command.arg("nowhere");
    let error = Peer::start(command).err().unwrap().to_string();
    assert!(error.ends_with("gust_peer ended instead of answering"), "{error}");
}
