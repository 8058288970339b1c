//! The coordinator: plans a query, decides where it runs, schedules its fragments, finishes it and reports.
//!
//! ```text
//!  cli ─► session ─► planner ─► decide ─► exec::RemoteFragmentExec ─► scheduler ─► invoker ⇢ function
//!                                              ▲                                                │
//!                              final operators ┴──────────── exchange.read ◄───── result ◄──────┘
//! ```

#![warn(clippy::unwrap_used)]

pub mod aws;
pub mod calibrate;
pub mod cli;
pub mod config;
pub mod cost;
pub mod decide;
pub mod demo;
mod dialect;
pub mod event;
pub mod exec;
pub mod explain;
pub mod history;
pub mod invoker;
pub mod memory;
pub mod nearest;
pub mod planner;
pub mod report;
pub mod scheduler;
pub mod session;
mod sql;
pub mod tables;
