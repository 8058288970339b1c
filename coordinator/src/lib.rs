//! The command line: arguments, rows and reports as text, the demo's data, the calibration. What a query does is `gust_engine`'s.

#![warn(clippy::unwrap_used)]

pub mod calibrate;
pub mod cli;
pub mod demo;
