//! `gust calibrate`: measures this installation with real queries over tables of its own, so that estimates reckon with its figures
//! instead of published ones.
//!
//! ```text
//!  tiny files ──────────► what functions cost at all, a stage and a fragment
//!  random, plain ───────► the pipe into the coordinator, and into functions (several times in a row: bursts end)
//!  TPC-H, compressed ───► what a core filters and aggregates, here, on local files
//!  a few dense bytes ───► what a function computes, in cores of the coordinator
//! ```
//!
//! Each figure is of warm runs: the median of times from the text of a query to its last row, or the mean of what functions are
//! billed. Nothing that is computed is measured through a network, which would be all that shows.

mod data;
mod measure;
mod network;

pub use measure::{Calibration, CalibrationError, calibrate};
