//! Tables over files without a list: folders, patterns, partition folders, files that differ. Each case stands beside its rows.
//! It has them on this disk and in S3, locally and on functions.

mod columns;
mod listing;
mod names;
mod partitions;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Schema};
use gust_engine::config::{Config, Target};
use gust_engine::session::Session;
use gust_tests::asks::{self, Reader, ask};
use gust_tests::query::run;
use gust_tests::s3::S3Server;
use object_store::ObjectStoreExt;
use object_store::path::Path as Key;
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

/// Content of a file.
enum Content {
    Parquet(Vec<(&'static str, ArrayRef)>),
    Bytes(&'static str),
}

/// Returns a file with one column `id`.
fn ids<const N: usize>(ids: [i64; N]) -> Content {
    column("id", Int64Array::from(ids.to_vec()))
}

fn column(name: &'static str, values: impl Array + 'static) -> Content {
    Content::Parquet(vec![(name, Arc::new(values))])
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        let columns = match self {
            Self::Bytes(text) => return text.as_bytes().to_vec(),
            Self::Parquet(columns) => columns,
        };
        let field = |(name, values): &(&str, ArrayRef)| Field::new(*name, values.data_type().clone(), true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        let values = columns.iter().map(|(_, values)| Arc::clone(values)).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), values).expect("columns of one length");
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
        bytes
    }
}

/// Expected result of a statement over some files.
enum Expect {
    /// Lines of values, in any order, read by functions where the target has them.
    Rows(&'static [&'static str]),
    /// Lines of values, in any order, with or without functions: a fragment may have nothing to read.
    RowsHere(&'static [&'static str]),
    /// Parts of the message.
    Error(&'static [&'static str]),
}
use Expect::{Error, Rows, RowsHere};

/// Files and statements over them. `$T` in a statement is the place of the files; a slash follows it.
struct Case {
    files: Vec<(&'static str, Content)>,
    create: &'static str,
    queries: Vec<(&'static str, Expect)>,
}

fn case(files: Vec<(&'static str, Content)>, create: &'static str, queries: Vec<(&'static str, Expect)>) -> Case {
    Case { files, create, queries }
}

/// Place of the files, and the session that reads them.
struct CheckedFiles {
    what: String,
    session: Session,
    target: Target,
    root: String,
}

impl CheckedFiles {
    async fn check(&self, case: &Case) {
        let at = |sql: &str| sql.replace("$T/", &format!("{}/", self.root));
        if !case.create.is_empty() {
            let made = run(&self.session, &format!("CREATE EXTERNAL TABLE t {}", at(case.create))).await;
            made.unwrap_or_else(|e| panic!("{}: {}: {e}", self.what, case.create));
        }
        for (sql, expect) in &case.queries {
            let what = format!("{}: {}: {sql}", self.what, case.create);
            let read = if matches!(expect, Rows(_)) { Reader::Functions } else { Reader::Anybody };
            let answer = ask(&self.session, self.target, &at(sql), read).await;
            match (expect, answer) {
                (Error(parts), Err(error)) => {
                    let message = error.to_string();
                    for part in *parts {
                        assert!(message.contains(part), "{what}: `{part}` is not in: {message}");
                    }
                }
                (Rows(rows) | RowsHere(rows), Ok(batches)) => assert_eq!(lines(&batches), sorted(rows), "{what}"),
                (Error(_), Ok(batches)) => panic!("{what}: no error, but {:?}", lines(&batches)),
                (_, Err(error)) => panic!("{what}: {error}"),
            }
        }
        if !case.create.is_empty() {
            run(&self.session, "DROP TABLE t").await.expect("it was made");
        }
    }
}

fn sorted(rows: &[&str]) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(|row| (*row).to_owned()).collect();
    rows.sort();
    rows
}

/// Returns the rows as sorted lines.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = asks::lines(batches, "NULL");
    lines.sort();
    lines
}

fn write(folder: &Path, case: &Case) {
    for (name, content) in &case.files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, content.bytes()).expect("written");
    }
}

async fn upload(server: &S3Server, prefix: &str, case: &Case) {
    let store = server.store().expect("a client");
    for (name, content) in &case.files {
        let key = Key::parse(format!("{prefix}/{name}")).expect("a key");
        store.put(&key, content.bytes().into()).await.expect("put");
    }
}

fn in_s3(server: &S3Server, on: Target) -> Config {
    Config { s3: server.config(), ..on_disk(on) }
}

fn on_disk(on: Target) -> Config {
    let mut config = Config { on, functions_max: 3, ..Config::default() };
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    config
}

/// Checks the cases everywhere: with files on this disk and in S3, read locally, by in-process functions, and by processes.
async fn check(cases: Vec<Case>) {
    // It holds several configurations.
    Box::pin(checked(cases)).await;
}

async fn checked(cases: Vec<Case>) {
    let server = S3Server::start().expect("a server");
    let folder = TempDir::new().expect("a temporary folder");
    for (number, case) in cases.iter().enumerate() {
        write(&folder.path().join(number.to_string()), case);
        upload(&server, &number.to_string(), case).await;
    }
    for on in [Target::Local, Target::InProcess, Target::Processes] {
        let disk = (on_disk(on), folder.path().display().to_string());
        let s3 = (in_s3(&server, on), server.url("").trim_end_matches('/').to_owned());
        for (config, root) in [disk, s3] {
            let session = Session::new(config).expect("a session");
            for (number, case) in cases.iter().enumerate() {
                let what = format!("{on:?} in {root}");
                let root = format!("{root}/{number}");
                CheckedFiles { what, session: session.clone(), target: on, root }.check(case).await;
            }
            session.close().await;
        }
    }
}
