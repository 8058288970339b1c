//! The time model: cores, pipes and latencies, here and in functions.

use std::f64::consts::EULER_GAMMA;
use std::time::Duration;

use serde::Serialize;

/// Amount of data that a query reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Parquet scans in the plan.
    pub scans: usize,
    /// Files, or runs of row groups, that can be read apart.
    pub units: usize,
    /// Compressed bytes of the projected columns.
    pub bytes: u64,
}

/// Seconds and bytes per second that the estimates are made from. Sources stand at each field's default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeModel {
    /// Time to plan a stage, and of a round trip to one warm function, with result.
    pub stage_overhead: Duration,
    /// Time that each further fragment adds on the coordinator.
    pub fragment_overhead: Duration,
    /// Billed time of a warm function that reads next to nothing, with one read's latency.
    pub attempt_overhead: Duration,
    /// Compressed bytes a second that one core filters and aggregates.
    pub core_bytes_per_second: f64,
    /// Bytes a second from storage into the coordinator.
    pub pipe_bytes_per_second: f64,
    /// Bytes a second from storage into all functions together that run on the coordinator's machine.
    pub machine_pipe_bytes_per_second: f64,
    /// Pipe from storage into one function.
    pub function_pipe: Pipe,
    /// Latency of reads from a store in the network; files of this machine have none. One read of a fragment is part of its overhead.
    pub read_latency: Latency,
    /// Reads that the coordinator has in flight ahead of computing. With 0 those of a lane wait for each other.
    pub reads_ahead: usize,
    /// Reads that one function has in flight ahead of computing.
    pub function_reads_ahead: usize,
    /// Time from nothing to an environment that takes its first request.
    pub start: Duration,
    pub cores: usize,
    /// Cores of one function.
    pub function_cores: f64,
}

impl TimeModel {
    /// Makes the model of a laptop with functions as its own processes.
    pub fn laptop(cores: usize) -> Self {
        Self {
            // `lab tax`, four warm fragments, on two cores (docs/measurements.md), and a read from the network.
            stage_overhead: Duration::from_millis(4) + Latency::S3.mean,
            fragment_overhead: Duration::from_micros(500),
            // TPC-H Q1 and Q6 at scale factor 1 on one core: 60 to 200 MB of compressed columns a second.
            core_bytes_per_second: 120e6,
            // A page cache or an NVMe disk: never the bound.
            pipe_bytes_per_second: 2e9,
            machine_pipe_bytes_per_second: 2e9,
            function_pipe: Pipe::steady(2e9),
            // `lab fanout`, an executor's tiny fragment, and as much for the rest.
            attempt_overhead: Duration::from_millis(1) + Latency::S3.mean,
            // Tables of the network lie in S3, as far as anybody knows.
            read_latency: Latency::S3,
            reads_ahead: 0,
            function_reads_ahead: 0,
            // Our function's start to ready takes 6 ms, 14 at worst (docs/measurements.md).
            start: Duration::from_millis(10),
            cores,
            function_cores: 1.0,
        }
    }

    /// Makes the model of a coordinator of `cores` in AWS's network or near it, with functions on Lambda of `function_cores` each.
    pub fn lambda(cores: usize, function_cores: f64) -> Self {
        Self {
            // A warm synchronous invocation and S3's first byte: 30 to 50 ms for four workers in comparable engines.
            stage_overhead: Duration::from_millis(60),
            fragment_overhead: Duration::from_micros(500),
            core_bytes_per_second: 120e6,
            // An instance's or a laptop's one pipe, not saturated by few requests.
            pipe_bytes_per_second: 300e6,
            machine_pipe_bytes_per_second: 300e6,
            function_pipe: Pipe::LAMBDA,
            attempt_overhead: Latency::S3.mean + Duration::from_millis(5),
            read_latency: Latency::S3,
            reads_ahead: 0,
            function_reads_ahead: 0,
            // AWS says "from under 100 ms to over 1 second"; ours is a small binary.
            start: Duration::from_millis(250),
            cores,
            function_cores,
        }
    }
}

