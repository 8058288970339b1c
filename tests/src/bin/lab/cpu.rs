//! CPU time of a stretch of a measurement: the S3 server's, its clients', the whole machine's.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use gust_tests::s3;
use serde::Serialize;

/// CPU time so far.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    at: Instant,
    server: Duration,
    clients: Duration,
    machine: Duration,
}

/// Shares of all cores over a stretch of time, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shares {
    pub server: f64,
    /// Share of this process without the server's threads, and of its descendants.
    pub clients: f64,
    /// Share of everything that runs on the machine, other users' programs included.
    pub machine: f64,
}

impl Cpu {
    pub fn now() -> anyhow::Result<Self> {
        let (mut server, mut clients) = (Duration::ZERO, Duration::ZERO);
        for task in tasks(Path::new("/proc/self"))? {
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            let side = if name.trim_end() == s3::THREAD_NAME { &mut server } else { &mut clients };
            *side += run_time(&task);
        }
        let own = std::process::id();
        for id in family(own)?.into_iter().filter(|id| *id != own) {
            clients += of_process(id)?;
        }
        Ok(Self { at: Instant::now(), server, clients, machine: machine()? })
    }

    /// Returns the CPU time of this process without the server's threads, and of its descendants, since `then`.
    pub fn clients_since(&self, then: &Self) -> Duration {
        self.clients.saturating_sub(then.clients)
    }

    /// Returns the shares that were used since `then`.
    pub fn shares_since(&self, then: &Self) -> Shares {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let all = (self.at - then.at).as_secs_f64() * cores;
        let share = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / all;
        Shares {
            server: share(self.server, then.server),
            clients: share(self.clients, then.clients),
            machine: share(self.machine, then.machine),
        }
    }
}

impl Shares {
    /// Returns the largest share.
    pub fn most(&self) -> f64 {
        self.server.max(self.clients).max(self.machine)
    }

    /// Returns the share of programs that are neither the server nor its clients.
    pub fn others(&self) -> f64 {
        (self.machine - self.server - self.clients).max(0.0)
    }

    /// Returns the larger share of each kind, to sum up several runs.
    pub fn or_more(self, other: Self) -> Self {
        Self {
            server: self.server.max(other.server),
            clients: self.clients.max(other.clients),
            machine: self.machine.max(other.machine),
        }
    }
}

/// Returns the CPU time of a process and its descendants, without the threads and processes that have ended.
pub fn of_family(id: u32) -> anyhow::Result<Duration> {
    family(id)?.into_iter().map(of_process).sum()
}

/// Returns the ids of a process and its descendants.
fn family(id: u32) -> anyhow::Result<BTreeSet<u32>> {
    let mut others = Vec::new();
    for process in fs::read_dir("/proc").context("/proc")?.flatten() {
        let Ok(process_id) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        // State and parent follow the name in brackets.
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        others.extend(parent.map(|parent| (process_id, parent)));
    }
    let mut family = BTreeSet::from([id]);
    loop {
        let children = others.iter().filter(|(id, parent)| family.contains(parent) && !family.contains(id));
        let children: Vec<u32> = children.map(|(id, _)| *id).collect();
        if children.is_empty() {
            return Ok(family);
        }
        family.extend(children);
    }
}

fn of_process(id: u32) -> anyhow::Result<Duration> {
    Ok(tasks(&Path::new("/proc").join(id.to_string()))?.iter().map(|task| run_time(task)).sum())
}

fn tasks(process: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // A process that has ended meanwhile has no tasks.
    let Ok(tasks) = fs::read_dir(process.join("task")) else { return Ok(Vec::new()) };
    Ok(tasks.flatten().map(|task| task.path()).collect())
}

/// Returns a task's time on a core: the first figure of `schedstat`, in nanoseconds.
fn run_time(task: &Path) -> Duration {
    let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or_default())
}

/// Returns the busy time of all cores: in `/proc/stat`, all columns but idle and waiting for disks, in hundredths of a second.
fn machine() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).map(|tick| tick.parse().unwrap_or_default()).collect();
    let [user, nice, system, _idle, _disk, irq, softirq, steal] = ticks.as_slice() else {
        anyhow::bail!("/proc/stat begins with `{line}`");
    };
    Ok(Duration::from_millis(10 * (user + nice + system + irq + softirq + steal)))
}
