//! The published Python wheel of DataFusion against this build. The same queries over the same files take turns on the wheel,
//! on a stock SessionContext, and with `--on local` of this build.

use std::path::Path;
use std::time::Instant;

use datafusion::prelude::{SessionConfig, SessionContext};
use gust::demo::queries;
use gust_engine::config::{Config, Target};
use gust_engine::session::Session;
use gust_tests::peer::{self, Peer, PeerQuery, Question};
use gust_tests::query::run;
use gust_tests::stats::{geometric_mean, median};
use gust_tests::tpch;
use serde_json::json;

use super::Outcome;
use super::workload::Local;

/// Programs that take turns, as the table names them.
const SIDES: [&str; 3] = ["wheel", "stock", "local"];

pub async fn measure(local: &Local, cache: &Path) -> anyhow::Result<Outcome> {
    let tables = tpch::tables_at(cache, local.scale, local.files, local.row_group_rows)?;
    let partitions = SessionConfig::new().target_partitions();
    let mut wheel = Peer::start(peer::engine("datafusion", cache)?)?;
    wheel.ask(&Question::Tables(tables.locations()))?;
    let folder = tempfile::tempdir()?;
    let stock = SessionContext::new();
    let ours = Session::new(Config { on: Target::Local, ..Config::default() })?;
    for statement in tables.create_statements() {
        stock.sql(&statement).await?.collect().await?;
    }
    ours.set_up(&tables.create_statements().join("; ")).await?;
    let mut table = vec![format!(
        "DataFusion {} in this build, beside {} from PyPI; {partitions} partitions, scale factor {}",
        datafusion::DATAFUSION_VERSION,
        wheel.version,
        local.scale
    )];
    table.push("query  wheel ms  stock ms  local ms  stock / wheel  local / wheel".to_owned());
    let (mut samples, mut stock_ratios, mut local_ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut same_rows = true;
    for number in 1..=queries::COUNT {
        let sql = queries::query(number);
        let mut times: [Vec<f64>; 3] = Default::default();
        for round in 0..=local.pairs {
            let mut rows = [0; 3];
            for turn in 0..3 {
                let side = (round + turn) % 3;
                let started = Instant::now();
                let (seconds, count) = match SIDES[side] {
                    "wheel" => {
                        let query = PeerQuery { number, sql: sql.to_owned(), rows: folder.path().join("rows.arrow") };
                        let answer = wheel.ask(&Question::Query(query))?;
                        (answer.seconds, answer.rows)
                    }
                    "stock" => {
                        let batches = stock.sql(sql).await?.collect().await?;
                        (started.elapsed().as_secs_f64(), batches.iter().map(|batch| batch.num_rows()).sum())
                    }
                    _ => {
                        let (batches, _) = run(&ours, sql).await?;
                        (started.elapsed().as_secs_f64(), batches.iter().map(|batch| batch.num_rows()).sum())
                    }
                };
                rows[side] = count;
                // The first round only warms up.
                if round > 0 {
                    times[side].push(seconds * 1000.0);
                }
            }
            same_rows &= rows[0] == rows[1] && rows[0] == rows[2];
        }
        let [wheel_ms, stock_ms, local_ms] = times.each_ref().map(|times| median(times));
        let (by_stock, by_local) = (stock_ms / wheel_ms, local_ms / wheel_ms);
        stock_ratios.push(by_stock);
        local_ratios.push(by_local);
        table.push(format!(
            "{number:>5}  {wheel_ms:>8.1}  {stock_ms:>8.1}  {local_ms:>8.1}  {by_stock:>13.3}  {by_local:>13.3}"
        ));
        samples.push(json!({ "query": number, "wheel_ms": times[0], "stock_ms": times[1], "local_ms": times[2] }));
    }
    wheel.end()?;
    let (by_stock, by_local) = (geometric_mean(&stock_ratios), geometric_mean(&local_ratios));
    table.push(format!(
        "geometric mean of the 22 ratios of medians: stock / wheel {by_stock:.3}, local / wheel {by_local:.3}"
    ));
    let samples = json!({ "stock_over_wheel": by_stock, "local_over_wheel": by_local, "queries": samples });
    let validity = vec![("all sides returned as many rows".to_owned(), same_rows)];
    Ok(Outcome { name: "wheel", table, samples, bounds: Vec::new(), validity })
}
