//! The 22 TPC-H queries in every way in which functions can do them: places of joins and groups, numbers of partitions, hash and sort-merge joins.
//!
//! ```text
//!  cell = query × way          way = mode × partitions × joins
//!  rows of a cell = rows of a local run = rows of DuckDB, and they came from functions
//! ```
//!
//! [`rotation`] has every query in every mode, and every pair of values of two dimensions, in a sixth of the cells. `lab matrix` runs [`all`].

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use arrow::array::RecordBatch;
use gust::demo::queries;
use gust_engine::config::{Config, JoinPlace, ShufflePlace, SortPlace, Target};
use gust_engine::model::Place;
use gust_engine::report::Report;
use gust_engine::session::Session;

use crate::compare::{Rule, compare};
use crate::duckdb;
use crate::query::run;
use crate::tpch::Tables;

/// Place of what needs more rows than one function scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Statistics decide.
    Auto,
    /// Functions join with copies of a build side. The coordinator does the rest.
    Broadcast,
    /// Functions send rows to one another for each join and all groups.
    Shuffle,
    /// Functions join with copies where that is right, and send rows to one another for the rest.
    Both,
}

/// Kind of the joins with an equality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Joins {
    Hash,
    SortMerge,
}

pub const MODES: [Mode; 4] = [Mode::Auto, Mode::Broadcast, Mode::Shuffle, Mode::Both];
pub const PARTITIONS: [u32; 3] = [2, 7, 64];
pub const JOINS: [Joins; 2] = [Joins::Hash, Joins::SortMerge];

/// Settings of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub mode: Mode,
    /// Partitions of each exchange between functions, and of the coordinator's plan.
    pub partitions: u32,
    pub joins: Joins,
}

/// A query in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Number of the query, from 1.
    pub query: usize,
    pub way: Way,
}

/// Lists all ways.
pub fn ways() -> Vec<Way> {
    let joins = |mode, partitions| JOINS.map(|joins| Way { mode, partitions, joins });
    MODES.into_iter().flat_map(|mode| PARTITIONS.into_iter().flat_map(move |p| joins(mode, p))).collect()
}

/// Lists all cells, those of one way together.
pub fn all() -> Vec<Cell> {
    ways().into_iter().flat_map(|way| (1..=queries::COUNT).map(move |query| Cell { query, way })).collect()
}

/// Lists some of the cells, those of one way together: every query in each mode, and each pair of values of two dimensions at least once.
pub fn rotation() -> Vec<Cell> {
    let cell = |query: usize, mode: usize| {
        let (partitions, joins) = (PARTITIONS[(mode + query) % 3], JOINS[(mode + query / 3) % 2]);
        Cell { query, way: Way { mode: MODES[mode], partitions, joins } }
    };
    let mut cells: Vec<Cell> =
        (1..=queries::COUNT).flat_map(|query| (0..MODES.len()).map(move |mode| cell(query, mode))).collect();
    cells.sort_by_key(|cell| (cell.way, cell.query));
    cells
}

/// Bytes that are many for `auto` here: fewer than by default, so that it chooses both ways at a small scale.
const AUTO_BYTES_MIN: u64 = 256 << 10;

impl Way {
    /// Returns the configuration, with functions in this process. Their number and their lanes change from way to way.
    pub fn config(self) -> Config {
        let (join, shuffle, sort) = match self.mode {
            Mode::Auto => (JoinPlace::Auto, ShufflePlace::Auto, SortPlace::Auto),
            Mode::Broadcast => (JoinPlace::Broadcast, ShufflePlace::Local, SortPlace::Local),
            Mode::Shuffle => (JoinPlace::Local, ShufflePlace::Hash, SortPlace::Local),
            Mode::Both => (JoinPlace::Broadcast, ShufflePlace::Hash, SortPlace::Ranges),
        };
        let mut config = Config {
            on: Target::InProcess,
            functions_max: if self.partitions == 7 { 4 } else { 3 },
            shuffle_bytes_min: AUTO_BYTES_MIN,
            shuffle_partitions: Some(self.partitions),
            join,
            shuffle,
            sort,
            ..Config::default()
        };
        config.process.cores = if self.partitions == 64 { 2 } else { 1 };
        config
    }

    /// Returns the settings of a session: its partitions, and the kind of its joins.
    fn settings(self) -> Vec<String> {
        let partitions = format!("SET datafusion.execution.target_partitions = {}", self.partitions);
        std::iter::once(partitions).chain(self.joins.settings()).collect()
    }

    /// Opens a session of this way, which knows the tables.
    ///
    /// # Errors
    /// Those of the session and its statements.
    pub async fn session(self, tables: &Tables) -> anyhow::Result<Session> {
        opened(self.config(), tables, self.settings()).await
    }
}

