//! Runs the tests' Python scripts, with packages pinned in `tests/python/requirements.txt`. Engines that are only measured
//! beside ours are pinned in [`PEERS`].
//!
//! The packages are installed once, into a virtual environment. It is kept under the target folder by the hash of
//! the requirements. If it cannot be had, a run is [`Run::Skipped`] with the reason, which the caller prints.
//! With `CI=true` that is an error instead, so that a skipped test cannot go unseen there.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

/// Requirements of the tests.
pub const TESTS: &str = "requirements.txt";
/// Requirements of `peers.py`.
pub const PEERS: &str = "requirements-peers.txt";
/// Requirements of the judges of the Iceberg matrix, and of its writers.
pub const JUDGES: &str = "judges.txt";
/// Requirements of the clients of the server.
pub const CLIENTS: &str = "clients.txt";
/// Requirements of the client that is made from the server's OpenAPI.
pub const OPENAPI: &str = "openapi.txt";
/// Requirements of dbt with its adapter for PostgreSQL.
pub const DBT: &str = "dbt.txt";

/// Lock of the installation: two tests of one process must not install the same packages at once.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Result of a script's run.
#[derive(Debug)]
pub enum Run {
    /// The script ended with status 0 and printed this text.
    Done { stdout: String },
    /// Python 3 is missing, or its packages cannot be had.
    Skipped { reason: String },
}

/// Returns the folder of the scripts, `tests/python`.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// Runs `tests/python/SCRIPT` with `arguments`. The environment is kept under `cache`, a test's `CARGO_TARGET_TMPDIR`.
///
/// # Errors
/// When the script fails (the message ends with its stderr), and with `CI=true` where the run would be skipped.
pub fn run<A: AsRef<OsStr>>(cache: &Path, script: &str, arguments: &[A]) -> anyhow::Result<Run> {
    run_with(cache, TESTS, script, arguments)
}

/// Has DuckDB make the Parquet files of `files`, pairs of a path and a statement, and answer `queries` in `folder`. Returns false where Python is
/// missing, and says so on stderr.
///
/// # Errors
/// Those of [`run`].
pub fn duckdb_answers<F: Serialize, Q: Serialize>(
    cache: &Path,
    folder: &Path,
    files: &[F],
    queries: &[Q],
) -> anyhow::Result<bool> {
    fs::write(folder.join("files.json"), serde_json::to_string(files)?)?;
    fs::write(folder.join("queries.json"), serde_json::to_string(queries)?)?;
    match run(cache, "duckdb_answers.py", &[folder])? {
        Run::Done { .. } => Ok(true),
        Run::Skipped { reason } => {
            eprintln!("skipped: {reason}");
            Ok(false)
        }
    }
}

/// Does the same with the packages of other requirements.
///
/// # Errors
/// Those of [`run`].
pub fn run_with<A: AsRef<OsStr>>(
    cache: &Path,
    requirements: &str,
    script: &str,
    arguments: &[A],
) -> anyhow::Result<Run> {
    let python = match environment(cache, requirements)? {
        PythonEnvironment::Ready(python) => python,
        PythonEnvironment::Missing(reason) => {
            return skip(script, reason, env::var("CI").is_ok_and(|value| value == "true"));
        }
    };
    let mut command = Command::new(&python);
    command.arg(scripts().join(script)).args(arguments);
    let output = command.output().with_context(|| format!("cannot run {}", python.display()))?;
    if !output.status.success() {
        bail!("{script} failed with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let stdout = String::from_utf8(output.stdout).with_context(|| format!("{script} printed no text"))?;
    Ok(Run::Done { stdout })
}

fn skip(script: &str, reason: String, is_ci: bool) -> anyhow::Result<Run> {
    ensure!(!is_ci, "{script} would be skipped, and CI does not skip: {reason}");
    Ok(Run::Skipped { reason })
}

/// Virtual environment of the packages.
#[derive(Debug)]
pub enum PythonEnvironment {
    /// Path of the interpreter.
    Ready(PathBuf),
    /// Reason why the packages cannot be had.
    Missing(String),
}

/// Returns the environment of `tests/python/REQUIREMENTS` under `cache`. It is made unless it is there.
///
/// # Errors
/// When its folder cannot be used.
pub fn environment(cache: &Path, requirements: &str) -> anyhow::Result<PythonEnvironment> {
    let requirements = scripts().join(requirements);
    let text = fs::read_to_string(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let folder = cache.join(format!("python-{:016x}", hasher.finish()));
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if !folder.exists() {
        fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
        // The packages are installed elsewhere and moved when whole: the interpreter finds its packages beside itself.
        let unfinished = tempfile::Builder::new().prefix("python-unfinished-").tempdir_in(cache)?;
        if let Err(reason) = install(unfinished.path(), &requirements) {
            return Ok(PythonEnvironment::Missing(reason));
        }
        let finished = unfinished.keep();
        if let Err(error) = fs::rename(&finished, &folder) {
            drop(fs::remove_dir_all(&finished));
            ensure!(folder.exists(), "cannot move the environment to {}: {error}", folder.display());
        }
    }
    Ok(PythonEnvironment::Ready(interpreter(&folder)))
}

fn install(folder: &Path, requirements: &Path) -> Result<(), String> {
    let step = |what: &str, command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{what} failed: {}", last_lines(&output))),
        Err(error) => Err(format!("{what} failed: {error}")),
    };
    step("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let mut pip = Command::new(interpreter(folder));
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements);
    step("pip install", &mut pip)
}

fn interpreter(folder: &Path) -> PathBuf {
    folder.join("bin").join("python")
}

/// Returns the last five lines of a command's output, which tell the reason of a failure.
fn last_lines(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_skipped_unseen_in_ci() {
        let skipped = skip("judge.py", "no python3".to_owned(), false).unwrap();
        assert!(matches!(skipped, Run::Skipped { reason } if reason == "no python3"));
        let error = skip("judge.py", "no python3".to_owned(), true).unwrap_err();
        assert_eq!(error.to_string(), "judge.py would be skipped, and CI does not skip: no python3");
    }
}
