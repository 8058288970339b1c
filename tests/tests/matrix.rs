//! TPC-H in every way in which functions can do it: rows against a local run and DuckDB, and the graph of each query. `lab matrix` has all cells at a larger scale.
//!
//! Graphs are snapshots `tpch_*.snap`, without sizes, files and columns. To accept a changed one, run
//! `INSTA_UPDATE=always cargo test --release -p gust-tests matrix::`, and look at the difference.

use std::fmt::Write as _;
use std::path::Path;

use gust::demo::queries;
use gust_tests::matrix::{Joins, Judges, Mode, Way, rotation};
use gust_tests::tpch;

use crate::plans::explain;

fn tables() -> tpch::Tables {
    tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_has_the_same_rows() {
    let tables = tables();
    let judges = Judges::ask(Path::new(env!("CARGO_TARGET_TMPDIR")), &tables).await.expect("rows");
    let (mut wrong, mut objects, mut joined) = (Vec::new(), 0, 0);
    for cells in rotation().chunk_by(|a, b| a.way == b.way) {
        let session = cells[0].way.session(&tables).await.expect("a session");
        for cell in cells {
            match judges.check(&session, *cell).await {
                Ok(report) => {
                    objects += report.shuffle_objects;
                    joined += usize::from(report.broadcasts > 0);
                }
                Err(why) => wrong.push(why),
            }
        }
        session.close().await;
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(objects > 0, "all rows between functions travelled inline");
    assert!(joined >= 10, "{joined} cells had build sides in functions");
}

/// Ways whose graphs are snapshots. The first of them send all rows by key to functions.
const DRAWN: [(Mode, Joins); 5] = [
    (Mode::Shuffle, Joins::Hash),
    (Mode::Shuffle, Joins::SortMerge),
    (Mode::Both, Joins::Hash),
    (Mode::Broadcast, Joins::Hash),
    (Mode::Auto, Joins::Hash),
];

/// Operators on the coordinator above stages over keys: they need all rows in one place, and not those of a key.
const IN_ONE_PLACE: [(&str, &str); 7] = [
    ("RemoteFragmentExec", "it is a stage"),
    ("SortPreservingMergeExec", "rows come in one order"),
    ("CoalescePartitionsExec", "rows of all functions are gathered"),
    ("GlobalLimitExec", "the first rows of all are counted"),
    ("AggregateExec: mode=Final, gby=[]", "a group without keys has all rows"),
    ("ProjectionExec", "it stands above one of these"),
    ("ScalarSubqueryExec", "the values of subqueries travel with the plans above"),
];

/// Other operators that stay on the coordinator where functions send rows to one another, by query, with the reason.
const KEPT: [(usize, &str, &str); 0] = [];

#[tokio::test(flavor = "multi_thread")]
async fn graphs_are_those_of_the_snapshots() {
    let tables = tables();
    let mut texts = vec![String::new(); queries::COUNT];
    let mut kept = Vec::new();
    for (mode, joins) in DRAWN {
        let session = Way { mode, partitions: 7, joins }.session(&tables).await.expect("a session");
        for (number, text) in (1..).zip(&mut texts) {
            let explained = explain(&session, queries::query(number)).await;
            if mode == Mode::Shuffle {
                kept.extend(on_coordinator(&explained).map(|operator| (number, joins, operator)));
                // Joins travel as they were asked for.
                let other = if joins == Joins::Hash { "SortMergeJoinExec" } else { "HashJoinExec" };
                assert!(!explained.contains(other), "query {number}, {joins:?}: {explained}");
            }
            let drawn = graph(&explained);
            let heading = format!("== {mode:?}, {joins:?}\n");
            match text.contains(&drawn) {
                true => *text += &format!("{heading}as above\n"),
                false => *text += &format!("{heading}{drawn}"),
            }
        }
        session.close().await;
    }
    let is_listed = |number: usize, operator: &str| {
        KEPT.iter().any(|(query, listed, _)| *query == number && operator.starts_with(listed))
    };
    let unlisted: Vec<_> = kept.iter().filter(|(number, _, operator)| !is_listed(*number, operator)).collect();
    assert!(unlisted.is_empty(), "these stay on the coordinator: {unlisted:#?}");
    for (query, listed, why) in KEPT {
        let is_kept = kept.iter().any(|(number, _, operator)| *number == query && operator.starts_with(listed));
        assert!(is_kept, "query {query} keeps no {listed} any more: {why}");
    }
    for (number, text) in (1..).zip(&texts) {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.add_filter(r"[\d.]+ (B|KiB|MiB)\b", "[size]");
        let name = format!("tpch_{number:02}");
        settings.bind(|| insta::assert_snapshot!(name.as_str(), text));
    }
}

/// Lists the operators of the coordinator that are not there because they need all rows in one place.
fn on_coordinator(explained: &str) -> impl Iterator<Item = String> {
    let own = explained.lines().skip_while(|line| !line.starts_with("coordinator"));
    let own = own.take_while(|line| !line.starts_with("stage "));
    let operators = own.filter_map(operator).map(ToOwned::to_owned).collect::<Vec<_>>();
    operators.into_iter().filter(|operator| !IN_ONE_PLACE.iter().any(|(known, _)| operator.starts_with(known)))
}

/// Returns the operator of a line of a plan.
fn operator(line: &str) -> Option<&str> {
    let text = line.trim_start();
    let name = text.split([':', ' ']).next().unwrap_or_default();
    (line.starts_with("  ") && name.ends_with("Exec")).then_some(text)
}

/// Draws the graph of an explained query: the work of the coordinator and of each stage, and the ways of rows from one to another.
fn graph(explained: &str) -> String {
    let (mut text, mut tables) = (String::new(), Vec::new());
    for line in explained.lines() {
        if let Some(operator) = operator(line) {
            let depth = line.len() - operator.len();
            let drawn = drawn(operator, &mut tables);
            let _ = writeln!(text, "{:depth$}{drawn}", "");
        } else if line.starts_with("coordinator") {
            text += "coordinator\n";
        } else if let Some(stage) = line.strip_prefix("stage ") {
            let number = stage.split(' ').next().unwrap_or_default();
            let over =
                between(stage, "over the rows of stages ", " partitions").and_then(|over| over.rsplit_once(", "));
            let over = over.map_or_else(String::new, |(stages, _)| format!(" over {stages}"));
            let sorted = if stage.contains("; sorted") { ", sorted" } else { "" };
            let _ = writeln!(text, "stage {number}{over}{sorted}");
        } else if let Some(why) = line.strip_prefix("shuffle      none ") {
            let _ = writeln!(text, "no exchange {why}");
        } else if line.starts_with("shuffle ") {
            let keys = between(line, " by ", ", 7 partitions").unwrap_or(line);
            let way = between(line, " partitions ", "; ").unwrap_or_default();
            let _ = writeln!(text, "exchange by {keys} {way}");
        } else if let Some(build) = line.strip_prefix("broadcast ") {
            let _ = writeln!(text, "build side {}", build.split(' ').next().unwrap_or_default());
        } else if let Some(read) = line.strip_prefix("reading      ") {
            tables.insert(0, read.split(':').next().unwrap_or_default().to_owned());
        }
    }
    text
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, text) = text.split_once(start)?;
    text.split_once(end).map(|(text, _)| text)
}

/// Returns the part of an operator's text that tells its work on keys. `tables` has the names of the plan's scans, the next one last.
fn drawn(operator: &str, tables: &mut Vec<String>) -> String {
    let until = |end: &str| operator.split(end).next().unwrap_or_default().to_owned();
    match operator.split(':').next().unwrap_or_default() {
        "DataSourceExec" => format!("scan of {}", tables.pop().unwrap_or_default()),
        "RemoteFragmentExec" => {
            let stage = until(", fragments=");
            stage.replace("RemoteFragmentExec: stage=", "rows of stage ")
        }
        "AggregateExec" => until(", aggr=["),
        "HashJoinExec" | "SortMergeJoinExec" | "NestedLoopJoinExec" => {
            until(", projection=").split(", filter=").next().unwrap_or_default().to_owned()
        }
        "SortExec" => until(", preserve_partitioning="),
        "RepartitionExec" => until(", input_partitions="),
        name @ ("FilterExec" | "ProjectionExec") => name.to_owned(),
        _ => operator.to_owned(),
    }
}
