//! The fleet: invokers, each of which runs exactly ONE attempt somewhere, and the breaker that says whether they are worth asking.
//!
//! The scheduler owns retries, so that every attempt is seen and priced; an invoker never tries again. Whatever goes wrong
//! is a typed outcome, never a panic. To add an invoker, implement [`Invoker`] and add it to the conformance suite in
//! the tests crate.

use std::fmt::Debug;

use async_trait::async_trait;
use gust_protocol::InvokeRequest;

mod framing;
mod health;
mod in_process;
mod lambda;
mod processes;

pub use health::{Breaker, Health};
pub use in_process::{Handler, InProcess};
pub use lambda::{Deployment, DescribeError, Lambda, PinnedFunction, describe};
pub use processes::{Processes, ProcessesConfig};

use crate::attempt::Invocation;

/// Runs one attempt of one fragment.
#[async_trait]
pub trait Invoker: Debug + Send + Sync + 'static {
    /// One attempt, never a retry. A platform failure is an outcome and is billed like any other.
    ///
    /// Dropping the future frees the caller only; the attempt may go on until its deadline.
    async fn invoke(&self, request: InvokeRequest) -> Invocation;
}
