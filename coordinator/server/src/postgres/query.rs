//! A statement on its way: a task runs it, and its batches wait here for the client.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::report::Report;
use gust_engine::session::{Recorder, RunningStatement, Session, Statement};
use gust_output::{OutputError, StreamError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

use super::watch::{Stop, Watch};
use crate::admission::{Full, Permit};
use crate::door::{Door, PLANNING_TIME_MAX};
use crate::memory::{Claimant, Claims};
use crate::run::{Done, Failure, Sink, carry_out, dismissed, spawn};
use crate::tokens::Principal;

/// Batches between the query and the client. A client that reads slowly holds the query up.
const BATCHES_QUEUED_MAX: usize = 2;

/// Time between two looks for those who wait for memory.
const MEMORY_LOOK: Duration = Duration::from_millis(50);

/// SQLSTATE code of PostgreSQL for a server that takes no more queries.
const TOO_MANY: &str = "53300";

/// Part of a statement. The last one is its end.
#[derive(Debug)]
pub(super) enum Part {
    Started { schema: SchemaRef, is_silent: bool },
    Rows(RecordBatch),
    Ended(Result<Box<Report>, QueryError>),
}

/// Statement that runs. It is cancelled when it is dropped.
#[derive(Debug)]
pub(super) struct Query {
    parts: mpsc::Receiver<Part>,
    right: Arc<Right>,
    claims: Claims,
    claimant: Claimant,
}

impl Drop for Query {
    fn drop(&mut self) {
        // Others of the connection may wait for what its task gives back.
        self.claimant.closed();
    }
}

/// Right of a statement to run, which its connection and its task share. A statement that computes holds its permit.
#[derive(Debug)]
struct Right {
    state: Mutex<State>,
    /// The permit was taken again.
    taken: Notify,
}

#[derive(Debug)]
struct State {
    permit: Option<Permit>,
    /// Its client does something else.
    is_suspended: bool,
    /// Its batches wait for the client.
    is_held_up: bool,
    has_ended: bool,
}

impl Right {
    fn new(permit: Permit) -> Self {
        let state = State { permit: Some(permit), is_suspended: false, is_held_up: false, has_ended: false };
        Self { state: Mutex::new(state), taken: Notify::new() }
    }

    /// Changes the state, and gives the permit up where nothing computes until the client comes back. Returns true if the
    /// statement has the right to run, or needs none.
    fn change(&self, change: impl FnOnce(&mut State)) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if state.has_ended || (state.is_suspended && state.is_held_up) {
            state.permit = None;
        }
        state.has_ended || state.permit.is_some()
    }

    /// Waits for the right to run, if it was given up. Where both sides wait, one takes it for both. A client's side does not wait for a place
    /// while somebody waits for memory beside claims of its connection: who has the places may wait for these.
    async fn take_again(&self, door: &Door, principal: &Principal, beside: Option<&Claims>) -> Result<(), QueryError> {
        while !self.change(|_| {}) {
            let is_wanted = async {
                match beside {
                    Some(claims) => memory_is_wanted(door, claims).await,
                    None => std::future::pending().await,
                }
            };
            let permit = tokio::select! {
                biased;
                () = is_wanted => door.admission.overrun(principal.user.as_deref().unwrap_or_default()),
                permit = turn(door, principal, None) => permit?,
                () = self.taken.notified() => continue,
            };
            self.change(|state| state.permit = Some(permit));
            self.taken.notify_one();
            return Ok(());
        }
        Ok(())
    }
}

/// Waits until somebody waits for memory, while a connection has claimed some.
async fn memory_is_wanted(door: &Door, claims: &Claims) {
    loop {
        claims.some().await;
        if door.memory.counts().1 > 0 {
            return;
        }
        tokio::time::sleep(MEMORY_LOOK).await;
    }
}

