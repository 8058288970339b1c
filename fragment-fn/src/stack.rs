//! Stacks on which statements are parsed, planned, decoded and evaluated.
//!
//! Trees of expressions and plans are walked by recursion, much of it in derived code (`Clone`, `Drop`, `PartialEq`) that
//! none of the engine's guards reaches. Statements are bounded in depth where they are read. These stacks hold that depth,
//! tokio's two mebibytes do not. Only the touched part of a stack takes memory.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Runtime};

/// Size of such a stack, in bytes.
pub const STACK_BYTES: usize = 64 << 20;

/// Makes a runtime with a worker for each core, all on such stacks.
///
/// # Errors
/// An I/O error where threads cannot be started.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build()
}

/// Does short work on such a stack. The caller's thread waits for it.
///
/// # Panics
/// Panics where the work panics, or where no thread can be started.
pub fn on_big_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let ended = thread.expect("a thread can be started").join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recursion that takes some kilobytes a level.
    fn deep(levels: usize) -> usize {
        let frame = std::hint::black_box([levels; 512]);
        if levels == 0 { 0 } else { deep(levels - 1) + frame[0] - levels + 1 }
    }

    #[test]
    fn big_stacks_hold_deep_recursion() {
        // The frames take 16 MB, and twice that where nothing is optimized.
        assert_eq!(on_big_stack(|| deep(4_000)), 4_000);
        let runtime = runtime().expect("threads");
        assert_eq!(runtime.block_on(runtime.spawn(async { deep(4_000) })).expect("no panic"), 4_000);
        assert_eq!(runtime.block_on(runtime.spawn_blocking(|| deep(4_000))).expect("no panic"), 4_000);
    }
}
