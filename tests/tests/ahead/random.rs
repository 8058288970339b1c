//! Reading ahead changes no row: random statements over files that differ, with it and without it, in the settings that it meets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::RecordBatch;
use gust_engine::config::Config;
use gust_engine::session::Session;
use gust_protocol::AheadUsage;
use gust_tests::asks::lines;
use gust_tests::compare::{Rule, compare};
use gust_tests::parquet_files::file;
use gust_tests::query::run;
use parquet::file::properties::WriterProperties;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::late::{self, ALWAYS, NEVER, TABLES, in_s3, local, upload};

const SEEDS: u64 = 3;
const STATEMENTS_A_SEED: usize = 60;

/// Adds files with Bloom filters, without a page index, and without statistics to the tables of [`late::write`].
fn write(folder: &Path, seed: u64) {
    late::write(folder, seed);
    let mut random = SmallRng::seed_from_u64(seed + 1000);
    let blooms = |properties: WriterProperties| {
        let properties = properties.into_builder().set_column_bloom_filter_enabled("k".into(), true);
        properties.set_column_bloom_filter_enabled("s".into(), true).build()
    };
    let plain = WriterProperties::builder().set_offset_index_disabled(true);
    let bare = plain.set_statistics_enabled(parquet::file::properties::EnabledStatistics::None).build();
    for (name, properties) in
        [("b/4.parquet", blooms(late::properties())), ("b/5.parquet", blooms(bare.clone())), ("b/6.parquet", bare)]
    {
        let groups = [late::rows(&mut random, 300, 0..400), late::rows(&mut random, 200, 600..1000)];
        fs::write(folder.join(name), file(&groups, properties)).expect("written");
    }
}

fn one_of<T: Copy>(random: &mut SmallRng, of: &[T]) -> T {
    of[random.random_range(0..of.len())]
}

/// Makes a condition on rows of `b`.
fn condition(random: &mut SmallRng) -> String {
    let (key, day, number) = (random.random_range(0..1000), random.random_range(0..40), random.random_range(0..700));
    let compared = one_of(random, &["=", "<", ">", "<=", ">=", "<>"]);
    match random.random_range(0..11) {
        0 => format!("b.k {compared} {key}"),
        1 => format!("b.k BETWEEN {key} AND {}", key + 60),
        2 => format!("b.s {compared} 'key {}'", key % 50),
        3 => format!("b.s IN ('key {}', 'key {}', '')", key % 50, day),
        4 => format!("b.d {compared} DATE '1970-01-{:02}'", 1 + day % 28),
        5 => format!("b.m {compared} {}.5", day % 2),
        6 => format!("b.n {compared} {number}"),
        7 => "b.x IS NOT NULL AND b.x < 1".to_owned(),
        8 => format!("b.t LIKE 'text 1%' OR b.k = {key}"),
        9 => format!("b.k IN ({key}, {day}, {number}) OR b.n = {day} AND b.t = 'text 3'"),
        _ => format!("b.k + b.n > {key}"),
    }
}

fn conditions(random: &mut SmallRng) -> String {
    let count = random.random_range(1..4);
    (0..count).map(|_| format!("({})", condition(random))).collect::<Vec<_>>().join(" AND ")
}

fn columns(random: &mut SmallRng) -> String {
    let some = ["b.k", "b.s", "b.d", "b.m", "b.x", "b.n", "b.t", "b.n + b.k AS sum"];
    let chosen: Vec<&str> = some.into_iter().filter(|_| random.random_range(0..3) == 0).collect();
    if chosen.is_empty() { "b.n".to_owned() } else { chosen.join(", ") }
}

/// Statement, and the statement whose rows its rows are among where a limit chooses them.
struct Asked {
    sql: String,
    among: Option<String>,
}

