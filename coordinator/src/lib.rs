//! The command line: arguments, rows and reports as text, the demo's data, the calibration. `gust_engine` runs the queries.

#![warn(clippy::unwrap_used)]

pub mod calibrate;
pub mod cli;
pub mod demo;

/// Memory of large batches goes back to the system once they are freed. glibc keeps it: a server grew by 280 to 530 MiB while it sent 10 GB,
/// and stays below 100 MiB with this one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
