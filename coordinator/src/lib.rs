//! The command line: arguments, rows and reports as text, the demo's data, the calibration. `gust_engine` runs the queries.

#![warn(clippy::unwrap_used)]

pub mod calibrate;
pub mod cli;
pub mod demo;
