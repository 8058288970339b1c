//! What decides among several ways to run a query.

use serde::{Deserialize, Serialize};

/// Quantity that the choice of a place keeps little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefer {
    /// Dollars
    Cost,
    /// Seconds
    Latency,
    /// Dollars times seconds
    Balanced,
}

impl Prefer {
    pub const ALL: [Self; 3] = [Self::Cost, Self::Latency, Self::Balanced];

    /// The name that flags and settings take.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Latency => "latency",
            Self::Balanced => "balanced",
        }
    }

    /// Word for the pick, for people: `cheapest`.
    pub const fn superlative(self) -> &'static str {
        match self {
            Self::Cost => "cheapest",
            Self::Latency => "fastest",
            Self::Balanced => "least dollars times seconds",
        }
    }
}
