//! Panics under a file are caught, reported as that file's fault, and not printed.
//!
//! Some decoders panic at bytes that they did not expect. Such a panic says that the file is bad, not that the program is.
//! Every other panic stays a panic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Number of [`contained`] calls under way on this thread.
    static CONTAINING: Cell<usize> = const { Cell::new(0) };
}

/// Runs `work`. A panic becomes its message. `work` must leave nothing behind that is used after a panic.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    CONTAINING.set(CONTAINING.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(work));
    CONTAINING.set(CONTAINING.get() - 1);
    done.map_err(|panic| message(&*panic).to_owned())
}

/// Returns the message of a panic.
pub fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message")
}

/// Sends contained panics to the log and not to stderr, from now on. Programs call it; a library leaves the hook alone.
pub fn quiet_contained_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if CONTAINING.get() == 0 {
                loud(panic);
            } else {
                tracing::debug!(%panic, "a panic under a file was contained");
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_message() {
        assert_eq!(contained(|| 1), Ok(1));
        assert_eq!(contained::<()>(|| panic!("at {}", 2)), Err("at 2".to_owned()));
        assert_eq!(CONTAINING.get(), 0);
    }
}
