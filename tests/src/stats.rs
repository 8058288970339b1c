//! Medians with their confidence intervals, quantiles, and geometric means.

/// Median of samples, with the bounds of its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MedianInterval {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// Returns the median and its interval by order statistics: no distribution is assumed.
pub fn median_interval(samples: &[f64]) -> MedianInterval {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 {
        return MedianInterval { median: f64::NAN, low: f64::NAN, high: f64::NAN };
    }
    // The number of samples below the median is binomial(n, 1/2): 1.96 of its standard deviations around the middle.
    let half = 0.98 * (n as f64).sqrt();
    let middle = n as f64 / 2.0;
    let low = (middle - half).floor().max(0.0) as usize;
    let high = ((middle + half).ceil() as usize).min(n - 1);
    MedianInterval { median: median_of_sorted(&sorted), low: sorted[low], high: sorted[high] }
}

pub fn median(samples: &[f64]) -> f64 {
    median_interval(samples).median
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n % 2 == 1 { sorted[n / 2] } else { f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]) }
}

/// Returns the sample that a share of all samples does not exceed (nearest rank).
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

pub fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median() {
        let samples: Vec<f64> = (1..=200).map(f64::from).collect();
        let interval = MedianInterval { median: 100.5, low: 87.0, high: 115.0 };
        assert_eq!(median_interval(&samples), interval);
        assert_eq!(median_interval(&[3.0]).median, 3.0);
    }

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let of = |share| quantile(&samples, share);
        assert_eq!((of(0.0), of(0.5), of(0.99), of(1.0)), (1.0, 50.0, 99.0, 100.0));
        assert!(quantile(&[], 0.5).is_nan());
    }
}