fn asked(random: &mut SmallRng) -> Asked {
    let (columns, conditions) = (columns(random), conditions(random));
    let limit = random.random_range(1..40);
    let all = |sql: String| Asked { sql, among: None };
    let some = |sql: String| Asked { sql: format!("{sql} LIMIT {limit}"), among: Some(sql) };
    match random.random_range(0..10) {
        0 | 1 => all(format!("SELECT {columns} FROM b WHERE {conditions}")),
        2 => all(format!("SELECT {columns} FROM b")),
        3 => all(format!("SELECT count(*), sum(b.n), min(b.s), max(b.d) FROM b WHERE {conditions}")),
        4 => some(format!("SELECT {columns} FROM b WHERE {conditions}")),
        5 => some(format!("SELECT {columns} FROM b")),
        // The columns of the order are all, so that rows beside the last one are equal.
        6 => all(format!("SELECT b.k, b.n, b.t FROM b WHERE {conditions} ORDER BY b.k DESC, b.n, b.t LIMIT {limit}")),
        7 => all(format!("SELECT a.n AS of_a, {columns} FROM a JOIN b ON a.k = b.k WHERE {conditions}")),
        8 => all(format!("SELECT {columns} FROM b WHERE b.k IN (SELECT k FROM a WHERE n < {limit}) AND {conditions}")),
        _ => all(format!("SELECT count(*) FROM a WHERE EXISTS (SELECT * FROM b WHERE b.k = a.k AND {conditions})")),
    }
}

/// Makes settings that reading ahead meets: of its budget, of late columns, and of the decoder.
async fn set(session: &Session, random: &mut SmallRng) -> String {
    let mut settings = Vec::new();
    // Files are opened in their own way where the decoder does not filter.
    settings.push(format!("SET datafusion.execution.parquet.pushdown_filters = {}", random.random_range(0..5) == 0));
    for option in ["reorder_filters", "enable_page_index", "bloom_filter_on_read", "pruning"] {
        settings.push(format!("SET datafusion.execution.parquet.{option} = {}", random.random_range(0..3) > 0));
    }
    settings.push(format!("SET datafusion.execution.target_partitions = {}", random.random_range(1..5)));
    for setting in &settings {
        run(session, setting).await.expect("set");
    }
    settings.join("; ")
}

fn counted(batches: &[RecordBatch]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    lines(batches, "NULL").into_iter().for_each(|line| *counts.entry(line).or_insert(0) += 1);
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_ahead_changes_no_row() {
    let (mut total, mut with_rows) = (AheadUsage::default(), 0);
    for seed in 0..SEEDS {
        let folder = TempDir::with_prefix("gust-ahead-").expect("a temporary folder");
        write(folder.path(), seed);
        let server = upload(folder.path()).await;
        // A disk is not read ahead.
        let judge = late::session(folder.path(), local(NEVER)).await;
        let budgets = [(64, 128 << 20), (2, 128 << 20), (64, 16 << 10), (0, 0)];
        let mut sessions = Vec::new();
        for (late_percent, (read_ahead_requests_max, read_ahead_bytes_max)) in
            [ALWAYS, NEVER].into_iter().cycle().zip(budgets.into_iter().chain(budgets.into_iter().rev()))
        {
            let config = Config { read_ahead_requests_max, read_ahead_bytes_max, ..local(late_percent) };
            sessions.push(in_s3(&server, config, &TABLES).await);
        }
        let mut random = SmallRng::seed_from_u64(seed);
        for number in 0..STATEMENTS_A_SEED {
            let session = &sessions[number % sessions.len()];
            let settings = set(session, &mut random).await;
            let Asked { sql, among } = asked(&mut random);
            let what = format!("seed {seed}, {settings}; {sql}");
            let (expected, _) = run(&judge, &sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let (found, report) = run(session, &sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let count = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
            match among {
                None => compare(&expected, &found, Rule::same_engine().in_any_order())
                    .unwrap_or_else(|difference| panic!("{what}: {difference}")),
                Some(all) => {
                    assert_eq!(count(&found), count(&expected), "{what}");
                    let all = counted(&run(&judge, &all).await.expect("rows").0);
                    for (row, times) in counted(&found) {
                        assert!(all.get(&row).is_some_and(|of_all| times <= *of_all), "{what}: {row}");
                    }
                }
            }
            with_rows += usize::from(count(&found) > 0);
            let usage = report.coordinator.ahead;
            assert_eq!(usage.again_bytes, 0, "{what}: {usage:?}");
            total += usage;
        }
        for session in sessions {
            session.close().await;
        }
    }
    assert!(with_rows > STATEMENTS_A_SEED, "{with_rows} statements have rows");
    assert!(total.taken_bytes > 0 && total.unused_pruned_bytes + total.unused_limit_bytes > 0, "{total:?}");
}
