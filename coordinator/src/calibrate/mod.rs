//! `gust calibrate`: measures this installation with real queries over its own tables, so that estimates use its figures
//! instead of published ones.
//!
//! ```text
//!  tiny files ──────────► overhead of functions: a stage and a fragment
//!  random, plain ───────► the pipe into the coordinator, and into functions (several times in a row: bursts end)
//!  TPC-H, compressed ───► speed of a core that filters and aggregates, here, on local files
//!  a few dense bytes ───► speed of a function, in cores of the coordinator
//! ```
//!
//! Each figure is of warm runs: the median of times from the text of a query to its last row, or the mean of the functions'
//! billed time. Computing is not measured through a network, whose time would hide it.

mod data;
mod measure;
mod network;

pub use measure::{Calibration, CalibrationError, calibrate};
