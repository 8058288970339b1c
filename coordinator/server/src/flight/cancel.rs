//! CancelFlightInfo: streams that are under way, by the tickets that they came from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_flight::sql::{Any, CommandPreparedStatementQuery, TicketStatementQuery};
use arrow_flight::{CancelStatus, FlightInfo};
use futures::{StreamExt, stream};
use gust_engine::error::QueryError;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::poll::{state_of, stored_id};
use super::rows::Messages;
use super::status::of_error;
use super::{Flight, text};
use crate::tokens::Principal;

/// Longest wait for the end of a statement that is cancelled.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Streams under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    by_ticket: HashMap<(Principal, String), Vec<(u64, CancellationToken)>>,
}

/// Entry of one stream, which ends when it is dropped.
struct Entry {
    streams: Streams,
    key: (Principal, String),
    number: u64,
    token: CancellationToken,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, principal: &Principal, ticket: &str) -> Entry {
        let (key, token) = ((principal.clone(), ticket.to_owned()), CancellationToken::new());
        let mut entries = self.lock();
        let number = entries.next;
        entries.next += 1;
        entries.by_ticket.entry(key.clone()).or_default().push((number, token.clone()));
        drop(entries);
        Entry { streams: self.clone(), key, number, token }
    }

    /// Ends all streams of a user that came from a ticket. Returns false if there are none.
    fn cancel(&self, principal: &Principal, ticket: &str) -> bool {
        let entries = self.lock();
        let of_ticket = entries.by_ticket.get(&(principal.clone(), ticket.to_owned()));
        of_ticket.into_iter().flatten().for_each(|(_, token)| token.cancel());
        of_ticket.is_some()
    }

    /// Makes a stream that ends with an error once it is cancelled.
    pub(super) async fn of(
        &self,
        principal: &Principal,
        ticket: &str,
        starting: impl Future<Output = Result<Messages, Status>>,
    ) -> Result<Messages, Status> {
        let entry = self.begin(principal, ticket);
        let messages = tokio::select! {
            biased;
            () = entry.token.cancelled() => return Err(cancelled()),
            messages = starting => messages?,
        };
        let cancelable = stream::unfold(Some((messages, entry)), |state| async move {
            let (mut messages, entry) = state?;
            tokio::select! {
                biased;
                // The query ends with its stream.
                () = entry.token.cancelled() => Some((Err(cancelled()), None)),
                message = messages.next() => message.map(|message| (message, Some((messages, entry)))),
            }
        });
        Ok(cancelable.boxed())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut entries = self.streams.lock();
        if let Some(of_ticket) = entries.by_ticket.get_mut(&self.key) {
            of_ticket.retain(|(number, _)| *number != self.number);
            if of_ticket.is_empty() {
                entries.by_ticket.remove(&self.key);
            }
        }
    }
}

fn cancelled() -> Status {
    of_error(&QueryError::interrupted())
}

/// Returns the handle of a ticket.
fn handle(ticket: &[u8]) -> Option<String> {
    let ticket = Any::decode(ticket).ok()?;
    if let Ok(Some(TicketStatementQuery { statement_handle })) = ticket.unpack() {
        return text(statement_handle).ok();
    }
    let prepared: CommandPreparedStatementQuery = ticket.unpack().ok()??;
    text(prepared.prepared_statement_handle).ok()
}

impl Flight {
    /// Cancels what a FlightInfo leads to.
    ///
    /// # Errors
    /// NOT_FOUND if nothing of the user's is under way by its tickets.
    pub(super) async fn cancel(&self, principal: &Principal, info: &FlightInfo) -> Result<CancelStatus, Status> {
        let tickets = info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.as_ref());
        let mut found = None;
        for handle in tickets.filter_map(|ticket| handle(&ticket.ticket)) {
            if let Some(entry) = stored_id(&handle).and_then(|id| self.door.statements.get(principal, id)) {
                self.door.cancel(&entry).await;
                found = Some(state_of(&entry.wait(WAIT_MAX).await));
            } else if self.streams.cancel(principal, &handle) {
                found = Some(CancelStatus::Cancelled);
            }
        }
        found.ok_or_else(|| Status::not_found("nothing is under way by the tickets of this FlightInfo"))
    }
}
