//! Turns at the cores: statements that have computed long give way to those that have not.
//!
//! The system divides the cores evenly among all threads that compute. A statement that needs ten milliseconds would take many times as long beside four
//! that need seconds. So a task of a statement that has computed long waits until a core is left for it, and then computes a few batches at a time. Others never wait.
//!
//! tokio grants each poll 128 steps, and a step is a batch. A long one gets eight. A reader of bytes ahead is no task of these: it would time its own wait as the store's.
//!
//! ```text
//!  short ──────────────────────────► polled
//!  long  ─► a core is left? ─► yes ─► polled, a few batches
//!                           └─► no ─► waits in line, but not for longer than WAIT_MAX
//! ```

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use cpu_time::ThreadTime;
use tokio::task::coop;
use tokio::time::{Sleep, sleep};

/// Time for which a statement has computed when it begins to give way.
const SHORT: Duration = Duration::from_millis(50);

/// Longest wait for a core. An operator that computes for minutes without a pause holds up nobody for longer.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Steps that tokio grants a task until it has to make room, and those that a long statement takes of them. A step is a batch of a scan or of a channel.
const STEPS: usize = 128;
const STEPS_OF_LONG: usize = 8;

/// Cores of a process, and the tasks that want them. Clones share them.
#[derive(Debug, Clone)]
pub(in crate::session) struct Turns(Arc<Mutex<Cores>>);

#[derive(Debug)]
struct Cores {
    cores: usize,
    /// Tasks that compute, short ones among them, so that they may be more than there are cores.
    computing: usize,
    next_ticket: u64,
    /// Tasks that wait for a core, the first one first.
    waiting: VecDeque<(u64, Waker)>,
    /// Tasks that have got a core and do not know it yet. They count as computing.
    handed: HashSet<u64>,
}

impl Turns {
    pub(in crate::session) fn new(cores: usize) -> Self {
        let (waiting, handed) = (VecDeque::new(), HashSet::new());
        Self(Arc::new(Mutex::new(Cores { cores, computing: 0, next_ticket: 0, waiting, handed })))
    }

    /// Opens the share of a statement.
    pub(super) fn share(&self) -> Share {
        Share { turns: self.clone(), spent: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Cores> {
        self.0.lock().expect("no holder panics")
    }

    /// Waits for a core. `ticket` is the task's place in the line, if it has one.
    fn poll(&self, ticket: &mut Option<u64>, context: &Context<'_>) -> Poll<()> {
        let mut cores = self.lock();
        let Some(number) = *ticket else {
            if cores.computing < cores.cores {
                cores.computing += 1;
                return Poll::Ready(());
            }
            let number = cores.next_ticket;
            cores.next_ticket += 1;
            cores.waiting.push_back((number, context.waker().clone()));
            *ticket = Some(number);
            return Poll::Pending;
        };
        if cores.handed.remove(&number) {
            *ticket = None;
            return Poll::Ready(());
        }
        if let Some((_, waker)) = cores.waiting.iter_mut().find(|(waiting, _)| *waiting == number) {
            waker.clone_from(context.waker());
        }
        Poll::Pending
    }

    /// Computes without a core that is left: at once, or after the wait of `ticket`.
    fn insist(&self, ticket: Option<u64>) {
        let mut cores = self.lock();
        if ticket.is_none_or(|ticket| !cores.leave_line(ticket)) {
            cores.computing += 1;
        }
    }

    /// Ends a task's wait, which may have got a core meanwhile.
    fn give_up(&self, ticket: u64) {
        let mut cores = self.lock();
        if cores.leave_line(ticket) {
            cores.end();
        }
    }
}

impl Cores {
    /// Returns true if the task had got a core.
    fn leave_line(&mut self, ticket: u64) -> bool {
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
        self.handed.remove(&ticket)
    }

    /// Gives a core back, to the first in the line. Returns true if there is one.
    fn end(&mut self) -> bool {
        self.computing -= 1;
        let mut has_next = false;
        while self.computing < self.cores
            && let Some((ticket, waker)) = self.waiting.pop_front()
        {
            self.computing += 1;
            self.handed.insert(ticket);
            waker.wake();
            has_next = true;
        }
        has_next
    }
}

/// A statement's share of the cores. Clones are of the same statement.
#[derive(Debug, Clone)]
pub(super) struct Share {
    turns: Turns,
    /// Nanoseconds of processor time that its tasks have taken.
    spent: Arc<AtomicU64>,
}

impl Share {
    fn is_long(&self) -> bool {
        u128::from(self.spent.load(Ordering::Relaxed)) > SHORT.as_nanos()
    }

    /// Counts time that the statement has computed elsewhere.
    pub(super) fn spend(&self, time: Duration) {
        self.spent.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Makes a task of the statement take its turns.
    pub(super) fn turns_of<F: Future + Unpin>(&self, task: F) -> InTurn<F> {
        InTurn { task, share: self.clone(), waits: true, ticket: None, patience: None }
    }

    /// Makes a task count that waits for nobody. Planning holds what other statements wait for: listings, metadata.
    pub(super) fn planning<F: Future + Unpin>(&self, task: F) -> InTurn<F> {
        InTurn { task, share: self.clone(), waits: false, ticket: None, patience: None }
    }
}

/// Task that computes when it is its turn.
pub(super) struct InTurn<F> {
    task: F,
    share: Share,
    /// True if it gives way.
    waits: bool,
    /// Place in the line.
    ticket: Option<u64>,
    /// End of the wait.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<F> InTurn<F> {
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.share.turns.poll(&mut self.ticket, context).is_pending() {
            let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(WAIT_MAX)));
            ready!(patience.as_mut().poll(context));
            self.share.turns.insist(self.ticket.take());
        }
        self.patience = None;
        Poll::Ready(())
    }
}

