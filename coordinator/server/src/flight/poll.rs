//! PollFlightInfo: a statement that is submitted, and followed until its rows are there.
//!
//! ```text
//!  PollFlightInfo(statement) ─► submitted, as over HTTP ─► PollFlightInfo(path of it), … ─► FlightInfo ─► DoGet: the kept rows
//! ```
//!
//! Commands that start nothing have their FlightInfo at once.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{Any, CommandStatementQuery, TicketStatementQuery};
use arrow_flight::{CancelStatus, FlightDescriptor, FlightEndpoint, FlightInfo, PollInfo, Ticket};
use gust_engine::events::QueryEvent;
use prost::Message;
use serde_json::json;
use tokio_util::sync::DropGuard;
use tonic::{Request, Status};

use super::rows::{Messages, kept, told};
use super::service::ticket;
use super::status::{of_error, of_failure, of_flight, of_full};
use super::{Flight, SAME_CONNECTION, bounded, principal};
use crate::http::dollars;
use crate::run::dismissed;
use crate::statements::{Ended, Entry, NotTaken, State};
use crate::tokens::Principal;

/// First part of the path of a submitted statement.
const PATH: &str = "gust-statement";

/// Longest wait of one poll.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Sign before the id of a submitted statement in the handle of a ticket. No text of SQL begins with it.
const STORED: char = '\0';

/// Returns the id of a submitted statement in a ticket's handle.
pub(super) fn stored_id(handle: &str) -> Option<&str> {
    handle.strip_prefix(STORED)
}

/// Tells if a statement that was to be cancelled has ended.
pub(super) fn state_of(state: &State) -> CancelStatus {
    match state {
        State::Ended(ended) if ended.result.is_ok() => CancelStatus::NotCancellable,
        State::Ended(_) => CancelStatus::Cancelled,
        State::Queued { .. } | State::Running { .. } => CancelStatus::Cancelling,
    }
}

fn unknown() -> Status {
    Status::not_found("there is no such statement")
}

/// Returns the id of the statement that a descriptor follows.
fn followed(descriptor: &FlightDescriptor) -> Option<&str> {
    match descriptor.path.as_slice() {
        [first, id] if descriptor.r#type == DescriptorType::Path as i32 && first == PATH => Some(id),
        _ => None,
    }
}

/// Returns the statement of a descriptor.
fn statement(descriptor: &FlightDescriptor) -> Option<CommandStatementQuery> {
    Any::decode(&*descriptor.cmd).ok()?.unpack().ok()?
}

/// Returns the share of a statement's fragments that are done.
fn progress(state: &State) -> Option<f64> {
    let (mut fragments, mut adopted) = (0_u32, 0_u32);
    for stamped in state.log()?.snapshot() {
        match stamped.event {
            QueryEvent::StageStarted { fragments: more, .. } => fragments += more,
            QueryEvent::FragmentAdopted { .. } => adopted += 1,
            QueryEvent::FragmentTakenApart { pieces, .. } => fragments = (fragments + pieces).saturating_sub(1),
            QueryEvent::FellBack { .. }
            | QueryEvent::Replanned { .. }
            | QueryEvent::Enlarged { .. }
            | QueryEvent::Restarted { .. } => (fragments, adopted) = (0, 0),
            _ => {}
        }
    }
    (fragments > 0).then(|| f64::from(adopted.min(fragments)) / f64::from(fragments))
}

impl Flight {
    /// Submits a statement, or looks at one that was submitted.
    pub(super) async fn poll(&self, request: Request<FlightDescriptor>) -> Result<PollInfo, Status> {
        let principal = principal(&request)?;
        let (entry, submitted) = match (followed(request.get_ref()), statement(request.get_ref())) {
            (Some(id), _) => (self.door.statements.get(&principal, id).ok_or_else(unknown)?, None),
            (None, Some(CommandStatementQuery { query, .. })) => {
                let asked = self.asked(&request, bounded(query)?)?;
                let entry = self.door.statements.submit(&self.door, asked, None).map_err(|why| not_taken(&why))?;
                // A client that goes before the answer never learns the statement's id.
                let submitted = entry.cancel_on_drop();
                (entry, Some(submitted))
            }
            (None, None) => {
                let info = Some(self.get_flight_info(request).await?.into_inner());
                return Ok(PollInfo { info, flight_descriptor: None, progress: Some(1.0), expiration_time: None });
            }
        };
        let state = tokio::select! {
            state = entry.wait(WAIT_MAX) => state,
            () = self.door.dismissed(&principal) => return Err(of_error(&dismissed())),
        };
        drop(submitted.map(DropGuard::disarm));
        let mut info = FlightInfo::new().with_endpoint(endpoint(&entry)).with_descriptor(request.into_inner());
        match &state {
            State::Ended(ended) => {
                let (done, rows) = ended.result.as_ref().map_err(|failure| of_failure(failure.clone()))?;
                let spool = rows.spool().map_err(|linked| of_error(&linked))?;
                let schema = spool.map_or_else(Schema::empty, |spool| spool.schema().as_ref().clone());
                let rows = spool.map_or(0, |spool| i64::try_from(spool.rows()).unwrap_or(i64::MAX));
                let columns = told(&schema)?;
                info = info.try_with_schema(&columns).map_err(of_flight)?.with_total_records(rows);
                info.app_metadata = json!({ "query_id": done.id, "cost": dollars(&done.report) }).to_string().into();
                Ok(PollInfo { info: Some(info), flight_descriptor: None, progress: Some(1.0), expiration_time: None })
            }
            State::Queued { .. } | State::Running { .. } => {
                let next = FlightDescriptor::new_path(vec![PATH.to_owned(), entry.id.clone()]);
                let progress = progress(&state);
                Ok(PollInfo { info: Some(info), flight_descriptor: Some(next), progress, expiration_time: None })
            }
        }
    }

    /// Returns the kept rows of a submitted statement, once it has ended.
    pub(super) async fn stored(&self, principal: &Principal, id: &str) -> Result<Messages, Status> {
        let ended = tokio::select! {
            ended = self.ended(principal, id) => ended?,
            () = self.door.dismissed(principal) => return Err(of_error(&dismissed())),
            () = self.door.stopping.cancelled() => return Err(Status::unavailable("the server shuts down")),
        };
        let (done, rows) = ended.result.as_ref().map_err(|failure| of_failure(failure.clone()))?;
        let spool = rows.spool().map_err(|linked| of_error(&linked))?;
        kept(&self.door, principal, done.clone(), spool.cloned()).await
    }

    /// Waits for the end of a statement. Another server may have it by now, or have ended it.
    async fn ended(&self, principal: &Principal, id: &str) -> Result<Arc<Ended>, Status> {
        loop {
            let entry = self.door.statements.get(principal, id).ok_or_else(unknown)?;
            if let State::Ended(ended) = entry.wait(WAIT_MAX).await {
                return Ok(ended);
            }
        }
    }
}

fn endpoint(entry: &Entry) -> FlightEndpoint {
    let ticket = ticket(TicketStatementQuery { statement_handle: format!("{STORED}{}", entry.id).into() });
    FlightEndpoint::new().with_ticket(Ticket::new(ticket)).with_location(SAME_CONNECTION)
}

fn not_taken(why: &NotTaken) -> Status {
    match why {
        NotTaken::Full(full) => of_full(full),
        NotTaken::TooMany(_) | NotTaken::KeyReused => Status::resource_exhausted(why.to_string()),
    }
}
