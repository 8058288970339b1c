//! Quantity that decides among the candidates of a query: places, numbers of functions and memory sizes.

use serde::{Deserialize, Serialize};

/// Quantity that the choice of a candidate keeps little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefer {
    /// Dollars.
    Cost,
    /// Seconds.
    Latency,
    /// Dollars times seconds.
    Balanced,
}

impl Prefer {
    pub const ALL: [Self; 3] = [Self::Cost, Self::Latency, Self::Balanced];

    /// Returns the name in flags and settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Latency => "latency",
            Self::Balanced => "balanced",
        }
    }

    /// Returns the word for the pick, for people: `cheapest`.
    pub const fn superlative(self) -> &'static str {
        match self {
            Self::Cost => "cheapest",
            Self::Latency => "fastest",
            Self::Balanced => "least dollars times seconds",
        }
    }
}