impl<F: Future + Unpin> Future for InTurn<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let is_long = this.waits && this.share.is_long();
        if is_long {
            ready!(this.poll_turn(context));
        } else {
            this.share.turns.insist(None);
        }
        let computing = Computing { share: &this.share, since: ThreadTime::now(), is_over: false };
        if is_long {
            take_steps(context, STEPS - STEPS_OF_LONG);
        }
        let polled = Pin::new(&mut this.task).poll(context);
        // A task without steps is woken by tokio when this thread has time, which may be in minutes. Any thread may go on with it.
        if is_long && polled.is_pending() && !coop::has_budget_remaining() {
            context.waker().wake_by_ref();
        }
        if computing.end() {
            // tokio polls the next one with the steps that are left here, unless there are none.
            take_steps(context, STEPS);
        }
        polled
    }
}

impl<F> Drop for InTurn<F> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.share.turns.give_up(ticket);
        }
    }
}

/// A task that computes. It gives its core back when it waits, ends or panics.
struct Computing<'a> {
    share: &'a Share,
    since: ThreadTime,
    is_over: bool,
}

impl Computing<'_> {
    /// Returns true if another task has the core now.
    fn end(mut self) -> bool {
        self.is_over = true;
        self.give_back()
    }

    fn give_back(&self) -> bool {
        self.share.spend(self.since.elapsed());
        self.share.turns.lock().end()
    }
}

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.give_back();
        }
    }
}

