//! Names of a large REST catalog: listing, completion and a query of one table, beside pyiceberg. The server counts the requests.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use arrow::array::{Array, Int64Array};
use gust_engine::config::{Config, ConfigFile, Overrides, Target};
use gust_engine::session::Session;
use gust_tests::python::{self, Run};
use gust_tests::query;
use gust_tests::rest::{Asked, Place, RestServer, Rules};
use gust_tests::stats::median;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::workload::Names;
use super::{Bound, Outcome};

/// Script of pyiceberg's part.
const SCRIPT: &str = "catalog_names.py";

/// Statements of one kind: seconds of each, and the requests of the last.
#[derive(Serialize)]
struct Sample {
    what: &'static str,
    seconds: Vec<f64>,
    requests: usize,
    /// Requests for a table's metadata.
    loads: usize,
    answer: i64,
}

#[derive(Deserialize)]
struct Peer {
    list_seconds: Vec<f64>,
    names: i64,
    complete_seconds: Vec<f64>,
    completed: i64,
    query_seconds: Vec<f64>,
    rows: i64,
}

pub async fn measure(names: &Names, cache: &Path) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let place = Place::folder(&folder.path().join("warehouse"));
    let server = RestServer::start(folder.path(), place, Rules::default())?;
    let location = python(cache, &["make", server.endpoint()])?;
    let all = (0..names.namespaces).flat_map(|namespace| {
        let location = location.trim().to_owned();
        (0..names.tables).map(move |table| (vec![namespace_name(namespace)], format!("t{table:04}"), location.clone()))
    });
    server.register(&all.collect::<Vec<_>>()).await?;
    let asked = format!("{}.t{:04}", namespace_name(names.namespaces - 1), names.tables - 1);
    let session = session(&server, folder.path())?;
    query::run(&session, "USE lake").await?;
    let begin = &asked[..asked.len() - 1];
    let (namespace, table) = begin.split_once('.').context("a dotted name")?;
    let statements = [
        (
            "list",
            "SELECT count(*) FROM information_schema.tables WHERE table_catalog = 'lake' AND table_schema LIKE 'n%'"
                .to_owned(),
        ),
        (
            "complete",
            format!(
                "SELECT count(*) FROM information_schema.tables WHERE table_schema = '{namespace}' AND table_name LIKE '{table}%'"
            ),
        ),
        ("query", format!("SELECT count(id) FROM {asked} WHERE id >= 0")),
    ];
    let mut samples = Vec::new();
    for (what, sql) in statements {
        let mut sample = Sample { what, seconds: Vec::new(), requests: 0, loads: 0, answer: 0 };
        for _ in 0..names.runs {
            server.take_asked();
            let begun = Instant::now();
            let (rows, _) = query::run(&session, &sql).await?;
            sample.seconds.push(begun.elapsed().as_secs_f64());
            let requests = server.take_asked();
            let number = rows.first().and_then(|batch| batch.column(0).as_any().downcast_ref::<Int64Array>());
            sample.answer = number.filter(|number| number.len() == 1).context("one number")?.value(0);
            (sample.requests, sample.loads) = (requests.len(), loads(&requests));
        }
        samples.push(sample);
    }
    session.close().await;
    let runs = names.runs.to_string();
    let peer: Peer = serde_json::from_str(&python(cache, &["time", server.endpoint(), &asked, &runs])?)?;
    let requests = server.take_asked();
    Ok(outcome(names, &samples, &peer, requests.len()))
}

fn namespace_name(number: usize) -> String {
    format!("n{number:03}")
}

fn python(cache: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    match python::run(cache, SCRIPT, arguments)? {
        Run::Done { stdout } => Ok(stdout),
        Run::Skipped { reason } => bail!("pyiceberg is not to be had: {reason}"),
    }
}

fn session(server: &RestServer, folder: &Path) -> anyhow::Result<Session> {
    let text = format!("[catalogs.lake]\ntype = 'rest'\nuri = '{}'\n", server.endpoint());
    let file = ConfigFile { path: folder.join("gust.toml"), text };
    let overrides = Overrides { on: Some(Target::Local), ..Overrides::default() };
    Ok(Session::new(Config::load(Some(&file), [], &overrides)?)?)
}

fn loads(asked: &[Asked]) -> usize {
    asked.iter().filter(|asked| asked.path.contains("/tables/")).count()
}

fn outcome(names: &Names, samples: &[Sample], peer: &Peer, peer_requests: usize) -> Outcome {
    let peers =
        [(&peer.list_seconds, peer.names), (&peer.complete_seconds, peer.completed), (&peer.query_seconds, peer.rows)];
    let mut table = vec![format!("{:<10} {:>10} {:>9} {:>6} {:>14}", "", "gust", "requests", "loads", "pyiceberg")];
    let mut bounds = Vec::new();
    for (sample, (peer_seconds, _)) in samples.iter().zip(peers) {
        let (ours, theirs) = (median(&sample.seconds), median(peer_seconds));
        table.push(format!(
            "{:<10} {ours:>8.3} s {:>9} {:>6} {theirs:>12.3} s",
            sample.what, sample.requests, sample.loads
        ));
        let Some(share) = names.shares.get(sample.what) else { continue };
        bounds.push(Bound {
            what: format!("{} beside pyiceberg", sample.what),
            measured: ours / theirs,
            aim: share.aim,
            worst: share.worst,
            unit: "×",
        });
    }
    // PyIceberg's own listing has the table that was made, too.
    let tables = (names.namespaces * names.tables) as i64;
    let expected = [(tables, 0), ((names.tables as i64).min(10), 0), (peer.rows, 1)];
    let is_right = samples.iter().zip(expected).all(|(sample, (answer, _))| sample.answer == answer);
    let loads_one = samples.iter().zip(expected).all(|(sample, (_, loads))| sample.loads == loads);
    let few = samples.first().is_some_and(|list| list.requests <= 2 * (names.namespaces + 1) + 2);
    let samples = json!({
        "gust": samples,
        "pyiceberg": { "list": peer.list_seconds, "complete": peer.complete_seconds, "query": peer.query_seconds, "requests": peer_requests },
    });
    let validity = vec![
        ("the answers are right".to_owned(), is_right && peer.names == tables + 1 && peer.completed == expected[1].0),
        ("no table is loaded but the one that is queried".to_owned(), loads_one),
        ("a listing asks twice for each namespace at most".to_owned(), few),
    ];
    Outcome { name: "names", table, samples, bounds, validity }
}
