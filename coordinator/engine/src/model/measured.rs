//! Figures of a calibration, kept in a file, and the [`TimeModel`] that they make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::attempts::{Machines, seconds_here, seconds_on_functions};
use super::load::{FragmentLoad, LocalLoad, StageLoad};
use super::{Latency, Pipe, TimeModel};

/// Version of the file, raised where a figure changes its meaning.
const VERSION: u32 = 2;
/// Longest time that a figure may be.
const SECONDS_MAX: f64 = 1e6;
/// Kinds of functions that one file remembers.
const KINDS_MAX: usize = 64;

/// Figures of one installation: its coordinator, and one kind of functions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Kind of functions: `processes of 1 core`, or `lambda 2048 MB arm64`.
    pub functions: String,
    pub date: NaiveDate,
    /// Time from a function's request to its readiness, where it was not running.
    pub start_up_seconds: f64,
    /// Time that a query of one warm fragment takes more than the same query here.
    pub stage_seconds: f64,
    /// Time that each further fragment adds.
    pub fragment_seconds: f64,
    /// Billed time of such a warm fragment, which reads once and next to nothing. It is a mean, for money is a sum.
    pub attempt_seconds: f64,
    /// Mean time of a read of a kilobyte by the coordinator.
    pub request_seconds: f64,
    /// Least time of such a read.
    pub request_seconds_least: f64,
    /// Compressed bytes a second that one core here filters and aggregates.
    pub core_bytes_per_second: f64,
    /// Speed of one function, in cores of the coordinator.
    pub function_cores: f64,
    /// Bytes a second into the coordinator.
    pub pipe_bytes_per_second: f64,
    /// Bytes a second into several functions together. None where each of them was as fast as one alone.
    pub together_bytes_per_second: Option<f64>,
    /// Bytes a second into one function while a long burst lasts.
    pub function_pipe_first: f64,
    /// Bytes a second into one function after a long burst; the same where there is none.
    pub function_pipe: f64,
    /// Bytes of a short burst: they come at once, and back while a function waits.
    pub function_pipe_burst_bytes: u64,
}

impl Measured {
    /// Makes the model of all estimates, on a coordinator of `cores`.
    pub fn model(&self, cores: usize) -> TimeModel {
        let function_pipe = if self.function_pipe < self.function_pipe_first {
            // The size of a long burst is not measured: that would take its bytes many times over.
            Pipe {
                burst_bytes: Pipe::LAMBDA.burst_bytes,
                burst_bytes_per_second: self.function_pipe_first,
                bytes_per_second: self.function_pipe,
            }
        } else {
            Pipe {
                burst_bytes: self.function_pipe_burst_bytes,
                burst_bytes_per_second: self.function_pipe.max(Pipe::LAMBDA.burst_bytes_per_second),
                bytes_per_second: self.function_pipe,
            }
        };
        TimeModel {
            // The local run that was subtracted waits for its first byte, too.
            stage_overhead: Duration::from_secs_f64(self.stage_seconds + self.request_seconds),
            fragment_overhead: Duration::from_secs_f64(self.fragment_seconds),
            core_bytes_per_second: self.core_bytes_per_second,
            pipe_bytes_per_second: self.pipe_bytes_per_second,
            machine_pipe_bytes_per_second: self.together_bytes_per_second.unwrap_or(f64::INFINITY),
            function_pipe,
            attempt_overhead: Duration::from_secs_f64(self.attempt_seconds),
            read_latency: Latency {
                mean: Duration::from_secs_f64(self.request_seconds),
                least: Duration::from_secs_f64(self.request_seconds_least),
            },
            reads_ahead: 0,
            function_reads_ahead: 0,
            start: Duration::from_secs_f64(self.start_up_seconds),
            cores,
            function_cores: self.function_cores,
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        let times = [
            self.start_up_seconds,
            self.stage_seconds,
            self.fragment_seconds,
            self.attempt_seconds,
            self.request_seconds,
            self.request_seconds_least,
        ];
        let rates = [
            self.core_bytes_per_second,
            self.function_cores,
            self.pipe_bytes_per_second,
            self.together_bytes_per_second.unwrap_or(f64::MAX),
            self.function_pipe_first,
            self.function_pipe,
        ];
        match () {
            () if !times.iter().all(|time| (0.0..SECONDS_MAX).contains(time)) => Err("a time is negative or too long"),
            () if !rates.iter().all(|rate| rate.is_finite() && *rate > 0.0) => Err("a rate is not above zero"),
            () => Ok(()),
        }
    }
}

/// Returns the bytes of a scan from which functions are faster than the coordinator. It is one of `at_once` equal queries that run at the same
/// time and share all machines. None where functions never are faster, up to an exabyte.
pub fn crossover(machines: &Machines<'_>, at_once: usize) -> Option<u64> {
    let shared = at_once.max(1);
    let functions = (machines.functions_max / shared).max(1);
    let on = Machines { functions_max: functions, warm: functions, ..*machines };
    let pays = |bytes: u64| {
        let fragment = FragmentLoad::of_bytes(bytes.div_ceil(functions as u64), on.lanes);
        let stage = StageLoad::of_fragments(vec![fragment; functions]);
        // All share the coordinator's cores and pipe, and so do functions that run on its machine.
        let local = seconds_here(&LocalLoad::of_bytes(bytes), on.model) * shared as f64;
        let remote = seconds_on_functions(&[&stage], None, &on) * if on.shares_machine { shared as f64 } else { 1.0 };
        remote < local
    };
    let most = (10..=60).map(|power| 1_u64 << power).find(|bytes| pays(*bytes))?;
    let (mut least, mut most) = (most / 2, most);
    while most - least > most / 1000 {
        let middle = u64::midpoint(least, most);
        if pays(middle) { most = middle } else { least = middle }
    }
    Some(most)
}

/// Error of a file of figures.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("time model `{}`: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("time model `{}` cannot be written: {error}", path.display())]
    Unwritable { path: PathBuf, error: std::io::Error },
}

