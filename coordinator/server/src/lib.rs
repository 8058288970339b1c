//! The server: one engine that lives, and many people's queries over HTTP, Flight SQL and PostgreSQL's protocol.
//!
//! ```text
//!  request ─► http (host, user, content, Accept) ─► admission ─► run (session, recorder, rows) ─► chunks ─► response
//!             flight (host, user, tickets, handles) ► admission ─► run ──────────────────────────────► batches ─► Flight's messages
//!  message ─► postgres (user, session, portals) ─────► admission ─► run ──────────────────────────────► batches ─► message
//! ```
//!
//! A query runs in a task of its own. It ends with its client: a response that nobody reads any more cancels it. Rows are never
//! gathered, and a response that ends early is aborted, so that no client takes a part for the whole.
//!
//! Non-goals: it has no arguments, no signals and no words on stderr; the command line has.

#![warn(clippy::unwrap_used)]

mod admission;
mod budgets;
mod chunks;
mod connections;
mod door;
mod flight;
mod grants;
mod http;
mod journal;
mod jwt;
mod links;
mod listen;
mod listing;
mod memory;
mod metrics;
mod otlp;
mod plain;
mod postgres;
mod recording;
mod run;
mod space;
mod spool;
mod statements;
mod timeline;
mod tls;
mod tokens;

pub use listen::{Server, ServerOptions};
pub use tokens::NewToken;
