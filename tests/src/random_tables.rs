//! Random Iceberg tables of real Parquet files, against rows that are computed here by the sentences of the specification.
//!
//! A table has columns of all kinds, some nested; columns that were dropped, renamed, promoted, or added with a default; several specs
//! with all transforms; files that were imported without their partition columns; and commits of data files, vectors, files of positions
//! and files of keys. Metrics have the gaps and faults that writers leave. An older snapshot has the schema of its time.
//!
//! ```text
//!  seed ─► table ─► files, metadata ─► rows here, and by functions in this process ─┐
//!      │        └─► rows that are left, by the sentences of the specification ──────┴─► the same
//!      └─► conditions in two forms: one by which files are left out, and one that reads all of them
//! ```
//!
//! [`values`] has the kinds, [`transforms`] the partitions, [`table`] the tables and their rows, [`files`] what is written of them, and
//! [`conditions`] the conditions.

mod conditions;
mod files;
mod table;
mod transforms;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context, ensure};
use futures::{StreamExt, stream};
use gust_engine::config::{Config, Target};
use gust_engine::model::Place;
use gust_engine::planner::DigestBounds;
use gust_engine::report::Report;
use gust_engine::session::{Engine, EngineOptions, Session, SessionOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::asks::{files_kept, lines};
use crate::iceberg::PAST_SNAPSHOT;
use crate::query::run;
use conditions::{Condition, Form};
pub use table::{Random, Version};
pub use transforms::bucket;

/// Conditions that are asked of each table.
const CONDITIONS: usize = 2;

/// Way on which deletes reach their readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Here,
    Functions,
    /// Functions, for which the coordinator reads all that can be digested.
    Digests,
    /// Functions, for which the coordinator reads what has room in a small object.
    Parts,
}

/// Data files whose deleted positions went through the exchange, and lists of keys.
#[derive(Debug, Default, Clone, Copy)]
pub struct Digested {
    pub tables: usize,
    pub vectors: usize,
    pub keys: usize,
    pub objects: usize,
}

/// Data files of all conditions of a form, and those that were left out of them.
#[derive(Debug, Default, Clone, Copy)]
pub struct Pruned {
    pub files: usize,
    pub left_out: usize,
}

/// Findings about many tables.
#[derive(Debug, Default)]
pub struct Found {
    pub tables: usize,
    pub statements: usize,
    pub deleted_rows: usize,
    /// Statements that functions have read.
    pub remote: usize,
    pub digested: BTreeMap<Way, Digested>,
    /// Files of conditions that can be compared with metrics.
    pub plain: Pruned,
    pub unprunable: Pruned,
    /// A line for each table with wrong rows or an error.
    pub failures: Vec<String>,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.tables += other.tables;
        self.statements += other.statements;
        self.deleted_rows += other.deleted_rows;
        self.remote += other.remote;
        for (way, more) in other.digested {
            let own = self.digested.entry(way).or_default();
            own.tables += more.tables;
            own.vectors += more.vectors;
            own.keys += more.keys;
            own.objects += more.objects;
        }
        for (own, more) in [(&mut self.plain, other.plain), (&mut self.unprunable, other.unprunable)] {
            own.files += more.files;
            own.left_out += more.left_out;
        }
        self.failures.extend(other.failures);
    }
}

/// Opens a session of each way. The first is [`Way::Here`].
///
/// # Panics
/// An engine that does not open.
pub fn sessions() -> Vec<(Way, Session)> {
    let open = |on, digest| {
        let options = EngineOptions { digest, ..EngineOptions::default() };
        let engine = Engine::open(Config { on, functions_max: 3, ..Config::default() }, options).expect("an engine");
        engine.session(SessionOptions::default()).expect("a session")
    };
    vec![
        (Way::Here, open(Target::Local, DigestBounds::default())),
        (Way::Functions, open(Target::InProcess, DigestBounds::default())),
        (Way::Digests, open(Target::InProcess, DigestBounds::NONE)),
        (Way::Parts, open(Target::InProcess, DigestBounds { readers_max: 1, bytes_max: 4_000, ..DigestBounds::NONE })),
    ]
}

