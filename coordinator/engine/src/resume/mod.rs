//! Work of a query that another coordinator can go on with.
//!
//! ```text
//!  coordinator ─► WorkLog ─► WorkDone, WorkDone, … ─► journal ┄┄ kill -9 ┄┄► Inherited ─► WorkLog ─► another coordinator
//!                 (results by the digest of their requests, attempts and their bills, time)
//! ```
//!
//! The other coordinator plans the query anew. A fragment is not run again where its request is the same: the same plan over the same
//! parts of the same files, by the same protocol. The result then is what the fragment would bring. So it does not matter whether the
//! second plan is the first one: each fragment that differs is run.
//!
//! Attempts of the earlier coordinator count in the report and in the bill. One that had not ended counts at its bound. What began after
//! the last note is not known, and the bill says so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{Fragment, FragmentId, FragmentResult, Input, StagePlan, Usage};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::attempt::{Billing, billed_max};
use crate::cost::Tariff;
use crate::events::{AttemptCause, AttemptOutcome, EventLog, QueryEvent, StampedEvent};
use crate::model::PackedAs;
use crate::model::load::OwnUsage;
use crate::money::Money;
use crate::report::spent_until_now;
use crate::scheduler::AttemptResult;
use crate::storage::Stores;
use crate::tables::pins::{Pins, Snapshots};

/// Bytes of results of one query that are noted. Others are made anew.
const RESULTS_BYTES_MAX: usize = 64 << 20;

/// Attempt numbers of each coordinator, so that two never write one object.
const NUMBERS: u32 = 1 << 24;

/// Work that was done since the last note.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkDone {
    /// Time from the query's start until the note, without the time in which no coordinator had it.
    pub elapsed: Duration,
    /// Storage use of the coordinator itself until the note.
    pub coordinator: Usage,
    /// Part of it that is billed.
    #[serde(default)]
    pub coordinator_billed: Usage,
    pub attempts: Vec<AttemptNote>,
    pub results: Vec<SavedResult>,
    pub terms: PlanTerms,
}

/// Terms on which a query was planned, so that it is planned alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanTerms {
    /// Time that `now()` has.
    now: Option<DateTime<Utc>>,
    /// Snapshots of Iceberg tables.
    snapshots: Snapshots,
    packed: Option<PackedAs>,
}

/// An attempt's beginning or end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptNote {
    Started {
        at: Duration,
        stage: u32,
        index: u32,
        attempt: u32,
        cause: AttemptCause,
        time: Duration,
    },
    Ended {
        at: Duration,
        stage: u32,
        index: u32,
        attempt: u32,
        outcome: Box<AttemptOutcome>,
        billing: Billing,
        wall: Duration,
    },
}

/// Result of a fragment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedResult {
    pub request: RequestDigest,
    pub attempt: u32,
    pub result: FragmentResult,
}

/// Digest of what makes a fragment's rows: protocol, plan, files and their parts, rows of other stages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestDigest(String);

/// Digest of what all fragments of a stage have in common. Rows that all get may be in it, so that it is made once.
#[derive(Debug)]
pub struct StageDigest([u8; 32]);

impl StageDigest {
    /// Makes the digest of a stage. None for one that cannot be encoded.
    pub fn of(stage: &StagePlan) -> Option<Self> {
        let encoded = serde_json::to_vec(&(PROTOCOL_VERSION, fingerprint(), stage)).ok()?;
        Some(Self(Sha256::digest(encoded).into()))
    }
}

impl RequestDigest {
    /// Makes the digest of a fragment's request. Limits, credentials, footers and their lengths change no row and are left out.
    /// None for one that cannot be encoded.
    pub fn of(stage: &StageDigest, fragment: Fragment) -> Option<Self> {
        let Fragment { id, mut inputs, parts, limits: _ } = fragment;
        for (_, Input::Scan(scan)) in &mut inputs {
            for unit in scan.lanes.iter_mut().flatten() {
                (unit.footer, unit.file.footer_bytes) = (None, None);
            }
        }
        let encoded = serde_json::to_vec(&(stage.0, id, inputs, parts)).ok()?;
        Some(Self(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(encoded))))
    }
}

/// Work of earlier coordinators.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    /// Coordinators that had the query before.
    takeovers: u32,
    elapsed: Duration,
    /// Attempts and reads of theirs.
    events: Vec<StampedEvent>,
    results: HashMap<RequestDigest, SavedResult>,
    terms: PlanTerms,
}

