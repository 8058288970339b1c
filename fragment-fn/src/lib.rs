//! The stateless function: bytes in, bytes out, nothing kept but what makes the next attempt cheaper.
//!
//! ```text
//!  payload ─► handler ─► executor ─► [pinned ◄ hedging ◄ metering ◄ store client] ─► rows ─► exchange or inline ─► response
//!             deadline    decode, bind   the planned   late reads   requests and
//!             and panics  inputs, run    object, or    sent again   bytes counted
//!                                        none
//! ```
//!
//! Non-goals: it never names `lambda_runtime` outside [`bootstrap`], links neither `iceberg` nor the coordinator, and keeps no
//! state that a result depends on.

#![warn(clippy::unwrap_used)]

pub mod bootstrap;
mod classify;
mod columns;
mod environment;
mod executor;
mod footer;
pub mod handler;
pub mod hedging;
mod memory;
pub mod metering;
mod pinned;

pub use classify::{classify, inner_cause};
pub use columns::FieldIdMatching;
pub use environment::{Environment, Settings, connect};
pub use footer::{FOOTER_GUESS_BYTES, FooterOnce};
pub use pinned::{COALESCE_BYTES, PinnedStore};
