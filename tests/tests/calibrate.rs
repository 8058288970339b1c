//! `gust calibrate` by its program: it prints its figures, keeps them, and plans with them. Nothing stays in the exchange.

use std::path::Path;
use std::time::Instant;

use gust::calibrate::calibrate;
use gust_engine::config::{Config, Target};
use gust_engine::model::Place;
use gust_engine::model::measured::{Measured, load};
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::localstack::{self, REGION, Setup};
use gust_tests::query::{assert_remote, run};
use gust_tests::s3::shape::{Faults, Latency, Pipe};
use gust_tests::s3::{S3Server, Shape};
use gust_tests::{cloud, tpch};
use tempfile::TempDir;

use crate::bad_input::{self, check, fails};

const SETTINGS: &str = "functions_max = 2\nexchange = \"exchange\"\ntime_model = \"kept/model.toml\"\n";
const CALIBRATE: [&str; 3] = ["calibrate", "--megabytes", "1"];

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_printed_kept_and_used_by_decisions() {
    let place = bad_input::Place::new(SETTINGS);
    place.parquet("data/a.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    let model = place.path("kept/model.toml");
    std::fs::create_dir(place.path("kept")).expect("made");
    std::fs::write(&model, "version = 99\n").expect("written");
    // A query needs no figures.
    let told = ["kept/model.toml", "it has version 99", "`gust calibrate` measures anew"];
    check(&place.gust(&["query", "SELECT 1"]).output().expect("it starts"), 0, &told);
    let output = place.gust(&CALIBRATE).output().expect("it starts");
    let replaced = "warning: replaced: time model `kept/model.toml`: it has version 99";
    check(&output, 0, &[replaced, "kept in", "kept/model.toml"]);
    let told = String::from_utf8(output.stdout).expect("text");
    let names = [
        "functions",
        "start-up",
        "a stage",
        "an attempt",
        "a request",
        "network",
        "scan speed",
        "functions pay",
        "cost",
    ];
    assert_eq!(told.lines().count(), names.len(), "{told}");
    for (line, name) in told.lines().zip(names) {
        assert!(line.starts_with(name), "{told}");
    }
    let kept = load(&model).expect("figures");
    let [Measured { functions, function_cores, attempt_seconds, start_up_seconds, .. }] = kept.as_slice() else {
        panic!("one kind of functions: {kept:?}")
    };
    assert_eq!(functions, "processes of 1 core");
    // The figures are this machine's, whose load is unknown: their range is wide.
    assert!((0.1..10.0).contains(function_cores), "{kept:?}");
    assert!(*attempt_seconds > 1e-4 && *start_up_seconds > 1e-4, "a process takes its time: {kept:?}");
    assert!(place.path("exchange").is_dir());
    assert_eq!(files_in(&place.path("exchange")), 0, "its tables are removed");

    let slow = Measured { stage_seconds: 4321.0, ..kept[0].clone() };
    gust_engine::model::measured::save(&model, slow).expect("written");
    let explain = ["explain", "--on", "processes", "SELECT sum(k) FROM 'data/a.parquet'"];
    let output = place.gust(&explain).output().expect("it starts");
    check(&output, 0, &[]);
    let plan = String::from_utf8(output.stdout).expect("text");
    assert!(plan.contains("4321."), "the decision reckons with it: {plan}");
}

/// The times are this machine's. The test shows that calibration needs no processes, and that a dry run keeps nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_measures_functions_on_lambda_and_keeps_nothing() {
    let Some(localstack) = localstack::shared() else { return };
    let package = localstack::package_of(env!("CARGO_BIN_EXE_bootstrap_under_test"), &[]);
    let function = localstack.deploy("measured", package, Setup::default()).await;
    let bucket = localstack.bucket("exchange").await;
    let exchange = format!("s3://{bucket}/results");
    let reached = format!("region = '{REGION}'\nendpoint = '{}'\n", localstack.endpoint);
    let place = bad_input::Place::new(&format!(
        "invoker = 'lambda'\nfunctions_max = 2\nexchange = '{exchange}'\ntime_model = 'kept/model.toml'\n\
         [lambda]\nfunctions = ['{function}']\n{reached}\
         [s3]\n{reached}allow_http = true\npath_style = true\naccess_key_id = 'test'\nsecret_access_key = 'test'\n"
    ));
    let mut dry = place.gust(&[&CALIBRATE[..], &["--dry-run"]].concat());
    localstack::without_aws(&mut dry);
    let dry = dry.output().expect("it starts");
    check(&dry, 0, &[]);
    let told = String::from_utf8(dry.stdout).expect("text");
    let number = |before: &str, after: &str| {
        let number = told.split_once(before).and_then(|(_, rest)| rest.split_once(after)).map(|(number, _)| number);
        number.and_then(|number| number.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("{before}: {told}"))
    };
    assert!(told.starts_with("functions      lambda 2048 MB "), "{told}");
    assert!(number("a function is worth ", " of them") > 0.1, "{told}");
    assert!(number("an attempt", " ms billed at least") > 0.1, "{told}");
    assert!(!place.path("kept/model.toml").exists(), "a dry run keeps nothing");
    assert_eq!(localstack.objects(&exchange).await, Vec::<String>::new(), "its tables are removed");
}

