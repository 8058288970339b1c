//! Stacks on which statements are parsed, planned, decoded and evaluated.
//!
//! Trees of expressions and plans are walked by recursion, much of it in derived code (`Clone`, `Drop`, `PartialEq`) that no
//! guard of the engine's reaches. How deep a tree may be is bounded where statements are read; these stacks hold that depth, tokio's
//! two mebibytes do not. Only what is touched of a stack takes memory.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Runtime};

/// Size of such a stack.
pub const STACK_BYTES: usize = 64 << 20;

/// A runtime with a worker for each core, all on such stacks.
///
/// # Errors
/// Where threads cannot be started.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build()
}

/// Does short work on such a stack; the caller waits for it.
///
/// # Panics
/// Where the work does, or a thread cannot be started.
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
    fn they_hold_what_other_stacks_do_not() {
        // 16 MB of frames, and twice that where nothing is optimized.
        assert_eq!(on_big_stack(|| deep(4_000)), 4_000);
        let runtime = runtime().expect("threads");
        assert_eq!(runtime.block_on(runtime.spawn(async { deep(4_000) })).expect("no panic"), 4_000);
        assert_eq!(runtime.block_on(runtime.spawn_blocking(|| deep(4_000))).expect("no panic"), 4_000);
    }
}
