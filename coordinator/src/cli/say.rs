//! Words on stderr. Nobody may read them (`2>&1 | head -1`): what cannot be written is dropped, and the exit code stays what the
//! statement gives.

/// Writes a line to stderr, as `eprintln!` does, which panics where stderr is closed.
macro_rules! say {
    ($($word:tt)*) => {{
        use std::io::Write as _;
        $crate::cli::say::dropped(writeln!(std::io::stderr(), $($word)*));
    }};
}

pub(crate) use say;

/// Nothing, whatever became of what was written.
pub(crate) fn dropped(_: std::io::Result<()>) {}
