//! `gust calibrate`: measures this installation with real queries over tables of its own, so that `decide` reckons with its figures
//! instead of published ones.
//!
//! ```text
//!  tiny files ──────────► what functions cost at all, a stage and a fragment
//!  random, plain ───────► the pipe into the coordinator, and into one function (several times in a row: bursts end)
//!  TPC-H, compressed ───► what a core, and a function, filters and aggregates
//! ```
//!
//! Each figure is the median of warm runs, timed from the text of a query to its last row.

mod data;
mod measure;
mod measured;

pub use measure::{Calibration, CalibrationError, calibrate};
pub use measured::{Measured, ModelError, crossover, load, save};
