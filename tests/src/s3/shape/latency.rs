//! Time of a request until its first byte: a distribution given by its quantiles. Pure.

use serde::Deserialize;

/// Quantiles of a latency. Between them the latency is interpolated geometrically over the logarithm of the tail's share. An
/// exponential tail is a straight line there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Least latency, in milliseconds.
    pub least_ms: f64,
    /// `[share of requests that take longer, milliseconds]`, from the largest share to the smallest.
    pub longer_ms: Vec<(f64, f64)>,
    /// Worst latency, in milliseconds. The requests beyond the last share lie below it.
    pub worst_ms: f64,
}

impl Latency {
    /// Returns the latency in seconds that a share `longer` of all requests exceeds. A uniform `longer` samples the distribution.
    pub fn seconds(&self, longer: f64) -> f64 {
        let (mut from, mut from_ms) = (1.0, self.least_ms);
        for &(share, ms) in &self.longer_ms {
            if longer >= share {
                let part = (f64::ln(from) - f64::ln(longer)) / (f64::ln(from) - f64::ln(share));
                return between(from_ms, ms, part) / 1000.0;
            }
            (from, from_ms) = (share, ms);
        }
        // The logarithm of zero is infinite, so the outliers are spread evenly over the last share.
        between(from_ms, self.worst_ms, 1.0 - longer / from) / 1000.0
    }
}

fn between(from: f64, to: f64, part: f64) -> f64 {
    from * (to / from).powf(part.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn a_million_samples_have_the_quantiles() {
        let longer_ms = vec![(0.5, 27.0), (0.05, 74.0), (0.01, 106.0), (0.0001, 283.0)];
        let s3 = Latency { least_ms: 15.0, longer_ms, worst_ms: 10_000.0 };
        let mut rng = StdRng::seed_from_u64(1);
        let mut samples: Vec<f64> = (0..1_000_000).map(|_| s3.seconds(rng.random()) * 1000.0).collect();
        samples.sort_by(f64::total_cmp);
        for (quantile, expect) in [(0.0, 15.0), (0.5, 27.0), (0.95, 74.0), (0.99, 106.0), (0.9999, 283.0)] {
            let sample = samples[(quantile * samples.len() as f64) as usize];
            assert!((sample / expect - 1.0).abs() < 0.1, "quantile {quantile} is {sample} ms, not {expect}");
        }
        let worst = samples.last().unwrap();
        assert!((1_000.0..=10_000.0).contains(worst), "the worst of a million is {worst} ms");
        let outliers = samples.iter().filter(|sample| **sample > 283.0).count();
        assert!((50..200).contains(&outliers), "{outliers} outliers among a million");
    }
}