impl Inherited {
    /// Folds the notes of each earlier coordinator, in their order.
    pub fn of(query: &str, coordinators: impl IntoIterator<Item = Vec<WorkDone>>) -> Self {
        let mut inherited = Self::default();
        for notes in coordinators {
            inherited.takeovers += 1;
            inherited.add(query, notes);
        }
        inherited
    }

    fn add(&mut self, query: &str, notes: Vec<WorkDone>) {
        let mut open = HashMap::<(u32, u32, u32), (Duration, Duration)>::new();
        let (mut coordinator, mut billed) = (Usage::default(), Usage::default());
        for WorkDone { elapsed, coordinator: used, coordinator_billed, attempts, results, terms } in notes {
            self.terms = terms;
            self.elapsed = self.elapsed.max(elapsed);
            (coordinator, billed) = (used, coordinator_billed);
            for note in attempts {
                match note {
                    AttemptNote::Started { at, stage, index, attempt, time, .. } => {
                        open.insert((stage, index, attempt), (at, time));
                    }
                    AttemptNote::Ended { stage, index, attempt, .. } => {
                        open.remove(&(stage, index, attempt));
                    }
                }
                self.events.push(note.stamped(query));
            }
            self.results.extend(results.into_iter().map(|saved| (saved.request.clone(), saved)));
        }
        let at = self.elapsed;
        // Nobody hears of them any more.
        for ((stage, index, attempt), (begun, time)) in open {
            let billing = Billing::Bounded { at_most: billed_max(time) };
            let (outcome, wall) = (Box::new(AttemptOutcome::Cancelled), at.saturating_sub(begun));
            let ended = AttemptNote::Ended { at, stage, index, attempt, outcome, billing, wall };
            self.events.push(ended.stamped(query));
        }
        self.events.push(StampedEvent { at, event: QueryEvent::CoordinatorRead { usage: coordinator, billed } });
    }
}

impl AttemptNote {
    fn stamped(self, query: &str) -> StampedEvent {
        let id = |stage, index| FragmentId { query: query.to_owned(), stage, index };
        match self {
            Self::Started { at, stage, index, attempt, cause, time } => {
                StampedEvent { at, event: QueryEvent::AttemptStarted { id: id(stage, index), attempt, cause, time } }
            }
            Self::Ended { at, stage, index, attempt, outcome, billing, wall } => {
                let (id, outcome) = (id(stage, index), *outcome);
                StampedEvent { at, event: QueryEvent::AttemptEnded { id, attempt, outcome, billing, wall } }
            }
        }
    }

    /// Makes the note of an event; None of one that is no attempt's.
    fn of(StampedEvent { at, event }: StampedEvent) -> Option<Self> {
        match event {
            QueryEvent::AttemptStarted { id, attempt, cause, time } => {
                Some(Self::Started { at, stage: id.stage, index: id.index, attempt, cause, time })
            }
            QueryEvent::AttemptEnded { id, attempt, mut outcome, billing, wall } => {
                if let AttemptOutcome::InvokeFailed { log_tail, .. } = &mut outcome {
                    log_tail.clear();
                }
                let (stage, index, outcome) = (id.stage, id.index, Box::new(outcome));
                Some(Self::Ended { at, stage, index, attempt, outcome, billing, wall })
            }
            _ => None,
        }
    }
}

/// Work of one query, as it is done and noted.
#[derive(Debug)]
pub struct WorkLog {
    id: String,
    takeovers: u32,
    elapsed: Duration,
    /// Events of earlier coordinators.
    events: Vec<StampedEvent>,
    pins: Arc<Pins>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Results of earlier coordinators that nobody has used.
    inherited: HashMap<RequestDigest, SavedResult>,
    /// Results that are not noted.
    fresh: VecDeque<SavedResult>,
    /// Bytes of all results of this query that have been taken up.
    results_bytes: usize,
    /// Sources of the notes, once the query is on its way.
    sources: Option<Sources>,
    now: Option<DateTime<Utc>>,
    packed: Option<PackedAs>,
    held: Held,
}

/// Holder of a query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Held {
    #[default]
    Ours,
    /// Another coordinator may still take it over.
    Perhaps,
    /// Another coordinator has it.
    Disowned,
}

#[derive(Debug)]
struct Sources {
    events: EventLog,
    /// Number of the first event that is not noted.
    next: usize,
    stores: Stores,
}

