//! The passes. The planner lists them in their order.

pub mod aligned;
pub mod broadcast;
pub mod cut;
pub mod facts;
pub mod kept;
pub mod pack;
pub mod shuffle;
pub mod skew;
pub mod spread;
pub mod stages;
pub mod tails;
pub mod unions;
pub mod units;

#[cfg(test)]
pub(super) mod samples;
