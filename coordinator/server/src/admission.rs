//! Admission: a bounded number of queries runs, and others wait for their turn.
//!
//! Users take turns, and each user's queries run in the order in which they came. A user with fifty waiting queries has
//! therefore one turn in two beside a user with one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

/// Bounds, and the queries that run or wait. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    running_max: usize,
    waiting_max: usize,
    running: usize,
    waiting: usize,
    /// Number of the next ticket.
    next_ticket: u64,
    /// Users with waiting queries, the next one first.
    turns: VecDeque<Turn>,
}

#[derive(Debug)]
struct Turn {
    user: String,
    /// The user's waiting queries, in the order in which they came.
    queries: VecDeque<Queued>,
}

#[derive(Debug)]
struct Queued {
    ticket: Ticket,
    sender: oneshot::Sender<Permit>,
}

/// Name of a query in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// A query that has its permit, or waits for it. Dropping it gives the place in the queue up.
#[derive(Debug)]
pub(crate) struct Waiting {
    ticket: Ticket,
    turn: Turned,
}

#[derive(Debug)]
enum Turned {
    Now(Permit),
    Later(oneshot::Receiver<Permit>),
}

impl Waiting {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Waits for the right to run.
    pub(crate) async fn turn(self) -> Permit {
        match self.turn {
            Turned::Now(permit) => permit,
            Turned::Later(receiver) => receiver.await.expect("a query that waits is in the queue until it runs"),
        }
    }
}

/// Right to run one query. It ends when it is dropped, and then the next query runs.
#[derive(Debug)]
pub(crate) struct Permit(Option<Arc<Mutex<State>>>);

/// Refusal of a query, because too many wait already.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} queries wait for their turn; no more are taken")]
pub(crate) struct Full {
    pub(crate) waiting: usize,
}

impl Admission {
    pub(crate) fn new(running_max: usize, waiting_max: usize) -> Self {
        let turns = VecDeque::new();
        Self(Arc::new(Mutex::new(State { running_max, waiting_max, running: 0, waiting: 0, next_ticket: 0, turns })))
    }

    /// Queues a query of a user.
    ///
    /// # Errors
    /// [`Full`] if too many wait already.
    pub(crate) fn queue(&self, user: &str) -> Result<Waiting, Full> {
        let mut state = lock(&self.0);
        state.forget_the_gone();
        let ticket = Ticket(state.next_ticket);
        if state.running < state.running_max && state.waiting == 0 {
            state.running += 1;
            state.next_ticket += 1;
            return Ok(Waiting { ticket, turn: Turned::Now(Permit(Some(Arc::clone(&self.0)))) });
        }
        if state.waiting >= state.waiting_max {
            return Err(Full { waiting: state.waiting });
        }
        // Others have a place to wait, too.
        let of_user = state.turns.iter().find(|turn| turn.user == user).map_or(0, |turn| turn.queries.len());
        if !user.is_empty() && of_user >= state.waiting_max.div_ceil(2) {
            return Err(Full { waiting: of_user });
        }
        let (sender, receiver) = oneshot::channel();
        state.next_ticket += 1;
        state.waiting += 1;
        let queued = Queued { ticket, sender };
        match state.turns.iter_mut().find(|turn| turn.user == user) {
            Some(turn) => turn.queries.push_back(queued),
            None => state.turns.push_back(Turn { user: user.to_owned(), queries: VecDeque::from([queued]) }),
        }
        Ok(Waiting { ticket, turn: Turned::Later(receiver) })
    }

    /// Returns the numbers of queries that run and wait.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let mut state = lock(&self.0);
        state.forget_the_gone();
        (state.running, state.waiting)
    }

    /// Returns the number of queries that run before a waiting one, if no more come; None if it does not wait.
    pub(crate) fn position(&self, ticket: Ticket) -> Option<usize> {
        let state = lock(&self.0);
        let place = |turn: &Turn| turn.queries.iter().position(|queued| queued.ticket == ticket);
        let (user, round) = state.turns.iter().enumerate().find_map(|(user, turn)| Some((user, place(turn)?)))?;
        // Each earlier round has one query of each user who has so many, and this round those of the users before.
        let earlier = state.turns.iter().map(|turn| turn.queries.len().min(round)).sum::<usize>();
        Some(earlier + state.turns.iter().take(user).filter(|turn| turn.queries.len() > round).count())
    }
}

