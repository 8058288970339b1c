//! Panics under a file are caught, reported as that file's fault, and not printed.
//!
//! Some decoders panic at bytes that they did not expect. Such a panic says that the file is bad, not that the program is.
//! Every other panic stays a panic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Number of [`catch_panic`] calls under way on this thread.
    static CATCHING: Cell<usize> = const { Cell::new(0) };
}

/// Runs `work`. A panic becomes its message. `work` must leave nothing behind that is used after a panic.
pub(crate) fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    CATCHING.set(CATCHING.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(CATCHING.get() - 1);
    done.map_err(|panic| message(&*panic).to_owned())
}

/// Returns the message of a panic.
pub fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message")
}

/// Sends caught panics to the log and not to stderr, from now on. Programs call it; a library leaves the hook alone.
pub fn quiet_caught_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if CATCHING.get() == 0 {
                loud(panic);
            } else {
                tracing::debug!(%panic, "a panic under a file was caught");
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(catch_panic(|| 1), Ok(1));
        assert_eq!(catch_panic::<()>(|| panic!("at {}", 2)), Err("at 2".to_owned()));
        assert_eq!(CATCHING.get(), 0);
    }
}
