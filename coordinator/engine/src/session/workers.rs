//! The threads on which a session plans and runs.

use std::io;
use std::sync::Arc;

use fragment_fn::stack;
use tokio::runtime::{Handle, Runtime};

/// A runtime of the session's own: its stacks hold what a statement may be, and who follows a statement from another runtime is not
/// held up by what computes here. Cloning shares it.
///
/// Who drops the last clone does not wait for its threads: one that computes ends with its work, or with the process.
#[derive(Debug, Clone)]
pub(super) struct Workers(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    handle: Handle,
    /// None while it is dropped.
    runtime: Option<Runtime>,
}

impl Workers {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = stack::runtime()?;
        Ok(Self(Arc::new(Owned { handle: runtime.handle().clone(), runtime: Some(runtime) })))
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.0.handle
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
