//! The command line: arguments, rows and reports as text, the demo's data, the calibration. `gust_engine` runs the queries.

#![warn(clippy::unwrap_used)]

pub mod calibrate;
pub mod cli;
pub mod demo;

/// Memory of large batches that are freed goes back to the system by and by, while the program works. glibc keeps it: a server grew by 250 to
/// 530 MiB while it sent 10 GB.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
