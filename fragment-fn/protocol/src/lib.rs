//! Contract between the coordinator and a function: fragments, the way of their plans and results, errors, and usage.
//!
//! ```text
//!  coordinator                                              function
//!  InvokeRequest ── wire::encode_request ──► bytes ──► wire::decode_request ─► InvokeRequest
//!  FragmentResponse ◄─ wire::decode_response ◄─ bytes ◄── wire::encode_response ── FragmentResponse
//!                     results too large for a response: exchange::write ─► object ─► exchange::read
//! ```
//!
//! Every byte that crosses carries [`version::PROTOCOL_VERSION`] and a fingerprint of the functions that both sides know.
//! They are checked before anything else is decoded.
//!
//! Non-goals: this crate does no network I/O beyond `dyn ObjectStore`, names no platform, and never retries.

#![warn(clippy::unwrap_used)]

mod error;
pub mod exchange;
mod fragment;
pub mod functions;
pub mod parts;
pub mod plan;
mod result;
mod usage;
pub mod version;
pub mod wire;

pub use error::{Advised, FragmentError, FragmentErrorKind, LostInput, with_hint_line};
pub use fragment::{
    AccessId, AccessTable, AheadBounds, ColumnMatching, DeleteContent, DeleteFile, DeleteSet, FieldIdRules, Fragment,
    FragmentId, FragmentLimits, Input, InvokeRequest, LeafId, LeafSpec, MappedName, ObjectRef, Output, PlanRef, Scan,
    ScanUnit, StagePlan, StoreAccess, UnitDeletes,
};
pub use result::{FragmentResponse, FragmentResult, PartsPlace, StreamSummary};
pub use usage::{AheadUsage, LateUsage, Requests, Spans, Usage};
pub use wire::Base64;
