//! What decides among several ways to run a query.

use serde::{Deserialize, Serialize};

/// What should be little.
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

    /// What is picked, for people.
    pub const fn superlative(self) -> &'static str {
        match self {
            Self::Cost => "cheapest",
            Self::Latency => "fastest",
            Self::Balanced => "least dollars times seconds",
        }
    }
}