/// Checks a table for each seed, `at_once` of them at a time: here, and on one of the other ways. The failure of one table alone describes it.
pub async fn check(seeds: Range<u64>, at_once: usize) -> Found {
    let sessions = sessions();
    let others = sessions.len() as u64 - 1;
    let is_alone = seeds.end - seeds.start == 1;
    let mut checked = stream::iter(seeds)
        .map(|seed| {
            let ways = [&sessions[0], &sessions[1 + (seed % others) as usize]];
            async move {
                let mut found = Found { tables: 1, ..Found::default() };
                if let Err(error) = Box::pin(check_table(seed, ways, is_alone, &mut found)).await {
                    found.failures.push(format!("seed {seed}: {error:#}"));
                }
                found
            }
        })
        .buffer_unordered(at_once);
    let mut all = Found::default();
    while let Some(found) = checked.next().await {
        all.add(found);
    }
    drop(checked);
    for (_, session) in sessions {
        session.close().await;
    }
    all
}

async fn check_table(seed: u64, ways: [&(Way, Session); 2], is_alone: bool, found: &mut Found) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = TempDir::new()?;
    let table = Random::new(folder.path(), &mut random);
    let (metadata, _) = table.write(folder.path(), &mut random);
    let asks = Asks::new(&table, seed, &mut random);
    found.deleted_rows += table.all().len() - asks.left.len();
    for (way, session) in ways {
        let create = format!("CREATE EXTERNAL TABLE t{seed} STORED AS ICEBERG LOCATION '{metadata}'");
        run(session, &create).await.context("the table")?;
        let told = || if is_alone { format!("{way:?}, {}", table.told()) } else { format!("{way:?}") };
        asks.check(*way, session, found).await.with_context(told)?;
        run(session, &format!("DROP TABLE t{seed}")).await?;
    }
    Ok(())
}

/// Statements about a table with their rows.
struct Asks<'a> {
    table: &'a Random,
    name: String,
    /// True where the plans of conditions are asked for their files. It plans each a second time.
    is_explained: bool,
    /// Current rows by their numbers.
    left: BTreeMap<usize, String>,
    conditions: Vec<(Condition, Vec<String>)>,
    /// Rows of an earlier version, each beside the current one.
    then: Vec<String>,
    /// Numbers of rows that are joined.
    keys: BTreeSet<usize>,
    limit: usize,
}

impl<'a> Asks<'a> {
    fn new(table: &'a Random, seed: u64, random: &mut StdRng) -> Self {
        let rows = |version| {
            let rows = table.left(version);
            let lines = table.lines(version, rows.values().copied());
            (rows.keys().copied().zip(lines).collect::<BTreeMap<usize, String>>(), rows)
        };
        let (left, rows_left) = rows(Version::Now);
        let none = vec!["NULL"; table.width(Version::Now)].join("|");
        let beside = |(number, line)| format!("{line}|{}", left.get(&number).unwrap_or(&none));
        let then = rows(Version::Then).0.into_iter().map(beside).collect();
        let conditions = (0..CONDITIONS).map(|_| {
            let condition = Condition::random(table, 2, random);
            let met = rows_left.iter().filter(|(_, row)| condition.of(row) == Some(true));
            let lines = met.map(|(number, _)| left[number].clone()).collect();
            (condition, lines)
        });
        let conditions = conditions.collect();
        let keys = (0..5).map(|_| random.random_range(0..120)).collect();
        let (name, is_explained) = (format!("t{seed}"), seed.is_multiple_of(2));
        Self { table, name, is_explained, conditions, then, keys, limit: random.random_range(0..100), left }
    }

