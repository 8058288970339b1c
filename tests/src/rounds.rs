//! Figures of queries in rounds, and the ratio of two sides that took turns. Pure.

use std::fmt::{Display, Formatter};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::stats::{geometric_mean, median, quantile};

/// Draws of rounds from which the interval of a ratio is estimated (bootstrap).
const DRAWS: usize = 1000;

/// Figure of a side for each query in each round. All queries have the same rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures(Vec<Vec<f64>>);

/// Ratio of two sides, with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Figures {
    /// Makes figures of each query's rounds.
    pub fn new(queries: Vec<Vec<f64>>) -> Self {
        Self(queries)
    }

    /// Returns the rounds of each query.
    pub fn queries(&self) -> impl Iterator<Item = &[f64]> {
        self.0.iter().map(Vec::as_slice)
    }

    pub fn medians(&self) -> Vec<f64> {
        self.queries().map(median).collect()
    }

    /// Returns the geometric mean of all queries' medians.
    pub fn geometric_mean(&self) -> f64 {
        geometric_mean(&self.medians())
    }

    /// Returns the sum of all queries' medians.
    pub fn total(&self) -> f64 {
        self.medians().iter().sum()
    }

    /// Returns the largest figure of any round, 0 without one.
    pub fn most(&self) -> f64 {
        self.0.iter().flatten().copied().fold(0.0, f64::max)
    }

    /// Returns the ratio of a summary of all queries. Its interval is that over rounds: both sides of a draw have the same.
    pub fn over(&self, other: &Self, summary: fn(&Self) -> f64) -> Ratio {
        let rounds = self.0.first().map_or(0, Vec::len);
        let mut random = SmallRng::seed_from_u64(1);
        let draws = (0..DRAWS).map(|_| {
            let drawn: Vec<usize> = (0..rounds).map(|_| random.random_range(0..rounds)).collect();
            summary(&self.of_rounds(&drawn)) / summary(&other.of_rounds(&drawn))
        });
        let draws: Vec<f64> = draws.collect();
        let value = summary(self) / summary(other);
        Ratio { value, low: quantile(&draws, 0.025), high: quantile(&draws, 0.975) }
    }

    /// Returns the largest ratio of medians of a query.
    pub fn most_over(&self, other: &Self) -> f64 {
        self.medians().iter().zip(other.medians()).map(|(own, other)| own / other).fold(0.0, f64::max)
    }

    fn of_rounds(&self, rounds: &[usize]) -> Self {
        Self(self.queries().map(|all| rounds.iter().map(|round| all[*round]).collect()).collect())
    }
}

impl Display for Ratio {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} [{:.3}, {:.3}]", self.value, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(queries: &[&[f64]]) -> Figures {
        Figures::new(queries.iter().map(|rounds| rounds.to_vec()).collect())
    }

    #[test]
    fn summaries_are_of_the_medians() {
        let figures = figures(&[&[1.0, 9.0, 2.0], &[8.0, 8.0, 1.0]]);
        assert_eq!(figures.medians(), [2.0, 8.0]);
        assert!((figures.geometric_mean() - 4.0).abs() < 1e-12);
        assert_eq!((figures.total(), figures.most()), (10.0, 9.0));
    }

    #[test]
    fn the_interval_of_a_ratio_is_that_of_its_rounds() {
        let other = figures(&[&[1.0, 2.0, 4.0, 2.0, 1.0], &[3.0, 1.0, 2.0, 5.0, 1.0]]);
        let half = Figures::new(other.queries().map(|rounds| rounds.iter().map(|s| s / 2.0).collect()).collect());
        // Rounds vary, but both sides vary alike.
        let ratio = half.over(&other, Figures::geometric_mean);
        assert!([ratio.value, ratio.low, ratio.high].iter().all(|value| (value - 0.5).abs() < 1e-12), "{ratio}");
        // Here one side alone varies, from half to twice.
        let ratio = figures(&[&[0.5, 1.0, 1.0, 1.0, 2.0]]).over(&figures(&[&[1.0; 5]]), Figures::total);
        assert_eq!(ratio.to_string(), "1.000 [0.500, 2.000]");
    }

    #[test]
    fn the_worst_query_is_found() {
        let worst = figures(&[&[1.0], &[3.0]]).most_over(&figures(&[&[2.0], &[2.0]]));
        assert_eq!(worst, 1.5);
    }
}
