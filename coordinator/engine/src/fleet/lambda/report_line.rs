//! AWS Lambda's own account of an invocation at the end of its log: the REPORT line, in the text format.
//!
//! ```text
//! REPORT RequestId: ID <tab> Duration: 12.34 ms <tab> Billed Duration: 78 ms <tab> Memory Size: 2048 MB <tab>
//!   Max Memory Used: 93 MB <tab> Init Duration: 65.43 ms <tab> Status: error <tab> Error Type: Runtime.ExitError
//! ```
//!
//! Fields are tab-separated; the last three stand only if they apply. The tail of a log is at most 4 KB long and may
//! have lost its beginning, but the REPORT line is written last. Pure.

use std::time::Duration;

/// The platform's own account of one invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReportLine {
    /// Time that is charged for: whole milliseconds, with the start of the environment if there was one.
    pub billed: Duration,
    /// Start of the environment, if there was one.
    pub init: Option<Duration>,
    pub memory_mb: u32,
    pub memory_used_mb: u32,
    /// True for `Error Type: Runtime.OutOfMemory`. Lambda does not always say so.
    out_of_memory: bool,
}

impl ReportLine {
    /// Finds the last complete REPORT line of a log's tail.
    pub(super) fn find(log: &str) -> Option<Self> {
        log.lines().rev().filter(|line| line.starts_with("REPORT RequestId:")).find_map(Self::parse)
    }

    fn parse(line: &str) -> Option<Self> {
        let field = |name: &str| line.split('\t').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix(": "));
        Some(Self {
            billed: milliseconds(field("Billed Duration")?)?,
            init: field("Init Duration").and_then(milliseconds),
            memory_mb: megabytes(field("Memory Size")?)?,
            memory_used_mb: megabytes(field("Max Memory Used")?)?,
            out_of_memory: field("Error Type") == Some("Runtime.OutOfMemory"),
        })
    }

    /// Returns true if the function ran out of memory. Lambda does not name every such kill, but then all memory was
    /// used.
    pub(super) fn is_memory_exhausted(&self) -> bool {
        self.out_of_memory || self.memory_used_mb >= self.memory_mb
    }
}

/// Returns true if the environment's start failed, as its own line says.
pub(super) fn init_failed(log: &str) -> bool {
    let mut starts = log.lines().filter(|line| line.starts_with("INIT_REPORT "));
    starts.any(|line| ["Status: error", "Status: timeout"].iter().any(|status| line.contains(status)))
}

fn milliseconds(text: &str) -> Option<Duration> {
    let number: f64 = text.strip_suffix(" ms")?.parse().ok()?;
    Duration::try_from_secs_f64(number / 1e3).ok()
}

fn megabytes(text: &str) -> Option<u32> {
    text.strip_suffix(" MB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs in the form that AWS writes, one file per case.
    const WARM: &str = include_str!("testdata/warm.log");
    const COLD: &str = include_str!("testdata/cold.log");
    const TIMED_OUT: &str = include_str!("testdata/timed_out.log");
    const MEMORY_KILL: &str = include_str!("testdata/memory_kill.log");
    const INIT_FAILED: &str = include_str!("testdata/init_failed.log");
    const EXIT: &str = include_str!("testdata/exit.log");

    #[track_caller]
    fn check(log: &str, expect: Option<(u64, Option<u64>, u32, u32)>) {
        let found = ReportLine::find(log);
        let seen = found.map(|line| {
            let init = line.init.map(|init| init.as_micros() as u64);
            (line.billed.as_millis() as u64, init, line.memory_mb, line.memory_used_mb)
        });
        assert_eq!(seen, expect, "{log}");
    }

    #[test]
    fn report_lines_of_all_ends_are_parsed() {
        check(WARM, Some((13, None, 2048, 96)));
        check(COLD, Some((142, Some(74_530), 2048, 93)));
        check(TIMED_OUT, Some((3000, None, 128, 45)));
        check(MEMORY_KILL, Some((5_214, None, 128, 128)));
        check(INIT_FAILED, Some((1688, None, 128, 16)));
        check(EXIT, Some((24, None, 2048, 88)));
    }

    #[test]
    fn a_cut_log_still_has_its_report_line() {
        for start in 0..COLD.rfind("REPORT").expect("a report") {
            check(&COLD[start..], Some((142, Some(74_530), 2048, 93)));
        }
        for end in 0..COLD.find("Max Memory Used").expect("a field") {
            check(&COLD[..end], None);
        }
        let named = "REPORT RequestId: x\tDuration: 1.00 ms\tBilled Duration: 1 ms\tMemory Size: 128 MB\tMax Memory Used: 120 MB\tStatus: error\tError Type: Runtime.OutOfMemory";
        assert!(ReportLine::find(named).expect("a report").is_memory_exhausted());
        check("", None);
        check("REPORT RequestId: x\tBilled Duration: many ms\tMemory Size: 128 MB\tMax Memory Used: 1 MB", None);
        check("REPORT RequestId: x\tBilled Duration: -1 ms\tMemory Size: 128 MB\tMax Memory Used: 1 MB", None);
    }

    #[test]
    fn memory_kills_and_failed_starts_are_recognised() {
        let exhausted = |log| ReportLine::find(log).expect("a report").is_memory_exhausted();
        assert!(exhausted(MEMORY_KILL) && !exhausted(EXIT) && !exhausted(TIMED_OUT));
        assert!(init_failed(INIT_FAILED) && !init_failed(EXIT) && !init_failed(COLD));
    }
}
