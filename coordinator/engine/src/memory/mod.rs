//! The coordinator's memory: how much there is to have, and who may have it.
//!
//! [`machine`] finds what this machine or container has, for the default of `memory_bytes_max`; [`ProcessMemory`] shares that out
//! among queries and their operators and says, where it does not suffice, who needed how much and who holds the rest.
//!
//! Non-goals: what no operator reserves is not seen here (decoders, batches in flight, window functions' partitions, footers).

pub mod machine;
mod pool;

pub use pool::{ProcessMemory, QueryPool};