/// Runs a query twice on a place, and returns the lesser seconds and the report of the last.
async fn fastest(config: &Config, create: &[String], sql: &str) -> (f64, Report) {
    let session = Session::new(config.clone()).expect("a session");
    for statement in create {
        run(&session, statement).await.expect("a table");
    }
    let (mut least, mut last) = (f64::INFINITY, None);
    for _ in 0..2 {
        let begun = Instant::now();
        let (_, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{:?}: {sql}: {error}", config.on));
        least = least.min(begun.elapsed().as_secs_f64());
        last = Some(report);
    }
    session.close().await;
    (least, last.expect("two runs"))
}

/// Pipe of each identity: narrow, so that functions pay for a large read, and for no small one.
const PIPE_BYTES_PER_SECOND: f64 = 2e6;

/// Calibrations of which one has to suffice. Others may use the machine while one of them measures, or while its queries run. Another choice
/// than that of the faster place is one each time.
const CALIBRATIONS: usize = 3;

/// Storage of 27 ms, with a narrow pipe for each function and for the coordinator. Both places are run, and `auto` takes the faster.
#[tokio::test(flavor = "multi_thread")]
async fn auto_picks_the_faster_place_of_slow_storage_after_a_calibration() {
    let tables = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
    let server = S3Server::start().expect("a server");
    let url = server.url("");
    let create = tables.upload(server.store().expect("a client").as_ref(), url.trim_end_matches('/')).await;
    let create = create.expect("uploaded");
    let latency = Latency { least_ms: 27.0, longer_ms: vec![(0.5, 27.5)], worst_ms: 28.0 };
    let pipe = Pipe {
        burst_once_bytes: 0.0,
        burst_bytes: 0.0,
        line_bytes_per_second: PIPE_BYTES_PER_SECOND,
        refill_bytes_per_second: PIPE_BYTES_PER_SECOND,
    };
    let (limits, faults) = (None, Faults::default());
    server.set_shape(Some(Shape { seed: 27, scale: 1.0, pipe: Some(pipe), latency: Some(latency), limits, faults }));
    let folder = TempDir::new().expect("a temporary folder");
    let config = Config {
        on: Target::Processes,
        functions_max: 4,
        exchange: Some(server.url("exchange")),
        time_model: Some(folder.path().join("model.toml")),
        ..Config::default()
    };
    let config = cloud::config(&server, config, Path::new(env!("CARGO_BIN_EXE_bootstrap_under_test")));
    let mut wrong = Vec::new();
    for _ in 0..CALIBRATIONS {
        match Box::pin(picks_the_faster(&config, &create, &folder.path().join("model.toml"))).await {
            Ok(()) => return,
            Err(told) => wrong.push(told),
        }
    }
    panic!("{wrong:#?}");
}

/// Calibrates, and runs queries on both places. Returns what is wrong with the figures or with the choice.
async fn picks_the_faster(config: &Config, create: &[String], model: &Path) -> Result<(), String> {
    let calibration = Box::pin(calibrate(config, 1 << 20, &|_| {})).await.expect("figures");
    let request = calibration.measured.request_seconds;
    if !(0.027..0.06).contains(&request) {
        return Err(format!("the latency was measured: {request}"));
    }
    gust_engine::model::measured::save(model, calibration.measured).expect("written");
    let on = |on| Config { on, ..config.clone() };
    for (sql, faster) in [
        ("SELECT count(*) FROM nation WHERE n_regionkey > 1", Place::Local),
        ("SELECT max(o_totalprice) FROM orders WHERE o_orderkey < 100", Place::Local),
        (
            "SELECT max(l_comment), sum(l_extendedprice), max(l_shipinstruct), sum(l_partkey) FROM lineitem",
            Place::Functions,
        ),
    ] {
        let (here, _) = fastest(&on(Target::Local), create, sql).await;
        let (there, report) = fastest(&on(Target::Processes), create, sql).await;
        assert_remote(&report, sql);
        let (_, report) = fastest(&on(Target::Auto), create, sql).await;
        let decision = report.decision.expect("a decision");
        let told = format!("{sql}: local {here:.3} s, functions {there:.3} s, {decision}");
        let (picked, other) = if decision.place == Place::Local { (here, there) } else { (there, here) };
        // Places that are nearly as fast may both be picked, on a machine that others use, too.
        let is_faster = match faster {
            // One place is far faster, so that a choice of always the same place fails.
            Place::Functions => there < 0.7 * here,
            Place::Local => here <= there + 0.05,
        };
        if !(is_faster && decision.place == faster && picked <= 1.25 * other + 0.05) {
            return Err(told);
        }
    }
    Ok(())
}

/// Counts the files below a folder.
fn files_in(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .map(|entry| entry.expect("readable").path())
        .map(|path| if path.is_dir() { files_in(&path) } else { 1 })
        .sum()
}

#[test]
fn unusable_settings_are_named() {
    let place = bad_input::Place::new(SETTINGS);
    fails(&place, &["calibrate", "--megabytes", "0"], 2, &["--megabytes", "0 is not in 1..=4096"]);
    fails(&place, &["calibrate", "--on", "nowhere"], 2, &["nowhere", "processes"]);
    let broken = bad_input::Place::new(&SETTINGS.replace("\"exchange\"", "\"/proc/exchange\""));
    fails(&broken, &CALIBRATE, 2, &["exchange: /proc/exchange"]);
}
