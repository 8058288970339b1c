//! Loads of stages, taken from their plans: bytes and requests that they read, send and hold. For estimates and EXPLAIN only.

pub mod memory;
pub mod operators;
pub mod reads;
pub mod results;
pub mod sizes;
pub mod stages;
