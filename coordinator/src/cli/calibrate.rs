//! `gust calibrate`: measures this installation and keeps the figures for estimates.

use std::io::{Write, stdout};

use fragment_fn::stack;
use gust_engine::config::Overrides;
use gust_engine::error::QueryError;
use gust_engine::model::measured::{Measured, load, save};
use gust_engine::storage::aws;
use humansize::{BINARY, format_size};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::CalibrateArgs;
use super::{CommandError, configuration};
use crate::calibrate::{Calibration, CalibrationError, calibrate as measure};
use crate::cli::exit::Exit;
use crate::cli::say::say;

pub(super) async fn calibrate(args: CalibrateArgs) -> Result<(), CommandError> {
    let overrides = Overrides { on: args.on, functions_max: args.functions, ..Overrides::default() };
    let mut config = configuration(args.config.as_deref(), &overrides)?;
    if config.s3.region.is_none() {
        config.s3.region = aws::default_region().await;
    }
    // The user should learn before the measurement that its figures cannot be kept.
    if config.time_model.is_none() && !args.dry_run {
        let hint = "set time_model in gust.toml, or HOME; or look only, with --dry-run";
        return Err(CommandError::usage("there is no place to keep the figures").with_hint(Some(hint)));
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} measuring {msg}").map_err(CommandError::usage)?);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let (said, config_of_all) = (bar.clone(), config.clone());
    let told = move |what: &str| said.set_message(what.to_owned());
    // The writing of tables must not hold up a signal.
    let workers = stack::runtime().map_err(|error| CommandError::usage(format!("cannot start threads: {error}")))?;
    let measuring = workers.spawn(async move { Box::pin(measure(&config_of_all, args.megabytes << 20, &told)).await });
    let ended = tokio::select! {
        ended = measuring => ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
        _ = tokio::signal::ctrl_c() => Err(CalibrationError::Query(QueryError::interrupted())),
    };
    stack::end(workers);
    bar.finish_and_clear();
    let calibration = ended.map_err(|error| match error {
        CalibrationError::Query(error) => error.into(),
        CalibrationError::Data(error) => CommandError::new(Exit::FunctionsFailed, &error).with_hint(error.hint()),
        other => CommandError::new(Exit::FunctionsFailed, other),
    })?;
    write!(stdout(), "{}", told_of(&calibration)).map_err(CommandError::usage)?;
    if let Some(path) = config.time_model.filter(|_| !args.dry_run) {
        if let Err(error) = load(&path) {
            say!("warning: replaced: {error}");
        }
        save(&path, calibration.measured).map_err(CommandError::usage)?;
        say!("kept in {}; estimates use it from now on", path.display());
    }
    Ok(())
}

fn told_of(calibration: &Calibration) -> String {
    let Calibration { measured, crossover_alone, crossover_of_twenty, cost } = calibration;
    let Measured { functions, start_up_seconds, stage_seconds, fragment_seconds, request_seconds, .. } = measured;
    let ms = |seconds: &f64| format!("{:.1} ms", 1e3 * seconds);
    let rate = |bytes: f64| format!("{}/s", format_size(bytes as u64, BINARY));
    let together = measured
        .together_bytes_per_second
        .map_or_else(|| "several do not share it".to_owned(), |bytes| format!("{} into several", rate(bytes)));
    let burst = match measured.function_pipe_burst_bytes {
        0 if measured.function_pipe < measured.function_pipe_first => {
            format!(", {} at first", rate(measured.function_pipe_first))
        }
        0 => String::new(),
        bytes => format!(" after the first {}", format_size(bytes, BINARY)),
    };
    let from = |crossover: &Option<u64>| match crossover {
        Some(bytes) => format!("from {} on", format_size(*bytes, BINARY)),
        None => "never".to_owned(),
    };
    let lines = [
        ("functions", functions.clone()),
        ("start-up", ms(start_up_seconds)),
        ("a stage", format!("{} with one fragment, {} for each further one", ms(stage_seconds), ms(fragment_seconds))),
        ("an attempt", format!("{} billed at least", ms(&measured.attempt_seconds))),
        ("a request", format!("{} in the mean, {} at least", ms(request_seconds), ms(&measured.request_seconds_least))),
        (
            "network",
            format!(
                "{} into a function{burst}; {together}; {} into the coordinator",
                rate(measured.function_pipe),
                rate(measured.pipe_bytes_per_second)
            ),
        ),
        (
            "scan speed",
            format!(
                "{} of compressed columns by a core here; a function is worth {:.2} of them",
                rate(measured.core_bytes_per_second),
                measured.function_cores
            ),
        ),
        (
            "functions pay",
            format!("{} for one query, {} for twenty at once", from(crossover_alone), from(crossover_of_twenty)),
        ),
        ("cost", format!("{cost}, at most, as far as it is known")),
    ];
    lines.iter().map(|(what, text)| format!("{what:<14} {text}\n")).collect()
}
