//! Progress bar on stderr, made from a query's events. There is none where stderr is no terminal.
//!
//! The bar is drawn at most ten times a second, and never for a statement that ends before the first drawing. It is gone
//! before the first row, the report or an error is written. It only reads the event log, so that a slow terminal holds up
//! no fragment.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gust_engine::events::{AttemptOutcome, EventLog, QueryEvent};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Place where progress is shown, one a program. Clones share it.
#[derive(Debug, Clone)]
pub struct Progress {
    target: fn() -> ProgressDrawTarget,
    is_shown: bool,
    /// Bar on the screen. Its lock is held while it is drawn, so that nothing is drawn once it is cleared.
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Progress {
    /// Makes a bar on stderr, if that is a terminal.
    pub fn on_stderr() -> Self {
        let target = ProgressDrawTarget::stderr;
        Self { target, is_shown: !target().is_hidden(), bar: Arc::default() }
    }

    /// Makes no bar, for a log on stderr that a bar would tear apart.
    pub fn hidden() -> Self {
        Self { target: ProgressDrawTarget::hidden, is_shown: false, bar: Arc::default() }
    }

    /// Shows one statement's progress until the guard is dropped. It needs a tokio runtime.
    pub fn follow(&self, events: EventLog) -> ProgressGuard {
        let task = self.is_shown.then(|| {
            *self.lock() = Some(ProgressBar::with_draw_target(Some(0), (self.target)()));
            tokio::spawn(self.clone().poll(events))
        });
        ProgressGuard { progress: self.clone(), task }
    }

    /// Takes the bar off the screen before anything is written to `out`.
    pub fn clear_before_writing<W: Write>(&self, out: W) -> BarClearingWriter<W> {
        BarClearingWriter { progress: self.clone(), out }
    }

    async fn poll(self, events: EventLog) {
        let mut ticks = interval_at(Instant::now() + POLL_INTERVAL, POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut counts, mut seen) = (ProgressCounts::default(), 0);
        while !counts.is_over {
            ticks.tick().await;
            let news = events.since(seen);
            seen += news.len();
            news.iter().for_each(|stamped| counts.add(&stamped.event));
            match &*self.lock() {
                Some(bar) => counts.draw(bar),
                None => return,
            }
        }
    }

    fn clear(&self) {
        if let Some(bar) = self.lock().take() {
            bar.finish_and_clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard of one statement's progress. Dropping it clears the bar.
#[derive(Debug)]
#[must_use]
pub struct ProgressGuard {
    progress: Progress,
    task: Option<JoinHandle<()>>,
}

impl Drop for ProgressGuard {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.progress.clear();
    }
}

/// Writer to `out` that clears the bar first, because rows and bar may share a terminal.
#[derive(Debug)]
pub struct BarClearingWriter<W> {
    progress: Progress,
    out: W,
}

impl<W: Write> Write for BarClearingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.progress.clear();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Contents of the bar.
#[derive(Debug, Default, PartialEq, Eq)]
struct ProgressCounts {
    is_planned: bool,
    /// Fragments of all stages that have started.
    fragments: u64,
    adopted: u64,
    attempts_failed: u64,
    bytes_read: u64,
    is_over: bool,
}

impl ProgressCounts {
    fn add(&mut self, event: &QueryEvent) {
        match event {
            QueryEvent::Planned { .. } | QueryEvent::Begun | QueryEvent::Quoted { .. } => self.is_planned = true,
            QueryEvent::StageStarted { fragments, .. } => {
                self.is_planned = true;
                self.fragments += u64::from(*fragments);
            }
            QueryEvent::FragmentTakenApart { pieces, .. } => {
                self.fragments = (self.fragments + u64::from(*pieces)).saturating_sub(1);
            }
            QueryEvent::PlanPublished { .. }
            | QueryEvent::PartitionsSplit { .. }
            | QueryEvent::DeletesPublished { .. }
            | QueryEvent::RowsBroadcast { .. }
            | QueryEvent::RowsParted { .. }
            | QueryEvent::RowsRestored { .. }
            | QueryEvent::KeysLeftOut { .. }
            | QueryEvent::BuildsCopied { .. }
            | QueryEvent::JoinedHere { .. }
            | QueryEvent::MemoryWanted { .. }
            | QueryEvent::MemoryClaimed { .. }
            | QueryEvent::TakenOver { .. }
            | QueryEvent::AttemptStarted { .. } => {}
            QueryEvent::AttemptEnded { outcome, .. } => match outcome {
                AttemptOutcome::Done { usage, .. } => self.bytes_read += usage.bytes_read,
                AttemptOutcome::FragmentFailed { usage, .. } => {
                    self.bytes_read += usage.bytes_read;
                    self.attempts_failed += 1;
                }
                AttemptOutcome::InvokeFailed { .. } => self.attempts_failed += 1,
                AttemptOutcome::Cancelled => {}
            },
            QueryEvent::FragmentAdopted { .. } => self.adopted += 1,
            QueryEvent::FellBack { .. }
            | QueryEvent::Replanned { .. }
            | QueryEvent::Enlarged { .. }
            | QueryEvent::Restarted { .. } => (self.fragments, self.adopted) = (0, 0),
            QueryEvent::CoordinatorRead { usage, .. } => self.bytes_read += usage.bytes_read,
            QueryEvent::Finished { .. } | QueryEvent::Failed { .. } => self.is_over = true,
        }
    }

    fn draw(&self, bar: &ProgressBar) {
        let template = if self.fragments > 0 { "[{bar:32}] {msg}, {elapsed}" } else { "{spinner} {msg}, {elapsed}" };
        let style = ProgressStyle::with_template(template).expect("both templates are valid");
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(self.message());
        bar.update(|state| {
            state.set_len(self.fragments.max(1));
            state.set_pos(self.adopted.min(self.fragments));
        });
    }

    fn message(&self) -> String {
        let mut message = match (self.is_planned, self.fragments) {
            (false, _) => "planning".to_owned(),
            (true, 0) => "running locally".to_owned(),
            (true, fragments) => format!("{}/{fragments} fragments", self.adopted),
        };
        if self.bytes_read > 0 {
            message += &format!(", {} read", HumanBytes(self.bytes_read));
        }
        match self.attempts_failed {
            0 => {}
            1 => message += ", 1 failed attempt",
            failed => message += &format!(", {failed} failed attempts"),
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use gust_engine::attempt::{Billing, InvokeErrorKind};
    use gust_protocol::{FragmentErrorKind, FragmentId, Usage};

    use super::*;

    fn id(index: u32) -> FragmentId {
        FragmentId { query: "q".to_owned(), stage: 0, index }
    }

    fn usage(bytes_read: u64) -> Usage {
        Usage { bytes_read, ..Usage::default() }
    }

    fn stage(fragments: u32) -> QueryEvent {
        QueryEvent::StageStarted { stage: 0, fragments, bytes_planned: 0 }
    }

    fn ended(outcome: AttemptOutcome) -> QueryEvent {
        let billing = Billing::Bounded { at_most: Duration::ZERO };
        QueryEvent::AttemptEnded { id: id(0), attempt: 0, outcome, billing, wall: Duration::ZERO }
    }

    fn done(bytes_read: u64) -> QueryEvent {
        ended(AttemptOutcome::Done { usage: usage(bytes_read), cold: None })
    }

    fn adopted(index: u32) -> QueryEvent {
        let (rows, result_bytes, inline, read) = (1, 1, true, Duration::ZERO);
        QueryEvent::FragmentAdopted { id: id(index), attempt: 0, rows, result_bytes, inline, read }
    }

    #[test]
    fn the_message_follows_the_events() {
        #[track_caller]
        fn check(events: &[QueryEvent], expect: &str) {
            let mut counts = ProgressCounts::default();
            events.iter().for_each(|event| counts.add(event));
            assert_eq!(counts.message(), expect);
        }
        check(&[], "planning");
        check(&[QueryEvent::CoordinatorRead { usage: usage(2048), billed: usage(0) }], "planning, 2.00 KiB read");
        check(&[QueryEvent::Begun], "running locally");
        check(&[stage(4)], "0/4 fragments");
        check(&[stage(4), stage(2), done(1 << 20), adopted(0)], "1/6 fragments, 1.00 MiB read");
        let kind = FragmentErrorKind::Storage;
        let failed = ended(AttemptOutcome::FragmentFailed { kind, message: String::new(), usage: usage(512) });
        let kind = InvokeErrorKind::Crashed;
        let crashed = ended(AttemptOutcome::InvokeFailed { kind, message: String::new(), log_tail: String::new() });
        check(&[stage(4), failed.clone()], "0/4 fragments, 512 B read, 1 failed attempt");
        check(&[stage(4), failed, crashed.clone()], "0/4 fragments, 512 B read, 2 failed attempts");
        check(&[stage(4), ended(AttemptOutcome::Cancelled)], "0/4 fragments");
        let fell_back = QueryEvent::FellBack { reason: String::new(), hint: None };
        check(&[stage(4), adopted(0), crashed, fell_back], "running locally, 1 failed attempt");
    }

    /// Makes a bar that draws nothing but counts as shown.
    fn shown() -> Progress {
        Progress { is_shown: true, ..Progress::hidden() }
    }

    fn bar(progress: &Progress) -> Option<(u64, Option<u64>, String)> {
        progress.lock().as_ref().map(|bar| (bar.position(), bar.length(), bar.message()))
    }

    async fn one_poll() {
        tokio::time::sleep(POLL_INTERVAL + POLL_INTERVAL / 2).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_bar_follows_the_log_and_goes_with_its_guard() {
        let (progress, events) = (shown(), EventLog::start());
        let following = progress.follow(events.clone());
        one_poll().await;
        assert_eq!(bar(&progress), Some((0, Some(1), "planning".to_owned())));
        events.push(stage(2));
        events.push(adopted(0));
        one_poll().await;
        assert_eq!(bar(&progress), Some((1, Some(2), "1/2 fragments".to_owned())));
        drop(following);
        assert_eq!(bar(&progress), None);
    }

    #[tokio::test(start_paused = true)]
    async fn rows_clear_the_bar_and_it_stays_away() {
        let (progress, events) = (shown(), EventLog::start());
        let mut out = progress.clear_before_writing(Vec::new());
        let following = progress.follow(events.clone());
        one_poll().await;
        assert!(bar(&progress).is_some());
        out.write_all(b"row").expect("a vector takes everything");
        events.push(stage(2));
        one_poll().await;
        assert_eq!(bar(&progress), None);
        drop(following);
        let _next = progress.follow(EventLog::start());
        assert!(bar(&progress).is_some(), "the next statement has its own bar");
        assert_eq!(out.out, b"row");
    }

    #[tokio::test]
    async fn a_hidden_bar_has_no_task() {
        let following = Progress::hidden().follow(EventLog::start());
        assert!(following.task.is_none());
    }
}
