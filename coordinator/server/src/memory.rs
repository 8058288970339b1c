//! Memory for which planned statements wait.
//!
//! Each running query is sure of an even share of half of the memory. One that is expected to need more claims the rest of it from
//! the other half, before it begins, and waits in turn while others have that. It keeps its place among the running ones meanwhile.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::session::{ClaimedMemory, MemoryGate};
use tokio::sync::watch;

use crate::admission::{Admission, Ticket};
use crate::run::TOO_MANY;

/// Makes the memory of so many bytes that belong to no query's share. Those that wait for it have a place to run, so that their number
/// is bounded.
pub(crate) fn unshared(bytes: usize) -> Admission {
    Admission::new(bytes, usize::MAX).with_user_max(bytes)
}

/// Gate of one statement.
#[derive(Debug)]
pub(crate) struct Gate {
    memory: Admission,
    user: String,
    /// Ticket of the statement while it waits.
    waits: watch::Sender<Option<Ticket>>,
}

impl Gate {
    /// Makes the gate of a user's statement. The receiver has its ticket while it waits.
    pub(crate) fn of(memory: &Admission, user: &str) -> (Arc<Self>, watch::Receiver<Option<Ticket>>) {
        let (waits, receiver) = watch::channel(None);
        (Arc::new(Self { memory: memory.clone(), user: user.to_owned(), waits }), receiver)
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
            if self.memory.place(waiting.ticket()).is_none() {
                let claimed: ClaimedMemory = Box::new(waiting.turn().await);
                return Ok(claimed);
            }
            self.waits.send_replace(Some(waiting.ticket()));
            let claimed: ClaimedMemory = Box::new(waiting.turn().await);
            self.waits.send_replace(None);
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
        let ((first, first_waits), (second, second_waits)) = (Gate::of(&memory, "ada"), Gate::of(&memory, "ada"));
        let claimed = first.claim(8).await.expect("nobody else wants some");
        assert_eq!(*first_waits.borrow(), None);
        let mut waiting = second.claim(8);
        assert!(waiting.as_mut().now_or_never().is_none(), "two do not fit");
        let ticket = second_waits.borrow().expect("it waits");
        assert_eq!(memory.place(ticket).expect("its place").position, 0);
        drop(claimed);
        drop(waiting.await.expect("its turn"));
        assert_eq!((*second_waits.borrow(), memory.counts()), (None, (0, 0)));
    }
}
