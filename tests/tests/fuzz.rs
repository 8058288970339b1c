//! Damaged files give rows, or an error that names the file. `lab fuzz` does the same for many more.

use std::collections::BTreeMap;

use gust_engine::config::Target;
use gust_tests::fuzz::{Damage, FileOutcome, damaged, files, read};
use gust_tests::query::session;
use tempfile::TempDir;

use crate::bad_input::{Place, check, fails};

/// Files of each target that must be refused, at least: damage that is never seen proves nothing.
const REFUSED_MIN: usize = 60;

async fn check_seeds(target: Target, seeds: std::ops::Range<u64>) {
    fragment_fn::quiet_caught_panics();
    let folder = TempDir::new().expect("a folder");
    let session = session(target, 2, env!("CARGO_BIN_EXE_bootstrap_under_test"));
    let files = files();
    let (mut wrong, mut refused, mut fired) = (Vec::new(), 0, BTreeMap::new());
    for seed in seeds {
        let (name, damage, bytes) = damaged(&files, seed);
        match read(&session, folder.path(), seed, &bytes).await {
            FileOutcome::Rows(_) => {}
            FileOutcome::Refused(_) => {
                refused += 1;
                *fired.entry(damage).or_insert(0) += 1;
            }
            FileOutcome::Wrong(how) => wrong.push(format!("seed {seed}, {damage:?} of {name}: {how}")),
        }
    }
    session.close().await;
    assert!(wrong.is_empty(), "{target:?}:\n{}", wrong.join("\n"));
    assert!(refused >= REFUSED_MIN, "{target:?}: only {refused} were refused: {fired:?}");
    let silent: Vec<_> = Damage::ALL.iter().filter(|damage| !fired.contains_key(damage)).collect();
    assert!(silent.is_empty(), "{target:?}: nothing was refused after {silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_read_or_refused_locally() {
    check_seeds(Target::Local, 0..150).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_read_or_refused_on_functions() {
    check_seeds(Target::InProcess, 150..300).await;
}

/// Undamaged, every file but the encrypted ones is read whole, on each target.
#[tokio::test(flavor = "multi_thread")]
async fn undamaged_files_are_read_whole() {
    let folder = TempDir::new().expect("a folder");
    for target in [Target::Local, Target::InProcess] {
        let session = session(target, 2, env!("CARGO_BIN_EXE_bootstrap_under_test"));
        for (seed, (name, bytes)) in files().into_iter().enumerate() {
            let outcome = read(&session, folder.path(), seed as u64, &bytes).await;
            let is_right = match &outcome {
                FileOutcome::Rows(rows) => *rows == 400 && !name.starts_with("encrypted"),
                FileOutcome::Refused(why) => why.contains("it is encrypted") && name.starts_with("encrypted"),
                FileOutcome::Wrong(_) => false,
            };
            assert!(is_right, "{target:?}, {name}: {outcome:?}");
        }
        session.close().await;
    }
}

/// The program runs with its processes: exit code 1, one attempt, no stack trace, nothing left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named_on_the_command_line() {
    let place = Place::new("");
    std::fs::create_dir(place.path("t")).expect("made");
    let valid = files().into_iter().find(|(name, _)| name == "dictionary").expect("a file").1;
    std::fs::write(place.path("t/0.parquet"), &valid).expect("written");
    let size = valid.len();
    let claims = |length: u32| [&valid[..size - 8], &length.to_le_bytes(), b"PAR1"].concat();
    let damaged = [
        ("longer than the file", claims(size as u32 + 100)),
        ("longer than any", claims(u32::MAX)),
        ("none", claims(0)),
        ("of two bytes", claims(2)),
        ("cut", valid[..size / 2].to_vec()),
        ("text", b"id,name\n1,one\n2,two\n".to_vec()),
        ("encrypted", files().into_iter().find(|(name, _)| name == "encrypted").expect("a file").1),
    ];
    for (what, bytes) in damaged {
        std::fs::write(place.path("t/1.parquet"), &bytes).expect("written");
        for on in ["local", "processes"] {
            let query = ["query", "--on", on, "--functions", "3", "SELECT sum(i32) FROM 't/'"];
            fails(&place, &query, 1, &["t/1.parquet"]);
            let words = String::from_utf8_lossy(&place.gust(&query).output().expect("it starts").stderr).into_owned();
            assert!(!words.contains("attempts") && !words.contains("stack backtrace"), "{what}, {on}: {words}");
        }
    }
}

/// Files without columns have rows all the same.
#[tokio::test(flavor = "multi_thread")]
async fn files_without_columns_have_rows() {
    let place = Place::new("");
    std::fs::create_dir(place.path("t")).expect("made");
    for (name, rows) in [("0", 2), ("1", 3)] {
        std::fs::write(place.path(&format!("t/{name}.parquet")), gust_tests::parquet_files::without_columns(rows))
            .expect("written");
    }
    for on in ["local", "in-process", "processes", "auto"] {
        for (sql, expect) in
            [("SELECT 1 AS one FROM 't/'", "one\n1\n1\n1\n1\n1\n"), ("SELECT count(*) AS n FROM 't/'", "n\n5\n")]
        {
            for verb in ["query", "explain"] {
                let mut arguments = vec![verb, "--on", on, sql];
                arguments.splice(3..3, if verb == "query" { vec!["--format", "csv"] } else { vec![] });
                let output = place.gust(&arguments).output().expect("it starts");
                check(&output, 0, &[]);
                if verb == "query" {
                    assert_eq!(String::from_utf8_lossy(&output.stdout), expect, "{on}: {sql}");
                }
            }
        }
    }
}

/// A schema is followed by recursion. One that is too deep is refused before anything follows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_nested_too_deep_is_refused() {
    let place = Place::new("");
    std::fs::create_dir(place.path("t")).expect("made");
    for (groups, code, expect) in [(20, 0, ""), (400, 1, "its schema is nested too deep")] {
        std::fs::write(place.path("t/0.parquet"), gust_tests::parquet_files::nested(groups)).expect("written");
        for on in ["local", "processes"] {
            let query = ["query", "--on", on, "--format", "csv", "SELECT count(*) AS n FROM 't/'"];
            check(&place.gust(&query).output().expect("it starts"), code, &[expect]);
        }
    }
}