impl Joins {
    fn settings(self) -> Option<String> {
        (self == Self::SortMerge).then(|| "SET datafusion.optimizer.prefer_hash_join = false".to_owned())
    }
}

async fn opened(config: Config, tables: &Tables, settings: Vec<String>) -> anyhow::Result<Session> {
    let session = Session::new(config)?;
    for statement in settings.into_iter().chain(tables.create_statements()) {
        run(&session, &statement).await?;
    }
    Ok(session)
}

/// Rows that the cells have to give.
pub struct Judges {
    /// Rows of local runs, by query and kind of joins.
    local: BTreeMap<(usize, Joins), Vec<RecordBatch>>,
    /// DuckDB's rows by query. None where DuckDB is not to be had.
    duckdb: Option<&'static [Vec<RecordBatch>]>,
}

impl Judges {
    /// Asks for the rows of all queries.
    ///
    /// # Errors
    /// Those of a local run, and DuckDB's.
    pub async fn ask(cache: &Path, tables: &Tables) -> anyhow::Result<Self> {
        let duckdb = duckdb::tpch_answers(cache, tables)?;
        let mut local = BTreeMap::new();
        for joins in JOINS {
            let config = Config { on: Target::Local, ..Config::default() };
            let session = opened(config, tables, joins.settings().into_iter().collect()).await?;
            for query in 1..=queries::COUNT {
                let ran = run(&session, queries::query(query)).await;
                let (rows, _) = ran.with_context(|| format!("query {query} locally, {joins:?}"))?;
                local.insert((query, joins), rows);
            }
            session.close().await;
        }
        Ok(Self { local, duckdb })
    }

    /// Returns true if DuckDB has judged.
    pub fn has_duckdb(&self) -> bool {
        self.duckdb.is_some()
    }

    /// Runs a cell in a session of its way, and compares its rows, in the order of a local run.
    ///
    /// # Errors
    /// In words: the query's error, other rows, or a reader that was no function.
    pub async fn check(&self, session: &Session, cell: Cell) -> Result<Report, String> {
        let what = |why: String| format!("query {}, {:?}: {why}", cell.query, cell.way);
        let (rows, report) = run(session, queries::query(cell.query)).await.map_err(|error| what(error.to_string()))?;
        let local = &self.local[&(cell.query, cell.way.joins)];
        compare(local, &rows, Rule::same_engine())
            .map_err(|difference| what(format!("not the rows of a local run: {difference}")))?;
        if let Some(duckdb) = self.duckdb {
            let judged = duckdb::named_as(&duckdb[cell.query - 1], &rows);
            compare(&judged, &rows, Rule::other_engine().in_any_order())
                .map_err(|difference| what(format!("not DuckDB's rows: {difference}")))?;
        }
        is_remote(cell, &report).map_err(|why| what(format!("{why}: {report:?}")))?;
        Ok(report)
    }
}

/// Query without an operator that needs rows by their keys.
pub const WITHOUT_KEYS: usize = 6;

/// Checks that functions did what they were to do.
fn is_remote(cell: Cell, report: &Report) -> Result<(), &'static str> {
    let place = report.decision.as_ref().map(|decision| decision.place);
    let is_sent = cell.way.mode == Mode::Shuffle && cell.query != WITHOUT_KEYS;
    let faults = [
        (place != Some(Place::Functions), "it was not on functions"),
        (report.fragments_adopted == 0, "no fragment was adopted"),
        (report.fell_back.is_some(), "it fell back"),
        (report.planned_again.is_some() || report.restarted.is_some(), "it ran twice"),
        (report.attempts_failed.keys().any(|kind| kind != "Cancelled"), "attempts failed"),
        (is_sent && report.shuffles == 0, "functions sent no rows to one another"),
    ];
    faults.into_iter().find(|(is_so, _)| *is_so).map_or(Ok(()), |(_, why)| Err(why))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Lists the pairs of values of two dimensions that cells have.
    fn pairs(cells: &[Cell]) -> BTreeSet<String> {
        let values = |Cell { query, way: Way { mode, partitions, joins } }: &Cell| {
            [format!("q{query}"), format!("{mode:?}"), format!("p{partitions}"), format!("{joins:?}")]
        };
        let pairs = |cell: &Cell| {
            let values = values(cell);
            let of = |(at, value): (usize, &String)| {
                values[at + 1..].iter().map(|other| format!("{value} {other}")).collect::<Vec<_>>()
            };
            values.iter().enumerate().flat_map(of).collect::<Vec<_>>()
        };
        cells.iter().flat_map(pairs).collect()
    }

    #[test]
    fn the_rotation_has_every_pair() {
        assert_eq!(pairs(&rotation()), pairs(&all()));
        assert_eq!((rotation().len(), all().len()), (22 * 4, 22 * 24));
    }
}
