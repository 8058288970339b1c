//! Clients of a server that read more slowly than it computes, on each wire, and the memory that it takes meanwhile.
//!
//! The clients are real: curl, `gust query --server` and psql. Each writes rows to its stdout as they come, and reads no more from the
//! server while nobody takes them.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::Context;

/// Bytes of a row's text.
const TEXT_BYTES: u64 = 1_000;

/// Bytes that are read at once.
const PART_BYTES: usize = 64 << 10;

/// Way from the server to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Ndjson,
    NdjsonOverHttp2,
    Arrow,
    Flight,
    Postgres,
}

/// Ports of a server without users on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub http: u16,
    pub postgres: u16,
}

/// Returns a statement with so many rows of a kilobyte.
pub fn statement(rows: u64) -> String {
    format!("SELECT value AS v, repeat('x', {TEXT_BYTES}) AS x FROM generate_series(1, {rows})")
}

/// Returns the bytes that the rows have at least, on any wire.
pub fn bytes_min(rows: u64) -> u64 {
    rows * TEXT_BYTES
}

impl Wire {
    pub const ALL: [Self; 5] = [Self::Ndjson, Self::NdjsonOverHttp2, Self::Arrow, Self::Flight, Self::Postgres];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::NdjsonOverHttp2 => "ndjson over HTTP/2",
            Self::Arrow => "Arrow",
            Self::Flight => "Flight SQL",
            Self::Postgres => "PostgreSQL",
        }
    }

    /// Returns a client that writes the rows of a statement to stdout. `gust` is the program.
    pub fn client(self, mut gust: Command, ports: Ports, sql: &str) -> Command {
        let url = format!("http://127.0.0.1:{}", ports.http);
        let curl = |accept: &str, version: &str| {
            let mut curl = Command::new("curl");
            curl.args([
                "--silent",
                "--show-error",
                "--fail",
                "--noproxy",
                "*",
                version,
                "--header",
                &format!("Accept: {accept}"),
            ]);
            curl.args(["--header", "Content-Type: application/sql", "--data-binary", sql])
                .arg(format!("{url}/v1/query"));
            curl
        };
        let mut client = match self {
            Self::Ndjson => curl("application/x-ndjson", "--http1.1"),
            Self::NdjsonOverHttp2 => curl("application/x-ndjson", "--http2-prior-knowledge"),
            Self::Arrow => curl("application/vnd.apache.arrow.stream", "--http1.1"),
            Self::Flight => {
                gust.args(["query", "--report", "none", "--format", "ndjson", "--server", &url, sql]);
                gust
            }
            Self::Postgres => {
                let mut psql = Command::new("psql");
                psql.args(["-X", "-h", "127.0.0.1", "-p", &ports.postgres.to_string(), "-U", "ada", "-d", "gust"]);
                psql.args(["-c", &format!("COPY ({sql}) TO STDOUT")]).env_remove("PGPASSWORD");
                psql
            }
        };
        client.stdin(Stdio::null()).stdout(Stdio::piped());
        client
    }
}

/// Reads at a pace for a time, or to the end. Returns the bytes that were read.
///
/// # Errors
/// Those of the reader.
pub fn read_slowly(from: &mut impl Read, bytes_per_second: u64, time: Duration) -> io::Result<u64> {
    let (started, mut part, mut bytes) = (Instant::now(), vec![0; PART_BYTES], 0);
    while started.elapsed() < time {
        let read = from.read(&mut part)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        let due = Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        #[expect(clippy::disallowed_methods, reason = "the caller's thread is a client's")]
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
    Ok(bytes)
}

/// Returns the bytes of a process's memory that are resident.
///
/// # Errors
/// When there is no such process, or no Linux.
pub fn resident_bytes(process: u32) -> anyhow::Result<u64> {
    status_bytes(process, "VmRSS:")
}

/// Returns the most bytes that were resident since the process began, or since [`forget_peak`].
///
/// # Errors
/// Those of [`resident_bytes`].
pub fn peak_resident_bytes(process: u32) -> anyhow::Result<u64> {
    status_bytes(process, "VmHWM:")
}

/// Begins the peak of a process's memory anew.
///
/// # Errors
/// When the process is another user's.
pub fn forget_peak(process: u32) -> anyhow::Result<()> {
    // The meaning of 5 is in proc(5).
    fs::write(format!("/proc/{process}/clear_refs"), "5").context("cannot begin the peak anew")
}

fn status_bytes(process: u32, field: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