impl ModelError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreadable { .. } => Some("`gust calibrate` measures anew"),
            Self::Unwritable { .. } => None,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    measured: Vec<Measured>,
}

/// Keeps figures in a file, in place of older ones of the same functions, and of a file that cannot be used.
///
/// # Errors
/// [`ModelError::Unwritable`].
pub fn save(path: &Path, measured: Measured) -> Result<(), ModelError> {
    let mut all = load(path).unwrap_or_default();
    all.retain(|other| other.functions != measured.functions);
    all.push(measured);
    let text = toml::to_string(&File { version: VERSION, measured: all });
    let text = text.map_err(|error| ModelError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The file is written whole or not at all: another query may read it now.
    let written = std::fs::create_dir_all(folder).and_then(|()| {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(path).map(drop).map_err(|error| error.error)
    });
    written.map_err(|error| ModelError::Unwritable { path: path.to_owned(), error })
}

/// Reads the figures of a file, one a kind of functions; none where there is no file.
///
/// # Errors
/// [`ModelError::Unreadable`].
pub fn load(path: &Path) -> Result<Vec<Measured>, ModelError> {
    let unreadable = |reason: String| ModelError::Unreadable { path: path.to_owned(), reason };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let file: File = toml::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    if file.version != VERSION {
        return Err(unreadable(format!("it has version {}, this program writes {VERSION}", file.version)));
    }
    if file.measured.len() > KINDS_MAX {
        return Err(unreadable(format!("{} kinds of functions; at most {KINDS_MAX} are kept", file.measured.len())));
    }
    for measured in &file.measured {
        measured.check().map_err(|reason| unreadable(format!("{}: {reason}", measured.functions)))?;
    }
    Ok(file.measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;

    fn measured(functions: &str) -> Measured {
        Measured {
            functions: functions.to_owned(),
            date: NaiveDate::from_ymd_opt(2026, 11, 21).expect("a day"),
            start_up_seconds: 0.2,
            stage_seconds: 0.05,
            fragment_seconds: 0.001,
            attempt_seconds: 0.04,
            request_seconds: 0.03,
            request_seconds_least: 0.02,
            core_bytes_per_second: 100.0 * MB,
            function_cores: 1.5,
            pipe_bytes_per_second: 200.0 * MB,
            together_bytes_per_second: Some(200.0 * MB),
            function_pipe_first: 1000.0 * MB,
            function_pipe: 80.0 * MB,
            function_pipe_burst_bytes: 1_000_000,
        }
    }

    #[test]
    fn figures_become_a_model() {
        let model = measured("x").model(8);
        assert_eq!((model.cores, model.function_cores, model.pipe_bytes_per_second), (8, 1.5, 200.0 * MB));
        assert_eq!(model.function_pipe.burst_bytes, Pipe::LAMBDA.burst_bytes);
        assert_eq!(model.function_pipe.bytes_per_second, 80.0 * MB);
        let steady = Measured { function_pipe_first: 900.0 * MB, function_pipe: 900.0 * MB, ..measured("x") };
        let seconds = steady.model(8).function_pipe.seconds(901_000_000);
        assert!((1.0..1.001).contains(&seconds), "a megabyte at once, and then a second: {seconds}");
        assert_eq!(model.machine_pipe_bytes_per_second, 200.0 * MB);
        let apart = Measured { together_bytes_per_second: None, ..measured("x") }.model(8);
        assert_eq!(apart.machine_pipe_bytes_per_second, f64::INFINITY);
    }

    #[test]
    fn functions_pay_from_where_two_lines_cross() {
        // Local: 4 lanes, so bytes / 200e6 through the pipe and a quarter of bytes / 400e6 in the cores. Ten functions of one lane, each 100 MB/s by
        // pipe and then by core: 0.05 + 0.03 + 10 × 0.001 + 2 × bytes / 1e9.
        let steady = Measured {
            function_pipe_first: 100.0 * MB,
            function_pipe: 100.0 * MB,
            function_pipe_burst_bytes: 0,
            function_cores: 1.0,
            ..measured("x")
        };
        let model = steady.model(4);
        let on = Machines { model: &model, functions_max: 10, shares_machine: false, warm: 10, lanes: 1 };
        #[track_caller]
        fn check(found: Option<u64>, expect: f64) {
            let found = found.expect("they cross") as f64;
            assert!((found / expect - 1.0).abs() < 0.01, "{found} is not about {expect}");
        }
        let local = 1.0 / 200e6 + 1.0 / 400e6 / 4.0;
        check(crossover(&on, 1), 0.09 / (local - 2.0 / 1e9));
        // Two at once: half of everything, so twice as long here against 0.08 + 5 × 0.001 + 2 × bytes / 500e6.
        check(crossover(&on, 2), 0.085 / (2.0 * local - 2.0 / 500e6));
        let here = Machines { shares_machine: true, ..on };
        assert_eq!(crossover(&here, 1), None, "functions of the same machine read through the same pipe");
    }

    #[test]
    fn a_file_keeps_one_entry_a_kind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state/model.toml");
        assert_eq!(load(&path).expect("no file yet"), []);
        save(&path, measured("processes")).expect("written");
        save(&path, measured("lambda 2048 MB arm64")).expect("written");
        let newer = Measured { start_up_seconds: 9.0, ..measured("processes") };
        save(&path, newer.clone()).expect("written");
        assert_eq!(load(&path).expect("read"), [measured("lambda 2048 MB arm64"), newer]);
    }

    #[test]
    fn an_unusable_file_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.toml");
        let good = toml::to_string(&File { version: VERSION, measured: vec![measured("x")] }).expect("plain data");
        for (text, expect) in [
            ("version = 1".to_owned(), "it has version 1, this program writes 2"),
            ("nonsense".to_owned(), "TOML parse error"),
            (good.replace("0.05", "-0.05"), "x: a time is negative or too long"),
            (good.replace("0.05", "1e30"), "x: a time is negative or too long"),
            (good.replace("80000000.0", "0.0"), "x: a rate is not above zero"),
        ] {
            std::fs::write(&path, text).expect("written");
            let error = load(&path).expect_err("unusable");
            let hint = error.hint().expect("a next step");
            assert!(error.to_string().contains(expect) && hint.contains("`gust calibrate`"), "{error}; {hint}");
        }
    }
}
