//! Memory for which planned statements wait.
//!
//! Each running query is sure of an even share of half of the memory. One that is expected to need more claims the rest of it from
//! the other half, before it begins, and waits in turn while others have that. It keeps its place among the running ones meanwhile.
//!
//! A client of several statements reads one at a time. Where one of them keeps memory until it is read on, nobody waits for that client's own: [`Claims`].

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::session::{ClaimedMemory, MemoryGate};
use tokio::sync::watch;
use uuid::Uuid;

use crate::admission::{Admission, Permit, Ticket, Waiting};
use crate::run::TOO_MANY;

/// Makes the memory of so many bytes that belong to no query's share. Those that wait for it have a place to run, so that their number
/// is bounded.
pub(crate) fn unshared(bytes: usize) -> Admission {
    Admission::new(bytes, usize::MAX).with_user_max(bytes)
}

/// Statements of one connection that have claimed memory and are not closed. Clones share them.
///
/// While there are some, no statement of the connection waits for a place or for memory: those who have these may wait for memory that the
/// connection keeps until its client reads on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(watch::Sender<HashSet<Uuid>>);

impl Claims {
    /// Makes the part of a statement, which has claimed nothing.
    pub(crate) fn claimant(&self) -> Claimant {
        Claimant { claims: self.clone(), statement: Uuid::now_v7() }
    }

    /// Waits until a statement has claimed memory.
    pub(crate) async fn some(&self) {
        let mut claimants = self.0.subscribe();
        // There is a sender as long as it is waited for.
        drop(claimants.wait_for(|claimants| !claimants.is_empty()).await);
    }

    /// Waits for the turn of a statement that has claimed nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Resources`] where it has to wait, and another statement has claimed memory.
    pub(crate) async fn turn(&self, waiting: Waiting) -> Result<Permit, QueryError> {
        tokio::select! {
            biased;
            permit = waiting.turn() => Ok(permit),
            () = self.some() => {
                let message = "a portal of this connection keeps memory, so that no other statement of it waits for its turn";
                let refused = QueryError::new(ErrorKind::Resources, message).with_sqlstate(TOO_MANY);
                Err(refused.with_hint("read that portal to its end or close it, or use another connection"))
            }
        }
    }
}

/// Statement among those of its connection.
#[derive(Debug, Clone)]
pub(crate) struct Claimant {
    claims: Claims,
    statement: Uuid,
}

impl Claimant {
    fn claimed(&self) {
        self.claims.0.send_modify(|claimants| {
            claimants.insert(self.statement);
        });
    }

    /// Tells that the statement is closed, or has given its memory back.
    pub(crate) fn closed(&self) {
        self.claims.0.send_modify(|claimants| {
            claimants.remove(&self.statement);
        });
    }
}

/// Memory of a statement, with its claim among those of its connection.
struct Claimed {
    claimant: Option<Claimant>,
    _permit: Permit,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some(claimant) = &self.claimant {
            claimant.closed();
        }
    }
}

/// Ticket of a statement while it waits for memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryWait(Arc<Mutex<Option<Ticket>>>);

impl MemoryWait {
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        *self.0.lock().expect("no holder panics")
    }

    fn set(&self, ticket: Option<Ticket>) {
        *self.0.lock().expect("no holder panics") = ticket;
    }
}

/// A ticket that is shown, until its claim has its turn or is given up.
#[derive(Debug)]
struct Shown(MemoryWait);

