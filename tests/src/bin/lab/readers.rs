//! One server and one reader after the other, each on a wire of its own: it reads a large result slowly for a while, and the rest as fast as
//! it can. The figure is the most memory that the server took above what it has when idle.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use gust_tests::slow_readers::{
    Wire, bytes_min, forget_peak, peak_resident_bytes, read_slowly, resident_bytes, statement,
};
use serde::Serialize;
use serde_json::json;

use super::{Bound, Outcome};
use crate::served::{Server, gust};

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
    let bound = |run: &Run, when: &str, bytes: u64| Bound {
        what: format!("memory above idle, {}, {when}", run.wire),
        measured: mib(bytes),
        aim: MIB_MAX,
        worst: MIB_MAX,
        unit: "MiB",
    };
    let both = |run: &Run| {
        [bound(run, "while it reads slowly", run.slow_bytes), bound(run, "until the end at full speed", run.all_bytes)]
    };
    let bounds = runs.iter().flat_map(both).collect();
    let validity = vec![("each reader has all rows".to_owned(), runs.iter().all(|run| run.is_whole))];
    Ok(Outcome { name: "readers", table, samples: json!({ "runs": runs }), bounds, validity })
}

fn read(wire: Wire, rows: u64, choice: &Choice, cache: &Path) -> anyhow::Result<Run> {
    let folder = tempfile::tempdir_in(cache)?;
    let server = Server::start(folder.path(), &[])?;
    let client = |rows: u64| anyhow::Ok(wire.client(gust(folder.path())?, server.ports, &statement(rows)));
    anyhow::ensure!(client(10)?.output()?.status.success(), "{}: no answer", wire.name());
    let process = server.process();
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
