//! Memory of the coordinator: its size, and its division among queries.
//!
//! [`machine`] finds the memory of this machine or container, for the default of `memory_bytes_max`. [`ProcessMemory`]
//! divides it among queries and their operators. If it does not suffice, the error names the operator, its need and the
//! largest holders.
//!
//! Non-goals: memory that no operator reserves is not seen here (decoders, batches in flight, window functions'
//! partitions, footers).

pub mod machine;
mod pool;

pub use pool::{ProcessMemory, QueryPool};