/// Time from a request to its first byte: never less than the least. The rest on top varies as an exponential does.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latency {
    pub mean: Duration,
    pub least: Duration,
}

impl Latency {
    /// Latency by the quantiles published for S3 (arXiv 2501.07771) that the tests' server has, too: 15 ms at least, 27 in the middle, 74 and
    /// 106 at 95 and 99 percent.
    pub const S3: Self = Self { mean: Duration::from_millis(32), least: Duration::from_millis(15) };

    /// Returns the mean seconds until the last of `requests` requests, which were sent together, has its first byte. A mean number may be broken.
    pub fn of_last(&self, requests: f64) -> f64 {
        // The harmonic numbers: 1, 1 + 1/2, 1 + 1/2 + 1/3.
        let n = requests.max(1.0);
        let harmonic = if n > 1.0 { n.ln() + EULER_GAMMA + 1.0 / (2.0 * n) - 1.0 / (12.0 * n * n) } else { 1.0 };
        self.least.as_secs_f64() + self.deviation() * harmonic
    }

    /// Returns the standard deviation, in seconds.
    pub fn deviation(&self) -> f64 {
        self.mean.saturating_sub(self.least).as_secs_f64()
    }
}

/// Rate at which bytes come: quickly at first, where there is a burst, and then steadily.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pipe {
    pub burst_bytes: u64,
    pub burst_bytes_per_second: f64,
    pub bytes_per_second: f64,
}

impl Pipe {
    /// Pipe of a function on AWS Lambda whose environment has just worked: half of the 300 MiB that a new one has (arXiv 2501.07771).
    pub const LAMBDA: Self =
        Self { burst_bytes: 150 << 20, burst_bytes_per_second: 1.2 * GIB, bytes_per_second: 75.0 * MIB };

    pub const fn steady(bytes_per_second: f64) -> Self {
        Self { burst_bytes: 0, burst_bytes_per_second: bytes_per_second, bytes_per_second }
    }

    pub fn seconds(&self, bytes: u64) -> f64 {
        self.seconds_besides(bytes, self.burst_bytes, 0.0)
    }

    /// Returns the seconds of a read that finds `burst_bytes` of the burst. In its pauses, of `pauses` seconds in all, some of it comes back.
    pub fn seconds_besides(&self, bytes: u64, burst_bytes: u64, pauses: f64) -> f64 {
        let refilled = if self.burst_bytes > 0 { (pauses * self.bytes_per_second) as u64 } else { 0 };
        let quick = bytes.min(burst_bytes.saturating_add(refilled));
        quick as f64 / self.burst_bytes_per_second + (bytes - quick) as f64 / self.bytes_per_second
    }
}

const MIB: f64 = (1 << 20) as f64;

const GIB: f64 = (1 << 30) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_is_waited_for() {
        let latency = Latency { mean: Duration::from_millis(30), least: Duration::from_millis(10) };
        for (requests, expect) in [(0.0, 30.0), (1.0, 30.0), (2.0, 40.0), (3.0, 46.67), (4.0, 51.67), (100.0, 113.75)] {
            let found = 1e3 * latency.of_last(requests);
            assert!((found / expect - 1.0).abs() < 0.005, "{requests}: {found} is not about {expect}");
        }
        assert_eq!(Latency::default().of_last(3.0), 0.0);
    }

    #[test]
    fn a_pipe_is_quick_at_first() {
        let pipe = Pipe { burst_bytes: 100, burst_bytes_per_second: 100.0, bytes_per_second: 10.0 };
        assert_eq!((pipe.seconds(50), pipe.seconds(100), pipe.seconds(200)), (0.5, 1.0, 11.0));
        assert_eq!(Pipe::steady(10.0).seconds(20), 2.0);
        // Half of the burst, and the part of it that comes back in three seconds.
        assert_eq!(pipe.seconds_besides(200, 50, 3.0), 0.8 + 12.0);
        assert_eq!(Pipe::steady(10.0).seconds_besides(20, 0, 1.0), 2.0);
    }
}
