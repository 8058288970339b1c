//! `--on local` must cost nothing: the same queries run through a session and through a stock SessionContext.

use std::path::Path;
use std::time::Instant;

use datafusion::prelude::SessionContext;
use gust::demo::queries;
use gust_engine::config::{Config, Target};
use gust_engine::session::Session;
use gust_tests::query::run_with_events;
use gust_tests::tpch;
use serde_json::json;

use super::workload::Local;
use super::{Bound, Outcome};
use gust_tests::stats::{MedianInterval, geometric_mean, median, median_interval};

pub async fn measure(local: &Local, cache: &Path) -> anyhow::Result<Outcome> {
    let tables = tpch::tables_at(cache, local.scale, local.files, local.row_group_rows)?;
    let stock = SessionContext::new();
    let ours = Session::new(Config { on: Target::Local, ..Config::default() })?;
    for statement in tables.create_statements() {
        stock.sql(&statement).await?.collect().await?;
    }
    ours.set_up(&tables.create_statements().join("; ")).await?;
    let mut table = vec!["query  stock ms  local ms  ratio".to_owned()];
    let (mut samples, mut ratios, mut pair_ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut same_rows = true;
    for number in 1..=queries::COUNT {
        let sql = queries::query(number);
        let (mut stock_ms, mut local_ms) = (Vec::new(), Vec::new());
        for pair in 0..=local.pairs {
            let (mut stock_one, mut local_one, mut rows) = (0.0, 0.0, [0, 0]);
            for turn in 0..2 {
                let started = Instant::now();
                if (pair + turn) % 2 == 0 {
                    let batches = stock.sql(sql).await?.collect().await?;
                    stock_one = started.elapsed().as_secs_f64() * 1000.0;
                    rows[0] = batches.iter().map(|batch| batch.num_rows()).sum();
                } else {
                    let (batches, _, _) = run_with_events(&ours, sql).await?;
                    local_one = started.elapsed().as_secs_f64() * 1000.0;
                    rows[1] = batches.iter().map(|batch| batch.num_rows()).sum();
                }
            }
            same_rows &= rows[0] == rows[1];
            // The first pair only warms up.
            if pair > 0 {
                stock_ms.push(stock_one);
                local_ms.push(local_one);
                pair_ratios.push(local_one / stock_one);
            }
        }
        let ratio = median(&local_ms) / median(&stock_ms);
        ratios.push(ratio);
        table.push(format!("{number:>5}  {:>8.1}  {:>8.1}  {ratio:>5.3}", median(&stock_ms), median(&local_ms)));
        samples.push(json!({ "query": number, "stock_ms": stock_ms, "local_ms": local_ms }));
    }
    let MedianInterval { median: middle, low, high } = median_interval(&pair_ratios);
    table.push(format!("median of all pairs {middle:.3} [{low:.3}, {high:.3}]"));
    Ok(Outcome {
        name: "local",
        table,
        samples: json!(samples),
        bounds: vec![Bound {
            what: "geometric mean of the 22 ratios local / stock".to_owned(),
            measured: geometric_mean(&ratios),
            aim: local.aim_ratio,
            worst: local.worst_ratio,
            unit: "",
        }],
        validity: vec![("both sides returned as many rows".to_owned(), same_rows)],
    })
}
