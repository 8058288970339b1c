//! Engine: plans a query, decides where it runs, schedules its fragments, finishes it and reports.
//!
//! Non-goals: it has no flags, no output and no progress bar. Crate `gust` is the command line on top.
//!
//! ```text
//!  face ─► session ─► planner ─► model ──► exec::RemoteFragmentExec ─► scheduler ─► fleet ⇢ function
//!                                               ▲                                                │
//!                               final operators ┴──────────── exchange.read ◄───── result ◄──────┘
//! ```
//!
//! The modules stand in one order, from [`session`] down to [`money`], and import downwards only: `arrows.txt`.

#![warn(clippy::unwrap_used)]

pub mod attempt;
pub mod cap;
pub mod config;
pub mod cost;
mod dialect;
pub mod error;
pub mod events;
pub mod exchange;
pub mod exec;
pub mod fleet;
pub mod history;
pub mod memory;
pub mod model;
pub mod money;
pub mod nearest;
pub mod planner;
pub mod report;
pub mod resume;
pub mod scheduler;
pub mod session;
mod sql;
pub mod storage;
pub mod tables;