impl Query {
    /// Waits for a statement's turn, and starts it in a task of its own.
    ///
    /// # Errors
    /// Too many statements wait already, or one of the connection's keeps memory.
    pub(super) async fn start(
        door: &Arc<Door>,
        principal: &Principal,
        session: &Session,
        statement: Statement,
        claims: &Claims,
    ) -> Result<Self, QueryError> {
        let right = Arc::new(Right::new(turn(door, principal, Some(claims)).await?));
        let claimant = claims.claimant();
        let (sender, parts) = mpsc::channel(BATCHES_QUEUED_MAX);
        let recorder = Recorder::new(session.clone());
        let (of_task, of_user, held) = (Arc::clone(door), principal.clone(), Arc::clone(&right));
        let told = claimant.clone();
        spawn(door, async move {
            let right = Arc::clone(&held);
            let mut batches =
                Batches { sender, right, claimant: told, door: Arc::clone(&of_task), principal: of_user.clone() };
            let ended = Box::pin(carry_out(&of_task, &of_user, &recorder, statement, &mut batches)).await;
            // The next query may begin before this client has read its last rows.
            held.change(|state| state.has_ended = true);
            let ended = match ended {
                Ok(Done { report, .. }) => Ok(report),
                Err(Failure { error, .. }) => Err(error),
            };
            // Nobody reads it where the client has gone.
            drop(batches.sender.send(Part::Ended(ended)).await);
        });
        Ok(Self { parts, right, claims: claims.clone(), claimant })
    }

    /// Returns the next part.
    pub(super) async fn next(&mut self) -> Part {
        let fault = || QueryError::new(ErrorKind::Data, "the statement ended without an answer").with_sqlstate("XX000");
        self.parts.recv().await.unwrap_or_else(|| Part::Ended(Err(fault())))
    }

    /// Tells that the client does something else. The right to run is given up once the query's batches wait.
    pub(super) fn suspend(&self) {
        self.right.change(|state| state.is_suspended = true);
    }

    /// Takes the right to run again, if it was given up. It waits for it, unless others wait for memory that its connection keeps.
    ///
    /// # Errors
    /// Too many statements wait already.
    pub(super) async fn resume(&self, door: &Door, principal: &Principal) -> Result<(), QueryError> {
        self.right.change(|state| state.is_suspended = false);
        self.right.take_again(door, principal, Some(&self.claims)).await
    }
}

/// Makes the error of a statement that finds too many waiting.
fn busy(why: &Full) -> QueryError {
    QueryError::new(ErrorKind::Resources, why.to_string()).with_sqlstate(TOO_MANY).with_hint("try again later")
}

/// Does what plans or lists, in its user's turn, unless the statement ends before or takes too long. The turn ends with the work, and with
/// threads that hold it.
pub(super) async fn in_turn<T, W: Future<Output = Result<T, QueryError>>>(
    door: &Door,
    principal: &Principal,
    watch: &Watch,
    work: impl FnOnce(Arc<Permit>) -> W,
) -> Result<Result<T, QueryError>, Stop> {
    let planned = async {
        let queued = door.planning.queue(principal.user.as_deref().unwrap_or_default());
        let turn = Arc::new(queued.map_err(|full| busy(&full))?.turn().await);
        let planned = tokio::time::timeout(PLANNING_TIME_MAX, work(Arc::clone(&turn))).await;
        planned.unwrap_or_else(|_| Err(QueryError::timed_out(PLANNING_TIME_MAX)))
    };
    watch.over(planned).await
}

async fn turn(door: &Door, principal: &Principal, claims: Option<&Claims>) -> Result<Permit, QueryError> {
    let queued = door.admission.queue(principal.user.as_deref().unwrap_or_default());
    let waiting = queued.map_err(|full| busy(&full))?;
    let turn = async {
        match claims {
            Some(claims) => claims.turn(waiting).await,
            None => Ok(waiting.turn().await),
        }
    };
    tokio::select! {
        permit = turn => permit,
        () = door.dismissed(principal) => Err(dismissed()),
    }
}

/// Sink whose rows wait for the client as they are.
struct Batches {
    sender: mpsc::Sender<Part>,
    right: Arc<Right>,
    claimant: Claimant,
    door: Arc<Door>,
    principal: Principal,
}

impl Batches {
    async fn send(&self, part: Part) -> Result<(), StreamError<QueryError>> {
        let part = match self.sender.try_send(part) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(OutputError::ReaderGone.into()),
            Err(TrySendError::Full(part)) => part,
        };
        self.right.change(|state| state.is_held_up = true);
        self.sender.send(part).await.map_err(|_| StreamError::from(OutputError::ReaderGone))?;
        self.right.change(|state| state.is_held_up = false);
        // Its client may have turned away in between.
        self.right.take_again(&self.door, &self.principal, None).await.map_err(StreamError::Query)
    }

    async fn send_all(&self, running: &mut RunningStatement) -> Result<u64, StreamError<QueryError>> {
        let mut rows = 0;
        while let Some(batch) = running.next().await.map_err(StreamError::Query)? {
            rows += batch.num_rows() as u64;
            self.send(Part::Rows(batch)).await?;
        }
        Ok(rows)
    }
}

