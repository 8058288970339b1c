//! Answers to TPC-H's 22 queries over HTTP: rows and types are those of the command line, in each format.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use bytes::Bytes;
use gust_tests::compare::{Rule, compare};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{FORMATS, Served};
use crate::bad_input::{Place, check};

/// Reads rows with their types; None for a format of text.
fn batches(format: &str, body: &[u8]) -> Option<Vec<RecordBatch>> {
    let (schema, batches): (_, Result<Vec<_>, _>) = match format {
        "arrow" => {
            let reader = StreamReader::try_new(body, None).expect("a stream of Arrow");
            (reader.schema(), reader.collect())
        }
        "parquet" => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::copy_from_slice(body)).expect("Parquet");
            (builder.schema().clone(), builder.build().expect("a reader").collect())
        }
        _ => return None,
    };
    let mut batches = batches.expect("rows");
    batches.push(RecordBatch::new_empty(schema));
    Some(batches)
}

#[test]
fn answers_to_tpch_have_the_rows_and_types_of_the_command_line() {
    let place = Place::new("");
    let demo = ["demo", "--sf", "0.01", "--home", "lake", "--queries", "6", "--on", "local"];
    check(&place.gust(&demo).output().expect("it starts"), 0, &["made orders"]);
    let lake = ["--config", "lake/gust.toml", "--on", "local", "--catalog", "demo"];
    let queries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/src/demo/queries");
    let server = Served::start(&place, &lake);
    for number in 1..=22 {
        let file = queries.join(format!("q{number:02}.sql"));
        let file = file.to_str().expect("a path");
        // The formats take turns: each has three or four queries, and each query Arrow, where types show.
        let turn = FORMATS[number % FORMATS.len()].1;
        for (accept, format) in FORMATS.into_iter().filter(|(_, format)| *format == turn || *format == "arrow") {
            let query = ["query", "--report", "none", "--format", format, "-f", file];
            let expect = place.gust(&[&query[..], &lake].concat()).output().expect("it starts");
            check(&expect, 0, &[]);
            let (accept, body) = (format!("Accept: {accept}"), format!("@{file}"));
            let flags = ["-H", "Content-Type: application/sql", "-H", &accept, "--data-binary", &body];
            let answer = server.curl("/v1/query", &flags);
            assert_eq!((answer.code, answer.status), (0, 200), "{number} as {format}: {answer:?}");
            match (batches(format, &expect.stdout), batches(format, &answer.body)) {
                (Some(expect), Some(seen)) => compare(&expect, &seen, Rule::same_engine())
                    .unwrap_or_else(|difference| panic!("{number} as {format}: {difference}")),
                _ => assert!(expect.stdout == answer.body, "{number} as {format}: {}", answer.text()),
            }
            assert!(answer.body.len() > 10, "{number} as {format} has no rows");
        }
    }
    server.is_well();
}
