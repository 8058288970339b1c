//! The 22 TPC-H queries in every way in which functions can do them, against local runs and DuckDB.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use gust::demo::queries;
use gust_tests::matrix::{Judges, Mode, all, rotation};
use gust_tests::tpch;
use serde_json::json;

use super::{Bound, Outcome};

/// Files of each table, and rows of a row group.
const FILES: usize = 8;
const ROW_GROUP_ROWS: usize = 65_536;

/// Part of the matrix that runs.
#[derive(clap::Args)]
pub struct Choice {
    #[arg(long = "sf", default_value_t = 0.1)]
    scale: f64,
    /// Some cells, of every query, as in the tests
    #[arg(long)]
    rotation: bool,
    #[arg(long, value_delimiter = ',')]
    queries: Vec<usize>,
}

/// Cells of one mode.
#[derive(Default)]
struct Row {
    cells: usize,
    wrong: usize,
    seconds: f64,
    broadcasts: usize,
    shuffles: usize,
    objects: u64,
}

pub async fn measure(choice: &Choice, cache: &Path) -> anyhow::Result<Outcome> {
    let tables = tpch::tables_at(cache, choice.scale, FILES, ROW_GROUP_ROWS)?;
    let judges = Judges::ask(cache, &tables).await?;
    let mut cells = if choice.rotation { rotation() } else { all() };
    cells.retain(|cell| choice.queries.is_empty() || choice.queries.contains(&cell.query));
    let (mut wrong, mut rows): (Vec<String>, BTreeMap<Mode, Row>) = Default::default();
    for cells in cells.chunk_by(|a, b| a.way == b.way) {
        let session = cells[0].way.session(&tables).await?;
        for cell in cells {
            let started = Instant::now();
            let checked = judges.check(&session, *cell).await;
            let row = rows.entry(cell.way.mode).or_default();
            row.cells += 1;
            row.seconds += started.elapsed().as_secs_f64();
            match checked {
                Ok(report) => {
                    row.broadcasts += report.broadcasts;
                    row.shuffles += report.shuffles;
                    row.objects += report.shuffle_objects;
                }
                Err(why) => {
                    row.wrong += 1;
                    wrong.push(why);
                }
            }
        }
        session.close().await;
    }
    let heading = "mode       cells  wrong  seconds  build sides  exchanges  objects";
    let mut table = vec![heading.to_owned()];
    table.extend(rows.iter().map(|(mode, row)| {
        let mode = format!("{mode:?}");
        let Row { cells, wrong, seconds, broadcasts, shuffles, objects } = row;
        format!("{mode:<9}  {cells:>5}  {wrong:>5}  {seconds:>7.1}  {broadcasts:>11}  {shuffles:>9}  {objects:>7}")
    }));
    table.extend(wrong.iter().cloned());
    let what = format!("cells of {} queries at scale factor {} with other rows", queries::COUNT, choice.scale);
    let bound = Bound { what, measured: wrong.len() as f64, aim: 0.0, worst: 0.0, unit: "cells" };
    let validity = vec![("DuckDB has judged".to_owned(), judges.has_duckdb())];
    Ok(Outcome { name: "matrix", table, samples: json!(wrong), bounds: vec![bound], validity })
}
