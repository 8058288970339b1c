//! `gust calibrate` by its program: it prints its figures, keeps them, and plans with them. Nothing stays in the exchange.

use gust::calibrate::calibrate;
use gust_engine::config::{Config, InvokerKind, Target};
use gust_engine::model::measured::{Measured, load};
use gust_tests::localstack::{self, Setup};

use crate::bad_input::{Place, check, fails};

const SETTINGS: &str = "functions_max = 2\nexchange = \"exchange\"\ntime_model = \"kept/model.toml\"\n";
const CALIBRATE: [&str; 3] = ["calibrate", "--megabytes", "1"];

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_printed_kept_and_used_by_decisions() {
    let place = Place::new(SETTINGS);
    place.parquet("data/a.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    let model = place.path("kept/model.toml");
    let dry = place.gust(&[&CALIBRATE[..], &["--dry-run"]].concat()).output().expect("it starts");
    check(&dry, 0, &[]);
    assert!(!model.exists(), "a dry run keeps nothing");

    let output = place.gust(&CALIBRATE).output().expect("it starts");
    check(&output, 0, &["kept in", "kept/model.toml"]);
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

/// The times are this machine's. The test shows that calibration needs no processes.
#[tokio::test(flavor = "multi_thread")]
async fn functions_on_lambda_are_measured_too() {
    let Some(localstack) = localstack::shared() else { return };
    let zip = localstack::zip("bootstrap", &std::fs::read(env!("CARGO_BIN_EXE_bootstrap_under_test")).expect("built"));
    let function = localstack.deploy("measured", zip, Setup::default()).await;
    let bucket = localstack.bucket("exchange").await;
    let exchange = format!("s3://{bucket}/results");
    let config = Config {
        on: Target::Lambda,
        invoker: InvokerKind::Lambda,
        functions_max: 2,
        exchange: Some(exchange.clone()),
        s3: localstack.s3(),
        lambda: localstack.lambda(&[function]),
        ..Config::default()
    };
    let calibration = Box::pin(calibrate(&config, 1 << 20, &|_| {})).await.expect("figures");
    let Measured { functions, function_cores, attempt_seconds, .. } = &calibration.measured;
    assert!(functions.starts_with("lambda 2048 MB "), "{functions}");
    assert!(*function_cores > 0.1 && *attempt_seconds > 1e-4, "{calibration:?}");
    assert_eq!(localstack.objects(&exchange).await, Vec::<String>::new(), "its tables are removed");
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
fn unusable_settings_and_models_are_named() {
    let place = Place::new(SETTINGS);
    fails(&place, &["calibrate", "--megabytes", "0"], 2, &["--megabytes", "0 is not in 1..=4096"]);
    fails(&place, &["calibrate", "--on", "nowhere"], 2, &["nowhere", "processes"]);
    let broken = Place::new(&SETTINGS.replace("\"exchange\"", "\"/proc/exchange\""));
    fails(&broken, &CALIBRATE, 2, &["exchange: /proc/exchange"]);

    std::fs::create_dir(place.path("kept")).expect("made");
    std::fs::write(place.path("kept/model.toml"), "version = 99\n").expect("written");
    // A query needs no figures.
    let told = ["kept/model.toml", "it has version 99", "`gust calibrate` measures anew"];
    check(&place.gust(&["query", "SELECT 1"]).output().expect("it starts"), 0, &told);
    let output = place.gust(&CALIBRATE).output().expect("it starts");
    check(&output, 0, &["warning: replaced: time model `kept/model.toml`: it has version 99", "kept in"]);
    assert_eq!(load(&place.path("kept/model.toml")).expect("figures").len(), 1);
}
