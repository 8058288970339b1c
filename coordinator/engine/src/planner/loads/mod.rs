//! What stages read, send and hold, taken from their plans: for estimates and EXPLAIN only.

pub mod memory;
pub mod reads;
pub mod results;
pub mod stages;
