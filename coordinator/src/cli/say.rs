//! Words on stderr. A line that cannot be written (`2>&1 | head -1`) is dropped, and the exit code stays the statement's.

/// Writes a line to stderr. `eprintln!` would panic where stderr is closed.
macro_rules! say {
    ($($word:tt)*) => {{
        use std::io::Write as _;
        $crate::cli::say::dropped(writeln!(std::io::stderr(), $($word)*));
    }};
}

pub(crate) use say;

/// Drops the result of a write.
pub(crate) fn dropped(_: std::io::Result<()>) {}
