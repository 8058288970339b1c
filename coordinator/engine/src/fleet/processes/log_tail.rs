//! End of a process's stderr.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

/// Upper bound of the bytes that are kept of one attempt.
const TAIL_BYTES_MAX: usize = 64 << 10;

/// Time for which an ended process's stderr may stay open. A process that it started may hold it.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// Reads a process's stderr to its end, so that the process never blocks on it, and keeps the last lines.
#[derive(Debug)]
pub(super) struct LogTail {
    tail: Arc<Mutex<Tail>>,
    reader: JoinHandle<()>,
}

impl LogTail {
    pub fn follow(mut stderr: ChildStderr, process_id: u32) -> Self {
        let tail = Arc::<Mutex<Tail>>::default();
        let kept = Arc::clone(&tail);
        let reader = tokio::spawn(async move {
            let mut chunk = [0; 8 << 10];
            while let Ok(bytes @ 1..) = stderr.read(&mut chunk).await {
                let text = &chunk[..bytes];
                tracing::debug!(process_id, stderr = %String::from_utf8_lossy(text).trim_end(), "function");
                kept.lock().expect("no holder panics").push(text);
            }
        });
        Self { tail, reader }
    }

    /// Forgets the text so far, because another attempt begins.
    pub fn clear(&self) {
        *self.tail.lock().expect("no holder panics") = Tail::default();
    }

    pub fn text(&self) -> String {
        self.tail.lock().expect("no holder panics").text()
    }

    /// Waits until the rest of an ended process's stderr has been read.
    pub async fn drain(&mut self) {
        if !self.reader.is_finished() {
            let _ = tokio::time::timeout(DRAIN_MAX, &mut self.reader).await;
        }
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    /// True if the beginning is lost.
    cut: bool,
}

impl Tail {
    fn push(&mut self, text: &[u8]) {
        self.bytes.extend(text);
        let excess = self.bytes.len().saturating_sub(TAIL_BYTES_MAX);
        self.bytes.drain(..excess);
        self.cut |= excess > 0;
    }

    /// Returns whole lines, as far as there are any.
    fn text(&self) -> String {
        let line_end = self.bytes.iter().position(|byte| *byte == b'\n').filter(|_| self.cut);
        let kept: Vec<u8> = self.bytes.iter().skip(line_end.map_or(0, |end| end + 1)).copied().collect();
        String::from_utf8_lossy(&kept).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_whole_lines() {
        let long = "x".repeat(TAIL_BYTES_MAX);
        let half = "y".repeat(TAIL_BYTES_MAX / 2);
        let check = |chunks: &[&str], expect: &str| {
            let mut tail = Tail::default();
            chunks.iter().for_each(|chunk| tail.push(chunk.as_bytes()));
            assert_eq!(tail.text(), expect);
            assert!(tail.bytes.len() <= TAIL_BYTES_MAX);
        };
        check(&[], "");
        check(&["one\n", "two\n"], "one\ntwo");
        check(&["on", "e\ntw", "o"], "one\ntwo");
        check(&[&long, "\nlast\n"], "last");
        check(&[&half, "\n", &half, "\nlast\n"], &format!("{half}\nlast"));
        check(&[&long, "no line ends"], &format!("{}no line ends", &long["no line ends".len()..]));
    }
}
