//! Logs without payloads, in lines of bounded length.

use std::io::{self, Stderr, Write};

use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::registry::LookupSpan;

/// Adds to a filter that the traces of AWS's libraries are left out, whatever it asks for: they print whole requests and
/// answers, with the credentials in them.
pub fn without_payloads<S>(filter: EnvFilter) -> impl Filter<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    FilterExt::<S>::and(filter, filter_fn(shows_no_payload).with_max_level_hint(LevelFilter::TRACE))
}

/// Most bytes of a line. Names in it, and texts of errors, are as long as whoever has sent them likes.
pub const LOG_LINE_BYTES_MAX: usize = 8 << 10;

/// Returns a writer to stderr that cuts lines at [`LOG_LINE_BYTES_MAX`].
pub fn log_lines() -> LogLines<Stderr> {
    LogLines(io::stderr())
}

/// Writer that takes a whole line at a time, as subscribers write them, and cuts those that are too long.
#[derive(Debug)]
pub struct LogLines<W>(W);

impl<W: Write> Write for LogLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() <= LOG_LINE_BYTES_MAX {
            self.0.write_all(line)?;
            return Ok(line.len());
        }
        // A letter of several bytes is left out as a whole.
        let is_end = |at: &usize| line[*at] & 0xC0 != 0x80;
        let end = (0..=LOG_LINE_BYTES_MAX).rev().find(is_end).unwrap_or_default();
        let mut cut = line[..end].to_vec();
        // Colours end with the line.
        let colours_end = if cut.contains(&0x1B) { "\u{1b}[0m" } else { "" };
        writeln!(cut, "{colours_end} … and {} bytes", line.len() - end)?;
        self.0.write_all(&cut)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn shows_no_payload(metadata: &Metadata<'_>) -> bool {
    *metadata.level() < tracing::Level::TRACE || !metadata.target().starts_with("aws_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_between_letters() {
        for (letter, count) in [("a", 10), ("a", LOG_LINE_BYTES_MAX - 1), ("a", LOG_LINE_BYTES_MAX), ("ü", 1 << 20)] {
            let line = format!("{}\n", letter.repeat(count));
            let mut lines = LogLines(Vec::new());
            lines.write_all(line.as_bytes()).expect("memory");
            let written = String::from_utf8(lines.0).expect("whole letters");
            if line.len() <= LOG_LINE_BYTES_MAX {
                assert_eq!(written, line);
                continue;
            }
            let (kept, rest) = written.split_once(" … and ").expect("it is cut");
            let left_out: usize = rest.trim_end_matches(" bytes\n").parse().expect("a number");
            assert_eq!(kept.len() + left_out, line.len(), "{count} times {letter}");
            assert!(line.starts_with(kept) && LOG_LINE_BYTES_MAX - kept.len() < 4, "{count} times {letter}");
        }
    }
}
