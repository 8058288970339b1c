//! The passes, in the order that the planner lists them.

pub mod cut;
pub mod pack;
pub mod spread;
pub mod stages;
pub mod units;

#[cfg(test)]
mod samples;
