//! Parameters of a simulated platform. The lab's figures stand in `tests/lab.toml` with their source.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use serde::Deserialize;

use super::pipe::Pipe;

/// Parameters of AWS Lambda and S3, as a function meets them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// Memory of one function, by which its time is billed.
    pub memory_mb: u32,
    /// Cores that one function's memory buys.
    pub cores: f64,
    /// Compressed bytes a second that one core filters and aggregates.
    pub core_bytes_per_second: f64,
    /// Environments that run at once, at most.
    pub concurrent_max: usize,
    /// Environments that one clone of the function starts at once.
    pub ramp_burst: u32,
    /// Further environments that one clone starts, a second.
    pub ramp_per_second: f64,
    /// Clones of the function.
    pub functions: u32,
    /// Time from the call to the function's first instruction in a new environment.
    pub cold_start_ms: Quantiles,
    /// The same time in a warm environment.
    pub warm_start_ms: Quantiles,
    /// Time to the first byte of a GET.
    pub read_ms: Quantiles,
    /// Time of a small PUT.
    pub write_ms: Quantiles,
    /// Reads of one function at once.
    pub reads_in_flight: u32,
    /// Bytes of one read.
    pub read_bytes: u64,
    /// Reads of a file before those of its columns.
    pub footer_reads: u64,
    /// Time without a first byte after which a read is sent again. An attempt repeats one read, and one more of each 200.
    #[serde(default)]
    pub hedged_after_ms: Option<f64>,
    pub pipe: Pipe,
}

/// Distribution given by some of its quantiles. Between two of them the logarithm rises evenly, as it does in most tails.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Quantiles(Vec<(f64, f64)>);

impl Quantiles {
    /// Takes pairs of share (0 to 1, rising) and value (above zero).
    pub fn new(quantiles: Vec<(f64, f64)>) -> Self {
        Self(quantiles)
    }

    pub fn draw(&self, random: &mut SmallRng) -> f64 {
        self.at(random.random())
    }

    pub fn draw_ms(&self, random: &mut SmallRng) -> Duration {
        milliseconds(self.draw(random))
    }

    /// Draws the slowest of `count` draws.
    pub fn slowest_ms(&self, count: u32, random: &mut SmallRng) -> Duration {
        let share: f64 = random.random();
        // The largest of n uniform draws is distributed like the n-th root of one.
        milliseconds(self.at(share.powf(1.0 / f64::from(count.max(1)))))
    }

    fn at(&self, share: f64) -> f64 {
        let mut below = self.0.first().copied().unwrap_or((0.0, 1.0));
        for above in &self.0 {
            if above.0 >= share {
                let span = above.0 - below.0;
                let part = if span > 0.0 { (share - below.0) / span } else { 1.0 };
                return below.1 * (above.1 / below.1).powf(part.clamp(0.0, 1.0));
            }
            below = *above;
        }
        below.1
    }
}

fn milliseconds(milliseconds: f64) -> Duration {
    Duration::from_secs_f64(milliseconds / 1000.0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn draws_have_the_quantiles_that_they_are_made_from() {
        let quantiles = Quantiles::new(vec![(0.0, 10.0), (0.5, 27.0), (0.95, 74.0), (1.0, 1000.0)]);
        let mut random = SmallRng::seed_from_u64(1);
        let mut draws: Vec<f64> = (0..20_000).map(|_| quantiles.draw(&mut random)).collect();
        draws.sort_by(f64::total_cmp);
        assert!((draws[10_000] - 27.0).abs() < 1.0, "{}", draws[10_000]);
        assert!((draws[19_000] - 74.0).abs() < 8.0, "{}", draws[19_000]);
        let slowest = (0..2000).map(|_| quantiles.slowest_ms(20, &mut random).as_secs_f64() * 1000.0);
        let above = slowest.filter(|ms| *ms > 74.0).count();
        // 1 - 0.95^20 = 0.64
        assert!((1150..1420).contains(&above), "{above}");
    }
}
