//! Line protocol of the programs that are measured beside each other: this build, an earlier one, and other engines.
//!
//! The first line of a program's output is its version. Then each line of its input is a [`Question`] in JSON, and each line
//! of its output the [`Answer`]. It ends with its input. A program finds its S3 server and keys in AWS_ENDPOINT_URL,
//! AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::python::{self, PythonEnvironment};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Make a table of each folder of Parquet files: the names, with their locations. A location ends with a slash.
    Tables(BTreeMap<String, String>),
    Query(PeerQuery),
}

/// Query that is to be run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerQuery {
    /// Number of the query in TPC-H. An engine without SQL knows it by that.
    pub number: usize,
    pub sql: String,
    /// Arrow IPC file that the rows are written to, after the clock has stopped. No rows may be no file.
    pub rows: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Seconds from the question to the last row in memory.
    pub seconds: f64,
    pub rows: usize,
    /// Memory-seconds that functions are billed for.
    #[serde(default)]
    pub gigabyte_seconds: Option<f64>,
    /// Report of Gust on the query, null for other engines.
    #[serde(default)]
    pub report: serde_json::Value,
}

/// Running program. It ends by itself when this is dropped, because its input does.
pub struct Peer {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Name and version as the program gives them.
    pub version: String,
}

impl Peer {
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let questions = child.stdin.take().context("its stdin is a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("its stdout is a pipe")?);
        // Until the program has told its version.
        let mut peer = Self { child, questions, answers, version: program };
        peer.version = peer.line()?;
        Ok(peer)
    }

    /// Asks and waits for the answer. The times in it are of the program's own clock.
    ///
    /// # Errors
    /// When the program ends instead of answering. Its reason is on stderr.
    pub fn ask(&mut self, question: &Question) -> anyhow::Result<Answer> {
        let question = serde_json::to_string(question)?;
        writeln!(self.questions, "{question}").with_context(|| format!("{} has ended", self.version))?;
        let answer = self.line()?;
        serde_json::from_str(&answer).with_context(|| format!("{} answered {answer}", self.version))
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("{} ended instead of answering", self.version);
        }
        Ok(line.trim_end().to_owned())
    }

    /// Returns the id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends the program and waits for its end.
    pub fn end(self) -> anyhow::Result<()> {
        let Self { mut child, questions, answers, .. } = self;
        drop((questions, answers));
        child.wait()?;
        Ok(())
    }
}

/// Returns the command of an engine that is no build of ours. Its packages are installed once, under `cache`.
pub fn engine(name: &str, cache: &Path) -> anyhow::Result<Command> {
    let python = match python::environment(cache, python::PEERS)? {
        PythonEnvironment::Ready(python) => python,
        PythonEnvironment::Missing(reason) => bail!("{name} is not to be had: {reason}"),
    };
    let mut command = Command::new(python);
    command.arg(python::scripts().join("peers.py")).arg(name);
    Ok(command)
}