    async fn check(&self, way: Way, session: &Session, found: &mut Found) -> anyhow::Result<()> {
        let Self { name, left, .. } = self;
        let sql = self.table.sql(name);
        let all: Vec<String> = left.values().cloned().collect();
        let report = same(session, &format!("{sql} ORDER BY c1"), &all, found).await?;
        if way != Way::Here && report.fragments > 0 {
            let by_functions = report.fragments_adopted == report.fragments && report.fell_back.is_none();
            let decision = report.decision.as_ref().context("no decision")?;
            ensure!(by_functions && decision.place == Place::Functions, "functions did not read it: {report:?}");
            found.remote += 1;
        }
        if matches!(way, Way::Digests | Way::Parts) {
            let of_way = found.digested.entry(way).or_default();
            of_way.tables += 1;
            of_way.objects += report.deletes_in_exchange;
            of_way.vectors += report.delete_vectors_in_exchange;
            of_way.keys += report.delete_keys_in_exchange;
        } else {
            ensure!(report.deletes_in_exchange == 0, "deletes in the exchange");
        }
        for (condition, expected) in self.conditions.iter().filter(|_| matches!(way, Way::Here | Way::Functions)) {
            for form in [Form::Plain, Form::Unprunable] {
                let sql = format!("{sql} WHERE {} ORDER BY c1", condition.sql(form));
                same(session, &sql, expected, found).await?;
                if way == Way::Here && self.is_explained {
                    let explained = session.explain(session.parse(&sql)?.remove(0)).await?;
                    let (kept, total) = files_kept(&explained);
                    let pruned = if form == Form::Plain { &mut found.plain } else { &mut found.unprunable };
                    pruned.files += total;
                    pruned.left_out += total - kept;
                }
            }
        }
        let end = |row: Option<(&usize, &String)>| row.map_or("NULL".to_owned(), |(row, _)| row.to_string());
        let (count, first, last) = (left.len(), end(left.first_key_value()), end(left.last_key_value()));
        let counted = format!("{count}|{first}|{last}|{count}");
        same(session, &format!("SELECT count(*), min(c1), max(c1), count(c1) FROM {name}"), &[counted], found).await?;
        // A join tells the scan its keys, and a sorted limit its last row.
        let values: Vec<String> = self.keys.iter().map(|key| format!("({key})")).collect();
        let joined = format!("JOIN (VALUES {}) AS v(x) ON v.x = c1", values.join(", "));
        let expected: Vec<String> = self.keys.iter().filter_map(|key| left.get(key).cloned()).collect();
        same(session, &format!("{sql} {joined} ORDER BY c1"), &expected, found).await?;
        let expected: Vec<String> = left.values().rev().take(7).cloned().collect();
        same(session, &format!("{sql} ORDER BY c1 DESC LIMIT 7"), &expected, found).await?;
        // Two versions in one statement, which have files in common and may differ in their schemas.
        let (then, now) = (self.table.select(Version::Then, "o."), self.table.select(Version::Now, "n."));
        let both = format!(
            "SELECT {then}, {now} FROM {name} FOR VERSION AS OF {PAST_SNAPSHOT} AS o LEFT JOIN {name} AS n ON n.c1 = o.c1 \
             ORDER BY o.c1"
        );
        same(session, &both, &self.then, found).await?;
        let limited = format!("SELECT c1 FROM {name} LIMIT {}", self.limit);
        let (rows, _) = run(session, &limited).await.with_context(|| limited.clone())?;
        let shown = lines(&rows, "NULL");
        let is_left = |row: &String| row.parse().is_ok_and(|row: usize| left.contains_key(&row));
        ensure!(shown.iter().all(is_left) && shown.len() == self.limit.min(left.len()), "`{limited}`: {shown:?}");
        Ok(())
    }
}

/// Runs a statement, whose rows have to be the expected ones.
async fn same(session: &Session, sql: &str, expected: &[String], found: &mut Found) -> anyhow::Result<Report> {
    let (rows, report) = run(session, sql).await.with_context(|| format!("`{sql}`"))?;
    found.statements += 1;
    let rows = lines(&rows, "NULL");
    if rows != expected {
        let lacking: Vec<&String> = expected.iter().filter(|row| !rows.contains(row)).take(3).collect();
        let other: Vec<&String> = rows.iter().filter(|row| !expected.contains(row)).take(3).collect();
        let counts = (rows.len(), expected.len());
        anyhow::bail!("`{sql}` has {} rows of {}; lacking {lacking:?}, wrong {other:?}", counts.0, counts.1);
    }
    Ok(report)
}
