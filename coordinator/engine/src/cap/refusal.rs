//! Refusal to let a query spend more, in words.

use std::fmt::{Display, Formatter};

use super::OverBudget;
use crate::money::Money;

/// Refusal to let a query spend more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverCap {
    /// The query has not run.
    #[error("not run: it costs at least {at_least}, and the cap is {limit}")]
    BeforeRun { limit: Money, at_least: Money },
    #[error("{0}")]
    WhileRunning(Box<Stopped>),
    /// A budget that the query shares with others does not suffice.
    #[error("{0}")]
    Budget(Box<OverBudget>),
}

impl From<OverBudget> for OverCap {
    fn from(over: OverBudget) -> Self {
        Self::Budget(Box::new(over))
    }
}

impl OverCap {
    /// Returns the next step.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::BeforeRun { .. } | Self::WhileRunning(_) => "allow more with --max-cost, or read less",
            Self::Budget(over) if over.is_held => "ask again when statements under way have ended",
            Self::Budget(_) => "wait until it begins anew, or ask for more under [[server.budget]]",
        }
    }
}

/// State of a query when its money ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    pub limit: Money,
    /// Money spent by the coordinator and by attempts that have ended.
    pub spent: Money,
    /// Upper bound of the money that attempts still running may cost on top.
    pub reserved: Money,
    /// Price of one more attempt, if the query ended for want of it.
    pub next: Option<Money>,
    /// Fragments with a result.
    pub done: u64,
    pub total: u64,
}

impl Display for Stopped {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { limit, spent, reserved, next, done, total } = self;
        write!(f, "stopped at the cap of {limit}: {spent} spent")?;
        if *reserved > Money::ZERO {
            write!(f, ", at most {reserved} more for what still runs")?;
        }
        if *total > 0 {
            write!(f, ", {done} of {total} fragments done")?;
        }
        next.map_or(Ok(()), |next| write!(f, "; the next attempt may cost {next}"))
    }
}