/// Takes so many of the steps that tokio grants a task until it has to make room.
fn take_steps(context: &mut Context<'_>, steps: usize) {
    for _ in 0..steps {
        if !coop::has_budget_remaining() {
            return;
        }
        if let Poll::Ready(step) = coop::poll_proceed(context) {
            step.made_progress();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;
    use futures::task::noop_waker_ref;

    use super::*;

    /// Makes a statement that has computed long already.
    fn long(turns: &Turns) -> Share {
        let share = turns.share();
        share.spent.store(u64::MAX / 2, Ordering::Relaxed);
        share
    }

    fn poll_once<F: Future + Unpin>(task: &mut InTurn<F>) -> Poll<F::Output> {
        task.poll_unpin(&mut Context::from_waker(noop_waker_ref()))
    }

    #[tokio::test(start_paused = true)]
    async fn long_statements_wait_for_a_core_and_short_ones_do_not() {
        let turns = Turns::new(1);
        turns.insist(None);
        assert_eq!(poll_once(&mut turns.share().turns_of(ready(1))), Poll::Ready(1));
        let (mut first, mut second) = (long(&turns).turns_of(ready(2)), long(&turns).turns_of(ready(3)));
        assert!(poll_once(&mut first).is_pending() && poll_once(&mut second).is_pending());
        turns.lock().end();
        // The core is the first one's, though it does not know it yet.
        assert!(poll_once(&mut second).is_pending());
        assert_eq!(poll_once(&mut first), Poll::Ready(2));
        assert_eq!(poll_once(&mut second), Poll::Ready(3));
        assert_eq!(turns.lock().computing, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let turns = Turns::new(1);
        turns.insist(None);
        let since = tokio::time::Instant::now();
        assert_eq!(long(&turns).turns_of(ready(1)).await, 1);
        assert!((WAIT_MAX..2 * WAIT_MAX).contains(&since.elapsed()));
        let cores = turns.lock();
        assert_eq!((cores.computing, cores.waiting.len()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_leaves_its_core_to_the_next() {
        let turns = Turns::new(1);
        turns.insist(None);
        let (mut waits, mut has) = (long(&turns).turns_of(ready(1)), long(&turns).turns_of(pending::<()>()));
        let mut last = long(&turns).turns_of(ready(3));
        assert!(
            poll_once(&mut waits).is_pending() && poll_once(&mut has).is_pending() && poll_once(&mut last).is_pending()
        );
        drop(waits);
        turns.lock().end();
        assert!(turns.lock().handed.len() == 1 && poll_once(&mut last).is_pending());
        drop(has);
        assert_eq!(poll_once(&mut last), Poll::Ready(3));
        assert_eq!(turns.lock().computing, 0);
    }

    #[tokio::test]
    async fn a_statement_is_long_once_it_has_computed_long() {
        let share = Turns::new(2).share();
        for (milliseconds, is_long) in [(1, false), (60, true)] {
            let work = async move {
                let since = ThreadTime::now();
                while since.elapsed() < Duration::from_millis(milliseconds) {
                    std::hint::spin_loop();
                }
            };
            share.turns_of(Box::pin(work)).await;
            assert_eq!(share.is_long(), is_long);
        }
    }

    /// Returns work that takes steps until it has as many, and notes those of each poll.
    fn steps(taken: &Arc<Mutex<Vec<usize>>>, most: usize) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let taken = Arc::clone(taken);
        let work = move |context: &mut Context<'_>| {
            let mut taken = taken.lock().expect("no holder panics");
            taken.push(0);
            while taken.iter().sum::<usize>() < most {
                ready!(coop::poll_proceed(context)).made_progress();
                *taken.last_mut().expect("pushed") += 1;
            }
            Poll::Ready(())
        };
        Box::pin(std::future::poll_fn(work))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_long_statement_makes_room_after_a_few_steps() {
        let most = 2 * STEPS;
        for (share, expect) in [
            (long(&Turns::new(1)), vec![STEPS_OF_LONG; most / STEPS_OF_LONG]),
            (Turns::new(1).share(), vec![STEPS; most / STEPS]),
        ] {
            let taken = Arc::default();
            tokio::spawn(share.turns_of(steps(&taken, most))).await.expect("no panic");
            let mut taken = taken.lock().expect("no holder panics").clone();
            // The last poll may find that nothing is left.
            taken.retain(|steps| *steps > 0);
            assert_eq!(taken, expect);
        }
    }

    /// tokio polls a task that this one wakes with the steps that are left here.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_gets_a_core_has_all_its_steps() {
        let turns = Turns::new(1);
        turns.insist(None);
        let taken = Arc::default();
        let waiting = tokio::spawn(long(&turns).turns_of(steps(&taken, STEPS_OF_LONG)));
        while turns.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        let of_short = Arc::default();
        let (mut short, freed) = (steps(&of_short, 2 * STEPS_OF_LONG), turns.clone());
        let short = std::future::poll_fn(move |context| {
            freed.lock().computing -= 1;
            short.poll_unpin(context)
        });
        tokio::spawn(turns.share().turns_of(Box::pin(short))).await.expect("no panic");
        waiting.await.expect("no panic");
        assert_eq!(*taken.lock().expect("no holder panics"), [STEPS_OF_LONG]);
        assert_eq!(turns.lock().computing, 0);
    }
}