impl State {
    /// Takes queries out whose clients have gone.
    fn forget_the_gone(&mut self) {
        for turn in &mut self.turns {
            turn.queries.retain(|queued| !queued.sender.is_closed());
        }
        self.turns.retain(|turn| !turn.queries.is_empty());
        self.waiting = self.turns.iter().map(|turn| turn.queries.len()).sum();
    }

    /// Takes the next query out, and puts its user at the end.
    fn next(&mut self) -> Option<Queued> {
        let mut turn = self.turns.pop_front()?;
        let query = turn.queries.pop_front();
        if !turn.queries.is_empty() {
            self.turns.push_back(turn);
        }
        self.waiting -= usize::from(query.is_some());
        query
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        let mut state = lock(&shared);
        state.running -= 1;
        while state.running < state.running_max
            && let Some(query) = state.next()
        {
            match query.sender.send(Self(Some(Arc::clone(&shared)))) {
                Ok(()) => state.running += 1,
                // Its client has gone. The permit never counted, and the lock is held.
                Err(mut unused) => unused.0 = None,
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder panics")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn users_take_turns_and_queries_keep_their_order() {
        let admission = Admission::new(1, 10);
        let running = admission.queue("ada").expect("a free place").turn().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let queries = ["ada 1", "ada 2", "ada 3", "bob 1", "eve 1", "bob 2"].map(|name| {
            let waiting = admission.queue(&name[..3]).expect("room to wait");
            let (ticket, order) = (waiting.ticket(), Arc::clone(&order));
            let mut query = Box::pin(async move {
                let permit = waiting.turn().await;
                order.lock().expect("no holder panics").push(name);
                drop(permit);
            });
            assert!(query.as_mut().now_or_never().is_none(), "{name} waits");
            (ticket, query)
        });
        let positions = queries.each_ref().map(|(ticket, _)| admission.position(*ticket).expect("it waits"));
        assert_eq!(positions, [0, 3, 5, 1, 2, 4]);
        let queries = queries.map(|(_, query)| query);
        drop(running);
        futures::future::join_all(queries).await;
        assert_eq!(*order.lock().expect("no holder panics"), ["ada 1", "bob 1", "eve 1", "ada 2", "bob 2", "ada 3"]);
    }

    #[test]
    fn one_user_leaves_places_to_wait_for_others() {
        let admission = Admission::new(1, 4);
        let queue = |user: &str| admission.queue(user);
        let held: Vec<_> = (0..3).map(|_| queue("ada").expect("one runs, and two wait")).collect();
        assert_eq!(queue("ada").err(), Some(Full { waiting: 2 }));
        let bobs: Vec<_> = (0..2).map(|_| queue("bob").expect("room for others")).collect();
        assert_eq!(queue("eve").err(), Some(Full { waiting: 4 }));
        drop((held, bobs));
    }

    #[tokio::test]
    async fn waiting_is_bounded_and_who_goes_makes_room() {
        let admission = Admission::new(2, 1);
        let now = |waiting: Waiting| waiting.turn().now_or_never().expect("a free place");
        let queue = |user: &str| admission.queue(user).expect("room");
        let (one, two) = (now(queue("ada")), now(queue("ada")));
        let waits = queue("ada");
        assert_eq!(admission.queue("bob").err(), Some(Full { waiting: 1 }));
        drop(waits);
        let mut waits = Box::pin(queue("bob").turn());
        assert!(waits.as_mut().now_or_never().is_none(), "there is room, and no permit");
        drop(one);
        let three = waits.await;
        // A permit that was sent to a query that has gone comes back.
        let gone = queue("eve");
        drop(two);
        drop(gone);
        let four = now(queue("ada"));
        assert_eq!(lock(&admission.0).running, 2);
        drop((three, four));
        assert_eq!(lock(&admission.0).running, 0);
    }
}
