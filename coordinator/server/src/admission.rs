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
    /// Users with waiting queries, the next one first.
    turns: VecDeque<Turn>,
}

#[derive(Debug)]
struct Turn {
    user: String,
    /// The user's waiting queries, in the order in which they came.
    queries: VecDeque<oneshot::Sender<Permit>>,
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
        Self(Arc::new(Mutex::new(State { running_max, waiting_max, running: 0, waiting: 0, turns })))
    }

    /// Waits for the right to run a query of a user. Dropping the future gives the place in the queue up.
    ///
    /// # Errors
    /// [`Full`] if too many wait already.
    pub(crate) async fn enter(&self, user: &str) -> Result<Permit, Full> {
        let receiver = {
            let mut state = lock(&self.0);
            state.forget_the_gone();
            if state.running < state.running_max && state.waiting == 0 {
                state.running += 1;
                return Ok(Permit(Some(Arc::clone(&self.0))));
            }
            if state.waiting >= state.waiting_max {
                return Err(Full { waiting: state.waiting });
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting += 1;
            match state.turns.iter_mut().find(|turn| turn.user == user) {
                Some(turn) => turn.queries.push_back(sender),
                None => state.turns.push_back(Turn { user: user.to_owned(), queries: VecDeque::from([sender]) }),
            }
            receiver
        };
        Ok(receiver.await.expect("a query that waits is in the queue until it runs"))
    }
}

impl State {
    /// Takes queries out whose clients have gone.
    fn forget_the_gone(&mut self) {
        for turn in &mut self.turns {
            turn.queries.retain(|query| !query.is_closed());
        }
        self.turns.retain(|turn| !turn.queries.is_empty());
        self.waiting = self.turns.iter().map(|turn| turn.queries.len()).sum();
    }

    /// Takes the next query out, and puts its user at the end.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
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
            match query.send(Self(Some(Arc::clone(&shared)))) {
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
        let running = admission.enter("ada").await.expect("a free place");
        let order = Arc::new(Mutex::new(Vec::new()));
        let queries = ["ada 1", "ada 2", "ada 3", "bob 1", "eve 1", "bob 2"].map(|name| {
            let (admission, order) = (admission.clone(), Arc::clone(&order));
            let mut query = Box::pin(async move {
                let permit = admission.enter(&name[..3]).await.expect("room to wait");
                order.lock().expect("no holder panics").push(name);
                drop(permit);
            });
            assert!(query.as_mut().now_or_never().is_none(), "{name} waits");
            query
        });
        drop(running);
        futures::future::join_all(queries).await;
        assert_eq!(*order.lock().expect("no holder panics"), ["ada 1", "bob 1", "eve 1", "ada 2", "bob 2", "ada 3"]);
    }

    #[tokio::test]
    async fn waiting_is_bounded_and_who_goes_makes_room() {
        let admission = Admission::new(2, 1);
        let (one, two) = (admission.enter("ada").await, admission.enter("ada").await);
        let mut waits = Box::pin(admission.enter("ada"));
        assert!(waits.as_mut().now_or_never().is_none());
        assert_eq!(admission.enter("bob").await.err(), Some(Full { waiting: 1 }));
        drop(waits);
        let mut waits = Box::pin(admission.enter("bob"));
        assert!(waits.as_mut().now_or_never().is_none(), "there is room, and no permit");
        drop(one);
        let three = waits.await;
        // A permit that was sent to a query that has gone comes back.
        let mut gone = Box::pin(admission.enter("eve"));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(two);
        drop(gone);
        let four = admission.enter("ada").now_or_never().expect("a free place");
        assert_eq!(lock(&admission.0).running, 2);
        drop((three, four));
        assert_eq!(lock(&admission.0).running, 0);
    }
}