impl WorkLog {
    /// Makes the log of a query with this id.
    pub fn new(id: String, inherited: Inherited) -> Arc<Self> {
        let Inherited { takeovers, elapsed, events, results, terms } = inherited;
        let PlanTerms { now, snapshots, packed } = terms;
        let pins = Arc::new(Pins::new(snapshots));
        let state = Mutex::new(State { inherited: results, now, packed, ..State::default() });
        Arc::new(Self { id, takeovers, elapsed, events, pins, state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns true if another coordinator began the query.
    pub fn is_inherited(&self) -> bool {
        self.takeovers > 0
    }

    /// Returns the number of coordinators that had the query before.
    pub fn takeovers(&self) -> u32 {
        self.takeovers
    }

    /// Returns the snapshots that the query reads.
    pub(crate) fn pins(&self) -> Arc<Pins> {
        Arc::clone(&self.pins)
    }

    /// Returns the time that `now()` has in the query.
    pub(crate) fn now(&self) -> Option<DateTime<Utc>> {
        self.lock().now
    }

    /// Returns the packing of earlier coordinators.
    pub(crate) fn packed(&self) -> Option<PackedAs> {
        self.lock().packed.filter(|_| self.is_inherited())
    }

    /// Notes the packing of the query's first run.
    pub(crate) fn is_packed(&self, packed: PackedAs) {
        self.lock().packed.get_or_insert(packed);
    }

    /// Returns the number of the first attempt at each fragment.
    pub(crate) fn first_attempt(&self) -> u32 {
        self.takeovers.saturating_mul(NUMBERS)
    }

    /// Opens the query's event log, which begins with what earlier coordinators did.
    pub(crate) fn open_events(&self, stores: &Stores) -> EventLog {
        let events = EventLog::resumed(self.events.clone(), self.elapsed);
        if self.is_inherited() {
            events.push(QueryEvent::TakenOver { takeovers: self.takeovers });
        }
        let next = events.len();
        let mut state = self.lock();
        state.now.get_or_insert_with(Utc::now);
        state.sources = Some(Sources { events: events.clone(), next, stores: stores.clone() });
        events
    }

    /// Returns the money that earlier coordinators have spent, without the time of their machines.
    pub(crate) fn inherited_money(&self, tariff: &Tariff) -> Money {
        spent_until_now(&self.events, tariff)
    }

    /// Returns the result that an earlier coordinator had of such a request, once.
    pub(crate) fn inherit(&self, request: &RequestDigest) -> Option<AttemptResult> {
        let SavedResult { attempt, result, .. } = self.lock().inherited.remove(request)?;
        Some(AttemptResult { result, attempt })
    }

    /// Notes a result, as long as there is room for it.
    pub(crate) fn note(&self, request: RequestDigest, adopted: &AttemptResult) {
        let mut state = self.lock();
        let bytes = state.results_bytes + adopted.result.inline_bytes().unwrap_or_default();
        if bytes <= RESULTS_BYTES_MAX {
            state.results_bytes = bytes;
            let AttemptResult { result, attempt } = adopted;
            state.fresh.push_back(SavedResult { request, attempt: *attempt, result: result.clone() });
        }
    }

    /// Takes the work that is not noted yet, results of about so many bytes at most; None if there is none.
    pub fn take(&self, bytes_max: usize) -> Option<WorkDone> {
        let mut state = self.lock();
        let mut results = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(saved) = state.fresh.pop_front()
        {
            bytes += saved.result.inline_bytes().unwrap_or_default();
            results.push(saved);
        }
        let terms = PlanTerms { now: state.now, snapshots: self.pins.seen(), packed: state.packed };
        let Sources { events, next, stores } = state.sources.as_mut()?;
        let new = events.since(*next);
        *next += new.len();
        let attempts: Vec<AttemptNote> = new.into_iter().filter_map(AttemptNote::of).collect();
        let is_new = !(attempts.is_empty() && results.is_empty());
        let OwnUsage { all: coordinator, billed: coordinator_billed } = stores.own_usage();
        let elapsed = events.elapsed();
        is_new.then_some(WorkDone { elapsed, coordinator, coordinator_billed, attempts, results, terms })
    }

    /// Gives the query up, because another coordinator has it. Its objects in the exchange stay.
    pub fn disown(&self) {
        self.lock().held = Held::Disowned;
    }

    pub fn is_disowned(&self) -> bool {
        self.lock().held == Held::Disowned
    }

    /// Leaves the query's objects in the exchange at its end, because another coordinator may still take it over.
    pub fn keep_objects(&self) {
        self.lock().held = Held::Perhaps;
    }

    /// Tells if the query's objects stay in the exchange at its end.
    pub(crate) fn keeps_objects(&self) -> bool {
        self.lock().held != Held::Ours
    }

    /// Tells if the query has begun here, so that its record has what earlier coordinators did.
    pub fn has_begun(&self) -> bool {
        self.lock().sources.is_some()
    }
}

#[cfg(test)]
mod tests;
