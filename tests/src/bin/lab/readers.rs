//! One server and one reader after the other, each on a wire of its own: it reads a large result slowly for a while, and the rest as fast as
//! it can. The figure is the most memory that the server took above what it has when idle.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::Context;
use gust_tests::slow_readers::{
    Ports, Wire, bytes_min, forget_peak, peak_resident_bytes, read_slowly, resident_bytes, statement,
};
use serde::Serialize;
use serde_json::json;

use super::{Bound, Outcome};
use crate::tax::sibling;

/// Bytes above idle that a server may take for a reader.
const MIB_MAX: f64 = 256.0;

#[derive(clap::Args)]
pub struct Choice {
    /// Bytes of the result, in millions
    #[arg(long, default_value_t = 10_000)]
    megabytes: u64,
    /// Pace of the reader in the beginning, in millions of bytes a second
    #[arg(long, default_value_t = 1)]
    pace: u64,
    /// Time for which it keeps that pace, in seconds. Then it reads on as fast as it can
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Server in a folder of its own. Dropping it kills it.
struct Server {
    child: Child,
    ports: Ports,
}

impl Server {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        fs::write(folder.join("gust.toml"), "on = 'local'\n")?;
        let mut command = gust(folder)?;
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--timeout", "1day"])
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut words = BufReader::new(child.stderr.take().context("its words")?).lines();
        let mut port = || loop {
            let line = words.next().context("the server has ended")??;
            let Some(place) = line.trim().strip_prefix("listening at ") else { continue };
            let address = place.trim_start_matches("http://").split(' ').next().unwrap_or_default();
            break Ok::<_, anyhow::Error>(address.parse::<SocketAddr>()?.port());
        };
        let ports = Ports { http: port()?, postgres: port()? };
        // A server whose words nobody reads would be held up by them.
        std::thread::spawn(move || words.map_while(Result::ok).for_each(|line| eprintln!("server: {line}")));
        Ok(Self { child, ports })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn gust(folder: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(sibling("gust_under_test")?);
    // A measurement must not become a part of its user's history.
    command.current_dir(folder).env_remove("GUST_LOG").env("XDG_STATE_HOME", folder.join("state")).stdin(Stdio::null());
    Ok(command)
}

/// A reader's run.
#[derive(Serialize)]
struct Run {
    wire: &'static str,
    bytes: u64,
    seconds: f64,
    idle_bytes: u64,
    /// Most bytes above idle while it was slow, and until its end.
    slow_bytes: u64,
    all_bytes: u64,
    is_whole: bool,
}

pub fn measure(choice: &Choice, cache: &Path) -> anyhow::Result<Outcome> {
    let rows = choice.megabytes * 1_000_000 / bytes_min(1);
    let runs: Vec<Run> =
        Wire::ALL.iter().map(|wire| read(*wire, rows, choice, cache)).collect::<anyhow::Result<_>>()?;
    let mut table =
        vec!["wire                    read MB    slow s     all s   idle MiB  slow MiB   all MiB".to_owned()];
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    table.extend(runs.iter().map(|run| {
        format!(
            "{:<20} {:>10.1} {:>9} {:>9.1} {:>10.1} {:>9.1} {:>9.1}",
            run.wire,
            run.bytes as f64 / 1e6,
            choice.seconds,
            run.seconds,
            mib(run.idle_bytes),
            mib(run.slow_bytes),
            mib(run.all_bytes)
        )
    }));
    let bound = |run: &Run| Bound {
        what: format!("memory above idle, {}", run.wire),
        measured: mib(run.all_bytes),
        aim: MIB_MAX,
        worst: MIB_MAX,
        unit: "MiB",
    };
    let bounds = runs.iter().map(bound).collect();
    let validity = vec![("each reader has all rows".to_owned(), runs.iter().all(|run| run.is_whole))];
    Ok(Outcome { name: "readers", table, samples: json!({ "runs": runs }), bounds, validity })
}

fn read(wire: Wire, rows: u64, choice: &Choice, cache: &Path) -> anyhow::Result<Run> {
    let folder = tempfile::tempdir_in(cache)?;
    let server = Server::start(folder.path())?;
    let client = |rows: u64| anyhow::Ok(wire.client(gust(folder.path())?, server.ports, &statement(rows)));
    anyhow::ensure!(client(10)?.output()?.status.success(), "{}: no answer", wire.name());
    let process = server.child.id();
    let idle_bytes = resident_bytes(process)?;
    let above = || anyhow::Ok(peak_resident_bytes(process)?.saturating_sub(idle_bytes));
    forget_peak(process)?;
    let started = Instant::now();
    let mut reading = client(rows)?.spawn()?;
    let mut taken = reading.stdout.take().context("its rows")?;
    let slowly = read_slowly(&mut taken, choice.pace * 1_000_000, Duration::from_secs(choice.seconds))?;
    let slow_bytes = above()?;
    let bytes = slowly + io::copy(&mut taken, &mut io::sink())?;
    let is_whole = reading.wait()?.success() && bytes >= bytes_min(rows);
    let run = Run {
        wire: wire.name(),
        bytes,
        seconds: started.elapsed().as_secs_f64(),
        idle_bytes,
        slow_bytes,
        all_bytes: above()?,
        is_whole,
    };
    eprintln!("{}: {} MiB above idle", run.wire, run.all_bytes >> 20);
    Ok(run)
}
