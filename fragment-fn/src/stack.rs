//! Stacks on which statements are parsed, planned, decoded and evaluated.
//!
//! Trees of expressions and plans are walked by recursion, much of it in derived code (`Clone`, `Drop`, `PartialEq`) that
//! none of the engine's guards reaches. Statements are bounded in depth where they are read. These stacks hold that depth,
//! tokio's two mebibytes do not. Only the touched part of a stack takes memory.

use std::io;
use std::mem::ManuallyDrop;
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

/// Ends a runtime of such stacks. It does not wait for what its threads still compute.
///
/// A thread that nobody waits for joins them. Detached threads would free their stacks while glibc's `pthread_detach` still
/// reads them: glibc keeps 40 MiB of ended stacks, and unmaps larger ones at once.
pub fn end(runtime: Runtime) {
    // Dropped here, where no thread can be started, it would wait.
    let runtime = ManuallyDrop::new(runtime);
    let joining = move || drop(ManuallyDrop::into_inner(runtime));
    if let Err(error) = thread::Builder::new().spawn(joining) {
        tracing::warn!(%error, "a runtime's threads are left");
    }
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
    fn a_runtime_ends_without_waiting() {
        let (runtime, other) = (runtime().expect("threads"), runtime().expect("threads"));
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (told, tells) = std::sync::mpsc::channel();
        drop(runtime.spawn_blocking(move || {
            let _ = released.recv();
            told.send("computed").expect("somebody listens");
        }));
        // Also on a thread that must not wait.
        other.block_on(async { end(runtime) });
        release.send(()).expect("it computes");
        assert_eq!(tells.recv(), Ok("computed"));
        end(other);
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