impl Shown {
    fn of(wait: &MemoryWait, ticket: Ticket) -> Self {
        wait.set(Some(ticket));
        Self(wait.clone())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// Gate of one statement.
#[derive(Debug)]
pub(crate) struct Gate {
    memory: Admission,
    user: String,
    /// Part of a statement of a connection that may have several.
    claimant: Option<Claimant>,
    /// Place of the ticket while the statement waits: once it is planned, and once it is planned again.
    wait: MemoryWait,
}

impl Gate {
    /// Makes the gate of a user's statement.
    pub(crate) fn of(memory: &Admission, user: &str, claimant: Option<Claimant>, wait: MemoryWait) -> Arc<Self> {
        Arc::new(Self { memory: memory.clone(), user: user.to_owned(), claimant, wait })
    }

    async fn turn(&self, waiting: Waiting) -> Result<Permit, QueryError> {
        match &self.claimant {
            Some(claimant) => claimant.claims.turn(waiting).await,
            None => Ok(waiting.turn().await),
        }
    }
}

impl MemoryGate for Gate {
    fn claim(&self, bytes: u64) -> BoxFuture<'_, Result<ClaimedMemory, QueryError>> {
        async move {
            let weight = usize::try_from(bytes).unwrap_or(usize::MAX);
            let waiting = self.memory.queue_of(&self.user, weight).map_err(|full| {
                QueryError::new(ErrorKind::Resources, full.to_string())
                    .with_sqlstate(TOO_MANY)
                    .with_hint("ask again later")
            })?;
            let shown = self.memory.place(waiting.ticket()).map(|_| Shown::of(&self.wait, waiting.ticket()));
            let turn = self.turn(waiting).await;
            drop(shown);
            let permit = turn?;
            let claimant = self.claimant.clone();
            if let Some(claimant) = &claimant {
                claimant.claimed();
            }
            let claimed: ClaimedMemory = Box::new(Claimed { claimant, _permit: permit });
            Ok(claimed)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_statement_shows_its_ticket_while_it_waits_for_memory() {
        let memory = unshared(10);
        let [first_wait, second_wait] = [MemoryWait::default(), MemoryWait::default()];
        let gate = |wait: &MemoryWait| Gate::of(&memory, "ada", None, wait.clone());
        let (first, second) = (gate(&first_wait), gate(&second_wait));
        let claimed = first.claim(8).await.expect("nobody else wants some");
        assert_eq!(first_wait.ticket(), None);
        let mut waiting = second.claim(8);
        assert!(waiting.as_mut().now_or_never().is_none(), "two do not fit");
        let ticket = second_wait.ticket().expect("it waits");
        assert_eq!(memory.place(ticket).expect("its place").position, 0);
        drop(waiting);
        assert_eq!(second_wait.ticket(), None, "it was given up");
        let mut waiting = second.claim(8);
        assert!(waiting.as_mut().now_or_never().is_none(), "two do not fit");
        assert!(second_wait.ticket().is_some(), "it waits once more");
        drop(claimed);
        drop(waiting.await.expect("its turn"));
        assert_eq!((second_wait.ticket(), memory.counts()), (None, (0, 0)));
    }

    #[tokio::test]
    async fn who_keeps_memory_does_not_wait_beside_it() {
        let (memory, claims) = (unshared(10), Claims::default());
        let places = Admission::new(1, 10);
        let queued = || places.queue("ada").expect("room");
        let (one, two) = (queued(), queued());
        let (of_one, of_two) = (claims.claimant(), claims.claimant());
        let gate = |claimant: &Claimant| Gate::of(&memory, "ada", Some(claimant.clone()), MemoryWait::default());
        let other = Gate::of(&memory, "bob", None, MemoryWait::default());
        let (first, second) = (gate(&of_one), gate(&of_two));
        // Nobody keeps memory: it is waited for.
        let held = other.claim(8).await.expect("nobody else wants some");
        let mut waiting = second.claim(8);
        assert!(waiting.as_mut().now_or_never().is_none(), "two do not fit");
        drop(held);
        drop(waiting.await.expect("its turn"));
        let _place = claims.turn(one).await.expect("there is one");
        let kept = first.claim(6).await.expect("it is free");
        for (what, refused) in [("memory", second.claim(8).await.err()), ("a place", claims.turn(two).await.err())] {
            let error = refused.unwrap_or_else(|| panic!("{what} is not free"));
            assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Resources, TOO_MANY), "{what}");
        }
        drop(second.claim(4).await.expect("it is free"));
        // A portal that is closed keeps its memory until its work has ended, which is waited for.
        of_one.closed();
        let mut waiting = second.claim(8);
        assert!(waiting.as_mut().now_or_never().is_none(), "it is not given back yet");
        drop(kept);
        drop(waiting.await.expect("its turn"));
        assert_eq!(memory.counts(), (0, 0));
    }
}
