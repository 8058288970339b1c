//! `docs/dialect.md`: each row of its tables is a statement with Gust's answer, locally and through functions, and with
//! DuckDB's.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use arrow::array::RecordBatch;
use gust_engine::config::Target;
use gust_engine::session::Session;
use gust_tests::asks::cells;
use gust_tests::compare::read_arrow_file;
use gust_tests::python;
use gust_tests::query::{run, session};
use tempfile::TempDir;

static PAGE: LazyLock<String> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/dialect.md");
    std::fs::read_to_string(path).expect("the page")
});

/// One row of a table.
struct Line {
    sql: String,
    gust: String,
    /// Answer of DuckDB, where the page has it.
    duckdb: Option<String>,
}

/// Returns the rows of the page's tables. Cells are divided by bars, and a bar in a cell has a backslash before it.
fn lines() -> Vec<Line> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    let line = |row: &str| {
        let hidden = row.replace("\\|", "\u{0}");
        let cells: Vec<String> = hidden.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect();
        assert_eq!(cells.len(), 6, "a row has four cells: {row}");
        let sql = cells[1].strip_prefix('`').and_then(|sql| sql.strip_suffix('`')).expect("a statement in backticks");
        let duckdb = Some(cells[3].clone()).filter(|cell| !cell.is_empty());
        let duckdb = duckdb.map(|cell| if cell == "same" { cells[2].clone() } else { cell });
        Line { sql: sql.to_owned(), gust: cells[2].clone(), duckdb }
    };
    rows.map(line).collect()
}

/// Returns the lines of the block that begins with three backticks and `name`.
fn block(name: &str) -> Vec<&'static str> {
    let begin = format!("```{name}");
    let lines = PAGE.lines().skip_while(|line| *line != begin).skip(1);
    lines.take_while(|line| *line != "```").collect()
}

/// Returns the rows as the page writes them, or the message.
fn written(answer: &Result<Vec<RecordBatch>, String>) -> String {
    let batches = match answer {
        Ok(batches) => batches,
        Err(message) => return format!("error: {message}"),
    };
    let rows: Vec<String> = cells(batches, "NULL").iter().map(|row| row.join(", ")).collect();
    rows.join("; ")
}

/// Returns whether an answer is the page's: it is the same text, or an error that has the page's words.
fn is_as_written(page: &str, answer: &str) -> bool {
    match page.strip_prefix("error: ") {
        Some(words) => answer.starts_with("error: ") && answer.contains(words),
        None => page == answer,
    }
}

/// Makes the files, and has DuckDB answer the lines. Returns None where Python is missing, and says so on stderr.
fn judged(lines: &[Line]) -> Option<TempDir> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::Builder::new().prefix("dialect-").tempdir_in(cache).expect("a temporary folder");
    let files: Vec<(&str, &str)> =
        block("files").into_iter().map(|line| line.split_once("  ").expect("two columns")).collect();
    let queries: Vec<&str> = lines.iter().map(|line| line.sql.as_str()).collect();
    let is_judged = python::duckdb_answers(cache, folder.path(), &files, &queries).expect("DuckDB answers");
    is_judged.then_some(folder)
}

/// Returns the statement with the page's relative paths replaced by absolute ones below `folder`.
fn placed(sql: &str, folder: &Path) -> String {
    let mut placed = sql.to_owned();
    for file in block("files") {
        let top = file.split('/').next().expect("a folder");
        placed = placed.replace(&format!("'{top}/"), &format!("'{}/{top}/", folder.display()));
    }
    placed
}

async fn open(target: Target, folder: &Path) -> Session {
    let session = session(target, 3, env!("CARGO_BIN_EXE_bootstrap_under_test"));
    for statement in block("sql") {
        run(&session, &placed(statement, folder)).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_page_holds() {
    let lines = lines();
    assert!(lines.len() > 80, "the page's tables are not found");
    let Some(folder) = judged(&lines) else { return };
    let mut wrong = String::new();
    let mut adopted = 0;
    for target in [Target::Local, Target::InProcess] {
        let session = open(target, folder.path()).await;
        for line in &lines {
            let answer = run(&session, &placed(&line.sql, folder.path())).await;
            adopted += answer.as_ref().map_or(0, |(_, report)| report.fragments_adopted);
            let answer = written(&answer.map(|(rows, _)| rows).map_err(|error| error.to_string()));
            if !is_as_written(&line.gust, &answer) {
                writeln!(wrong, "{target:?}: {}\n  page: {}\n  rows: {answer}", line.sql, line.gust)
                    .expect("to a string");
            }
        }
        session.close().await;
    }
    for (number, line) in lines.iter().enumerate() {
        let Some(page) = &line.duckdb else { continue };
        let path = folder.path().join("answers").join(number.to_string());
        let answer = match std::fs::read_to_string(path.with_extension("error")) {
            Ok(message) => Err(message),
            Err(_) => Ok(read_arrow_file(&PathBuf::from(format!("{}.arrow", path.display()))).expect("an answer")),
        };
        let answer = written(&answer);
        if !is_as_written(page, &answer) {
            writeln!(wrong, "DuckDB: {}\n  page: {page}\n  rows: {answer}", line.sql).expect("to a string");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(adopted > 20, "functions read the tables of {adopted} statements only");
}
