//! The stateless function: bytes in, bytes out. It keeps only caches that make the next attempt cheaper.
//!
//! ```text
//!  payload ─► handler ─► executor ─► [scan ◄ ahead ◄ hedging ◄ metering ◄ store client] ─► rows ─► exchange or inline ─► response
//!             deadline    decode,     a file  before  late reads  requests and
//!             and panics  attach      as it   they    sent again  bytes counted
//!                         scans, run  was     are
//!                                     planned asked
//! ```
//!
//! Non-goals: it never names `lambda_runtime` outside [`bootstrap`], links neither `iceberg` nor the coordinator, and keeps no
//! state that a result depends on.

#![warn(clippy::unwrap_used)]

mod adapted;
pub mod ahead;
pub mod bootstrap;
mod bridge;
mod by_name;
mod classify;
mod columns;
mod deletes;
mod environment;
mod executor;
mod fault;
mod file_errors;
mod footer;
mod forwarding;
pub mod handler;
pub mod hedging;
mod held;
pub mod late;
mod logs;
mod memory;
pub mod metering;
mod output;
mod pace;
mod pages;
mod panics;
mod parts;
mod pinned;
mod read_as;
mod scan;
mod spread;
pub mod stack;
mod stage_objects;
mod statistics;
mod struct_nulls;
mod thrift;

pub use bridge::BRIDGE_BYTES_MAX;
pub use by_name::repeated_name;
pub use classify::{causes, classify, find};
pub use columns::FileConstants;
pub use deletes::{DIGEST_READS_MAX, DeletePlan, DeleteReader, FileDeletes, KeyDigest, KeyGroup, VectorDigest};
pub use environment::{Connections, Environment, EnvironmentSettings, StoreClient, connect, connect_over};
pub use fault::FileFault;
pub use footer::{
    NeededColumns, WHOLE_FILE_BYTES_MAX, footer_guess, is_same_version, project, read_footer, read_shipped,
};
pub use held::own_bytes;
pub use logs::{LOG_LINE_BYTES_MAX, LogLines, log_lines, without_payloads};
pub use pace::Pace;
pub use panics::{message as panic_message, quiet_caught_panics};
pub use pinned::PinnedFile;
pub use read_as::read_as;
pub use scan::{InStore, ScanReader};
pub use spread::{BUCKETS_MAX, Signers};
pub use statistics::file_statistics;
pub use struct_nulls::with_optional_fields;