impl Sink for Batches {
    async fn take(&mut self, running: &mut RunningStatement) -> Result<u64, StreamError<QueryError>> {
        let (schema, is_silent) = (running.schema().clone(), running.is_silent());
        self.send(Part::Started { schema, is_silent }).await?;
        // A client that does not read must not outlive the statement's time-out either.
        let sent = tokio::time::timeout_at(running.deadline().into(), self.send_all(running)).await;
        sent.unwrap_or_else(|_| Err(StreamError::Query(running.timed_out())))
    }

    fn claimant(&self) -> Option<Claimant> {
        Some(self.claimant.clone())
    }

    fn unwanted(&self) -> BoxFuture<'static, ()> {
        let parts = self.sender.clone();
        async move { parts.closed().await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use gust_engine::config::{Config, Target};
    use gust_engine::session::MemoryGate;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::door::Purpose;
    use crate::memory::{Gate, MemoryWait};

    async fn door(queries_max: u32) -> Door {
        let mut config = Config { on: Target::Local, ..Config::default() };
        config.history.enabled = false;
        config.server.queries_max = queries_max;
        Door::open(config, None, None, None, &[], Purpose::Serve).await.expect("a door")
    }

    fn user(name: &str) -> Principal {
        Principal { user: Some(name.to_owned()), ..Principal::default() }
    }

    fn watch() -> Watch {
        let token = CancellationToken::new;
        Watch { cancelled: token(), gone: token(), stopping: token(), timeout: None }
    }

    #[test]
    fn a_turn_to_plan_ends_after_its_time_and_with_its_threads() {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let (door, ada, watch) = (runtime.block_on(door(8)), user("ada"), watch());
        let mut of_thread = None;
        let endless = in_turn(&door, &ada, &watch, |turn| {
            of_thread = Some(turn);
            std::future::pending::<Result<(), QueryError>>()
        });
        let hurrying = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let ended = hurrying.expect("a thread").block_on(endless).expect("it is not cancelled");
        assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
        assert_eq!(door.planning.counts(), (1, 0), "a thread plans on");
        drop(of_thread);
        assert_eq!(door.planning.counts(), (0, 0));
        runtime.block_on(door.close());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_portal_passes_by_the_places_only_while_memory_is_wanted() {
        let (door, ada, claims) = (door(1).await, user("ada"), Claims::default());
        let gate = Gate::of(&door.memory, "ada", Some(claims.claimant()), MemoryWait::default());
        let kept = gate.claim(u64::MAX).await.expect("nobody else wants some");
        let place = door.admission.take("bob").expect("the only one");
        let state = State { permit: None, is_suspended: false, is_held_up: true, has_ended: false };
        let right = Right { state: Mutex::new(state), taken: Notify::new() };
        let mut again = Box::pin(right.take_again(&door, &ada, Some(&claims)));
        let early = tokio::time::timeout(MEMORY_LOOK * 4, again.as_mut()).await;
        assert!(early.is_err(), "nobody waits for its memory");
        assert_eq!(door.admission.counts(), (1, 1), "it waits in turn");
        let wanted = door.memory.queue("bob").expect("room");
        again.await.expect("it goes on");
        assert_eq!(door.admission.counts(), (2, 0));
        drop((wanted, kept, place, right));
        assert_eq!(door.admission.counts(), (0, 0));
        door.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_user_leaves_a_turn_to_plan_for_others() {
        let door = door(8).await;
        let (ada, bob, watch) = (user("ada"), user("bob"), watch());
        let endless = || in_turn(&door, &ada, &watch, |_| std::future::pending::<Result<(), QueryError>>());
        let mut hers: Vec<_> = (0..1_000).map(|_| Box::pin(endless())).collect();
        for planning in &mut hers {
            assert!(planning.as_mut().now_or_never().is_none(), "it is endless");
        }
        let (running, waiting) = door.planning.counts();
        assert_eq!(running + waiting, hers.len());
        assert!(running > 0 && waiting > 0, "{running} are planned, {waiting} wait");
        let his = in_turn(&door, &bob, &watch, |_| std::future::ready(Ok(7))).await;
        assert_eq!(his.ok().and_then(Result::ok), Some(7), "there is a turn for others");
        watch.cancelled.cancel();
        assert!(hers.pop().expect("one of them").await.is_err(), "its client has cancelled it");
        hers.clear();
        assert_eq!(door.planning.counts(), (0, 0));
        door.close().await;
    }
}
