//! Prepared statements by handle. A handle is random, and its user's alone: for others it does not exist.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gust_engine::session::Described;
use tonic::Status;
use uuid::Uuid;

use super::parameters::Values;
use crate::tokens::Principal;

/// Most statements that one user has prepared at the same time. One more makes the oldest go.
const HANDLES_OF_USER_MAX: usize = 1_000;

/// Most bytes of all statements with their values, and of those of one user.
const BYTES_MAX: usize = 256 << 20;
const BYTES_OF_USER_MAX: usize = BYTES_MAX / 2;

/// Bytes that a statement takes beside its text, and each of its columns and parameters.
const STATEMENT_BYTES: usize = 1_024;
const COLUMN_BYTES: usize = 256;

/// Time after which a statement that nobody uses is forgotten.
const KEEP: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<HashMap<String, Kept>>);

#[derive(Debug)]
struct Kept {
    principal: Principal,
    used: Instant,
    prepared: Arc<Prepared>,
}

/// Statement that a client has prepared, with the values that it sent last.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) sql: String,
    /// Types of its parameters and rows, without values.
    pub(super) described: Described,
    bound: Mutex<Bound>,
}

/// Values of a statement, and their number among all that the client has sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Bound {
    pub(super) version: u64,
    pub(super) values: Option<Values>,
}

impl Prepared {
    /// Returns about the bytes of the statement, its types and its values.
    fn bytes(&self) -> usize {
        let columns = self.described.schema.as_ref().map_or(0, |schema| schema.fields().len());
        let values = self.bound().values.map_or(0, |values| values.bytes);
        STATEMENT_BYTES + self.sql.len() + (columns + self.described.parameters.len()) * COLUMN_BYTES + values
    }

    /// Checks that there are as many values as parameters.
    pub(super) fn takes(&self, values: usize) -> Result<(), Status> {
        let wanted = self.described.parameters.len();
        // The parameters of several statements are not known.
        if self.described.schema.is_none() || values == wanted {
            return Ok(());
        }
        Err(Status::invalid_argument(format!("the statement has {wanted} parameters, and {values} values are given")))
    }

    pub(super) fn bound(&self) -> Bound {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the values that a ticket is about.
    pub(super) fn bound_at(&self, version: u64) -> Result<Bound, Status> {
        let bound = self.bound();
        match bound.version == version {
            true => Ok(bound),
            false => Err(Status::failed_precondition("the statement was given other values since then")),
        }
    }
}

impl Handles {
    /// Returns what is kept, without what nobody has used for long.
    fn kept(&self, now: Instant) -> MutexGuard<'_, HashMap<String, Kept>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, statement| now.duration_since(statement.used) < KEEP);
        kept
    }

    pub(super) fn add(&self, principal: Principal, sql: String, described: Described) -> Result<String, Status> {
        self.add_at(Instant::now(), principal, sql, described)
    }

    fn add_at(&self, now: Instant, principal: Principal, sql: String, described: Described) -> Result<String, Status> {
        let prepared = Prepared { sql, described, bound: Mutex::default() };
        let mut kept = self.kept(now);
        let own = kept.iter().filter(|(_, statement)| statement.principal == principal);
        if own.clone().count() >= HANDLES_OF_USER_MAX
            && let Some(oldest) = own.min_by_key(|(_, statement)| statement.used).map(|(handle, _)| handle.clone())
        {
            kept.remove(&oldest);
        }
        has_room(&kept, &principal, prepared.bytes())?;
        let handle = Uuid::new_v4().simple().to_string();
        kept.insert(handle.clone(), Kept { principal, used: now, prepared: Arc::new(prepared) });
        Ok(handle)
    }

    pub(super) fn get(&self, principal: &Principal, handle: &str) -> Result<Arc<Prepared>, Status> {
        self.get_at(Instant::now(), principal, handle)
    }

    fn get_at(&self, now: Instant, principal: &Principal, handle: &str) -> Result<Arc<Prepared>, Status> {
        let mut kept = self.kept(now);
        let found = kept.get_mut(handle).filter(|statement| statement.principal == *principal);
        let found = found.ok_or_else(|| Status::not_found("there is no such prepared statement"))?;
        found.used = now;
        Ok(Arc::clone(&found.prepared))
    }

    /// Keeps values for the parameters of a statement, and forgets the earlier ones.
    pub(super) fn bind(
        &self,
        principal: &Principal,
        prepared: &Prepared,
        values: Option<Values>,
    ) -> Result<(), Status> {
        let kept = self.kept(Instant::now());
        let bound = |values| {
            let mut bound = prepared.bound.lock().unwrap_or_else(PoisonError::into_inner);
            *bound = Bound { version: bound.version + 1, values };
        };
        bound(None);
        has_room(&kept, principal, values.as_ref().map_or(0, |values| values.bytes))?;
        bound(values);
        Ok(())
    }

    pub(super) fn remove(&self, principal: &Principal, handle: &str) {
        let mut kept = self.kept(Instant::now());
        if kept.get(handle).is_some_and(|statement| statement.principal == *principal) {
            kept.remove(handle);
        }
    }
}

/// Checks that others have room as well.
fn has_room(kept: &HashMap<String, Kept>, principal: &Principal, bytes: usize) -> Result<(), Status> {
    let taken = |of: &dyn Fn(&Kept) -> bool| -> usize {
        kept.values().filter(|statement| of(statement)).map(|statement| statement.prepared.bytes()).sum()
    };
    let own = taken(&|statement| statement.principal == *principal) + bytes;
    match own <= BYTES_OF_USER_MAX && taken(&|_| true) + bytes <= BYTES_MAX {
        true => Ok(()),
        false => {
            let message = "prepared statements take too many bytes; no more are kept until some are closed";
            Err(Status::resource_exhausted(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;

    fn nothing() -> Described {
        Described { parameters: Vec::new(), schema: None }
    }

    fn user(name: &str) -> Principal {
        Principal { user: Some(name.to_owned()), credential: None }
    }

    fn values(bytes: usize) -> Values {
        let column: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1]));
        Values { rows: RecordBatch::try_from_iter([("v", column)]).expect("rows"), bytes }
    }

    #[test]
    fn a_handle_is_its_users_alone_and_ends() {
        let handles = Handles::default();
        let now = Instant::now();
        let handle = handles.add_at(now, user("ada"), "SELECT 1".to_owned(), nothing()).expect("room");
        assert_eq!(handles.get(&user("ada"), &handle).expect("hers").sql, "SELECT 1");
        for (name, handle) in [("bob", handle.as_str()), ("ada", "other"), ("ada", "")] {
            assert!(handles.get(&user(name), handle).is_err(), "{name} {handle}");
        }
        handles.remove(&user("bob"), &handle);
        assert!(handles.get(&user("ada"), &handle).is_ok(), "another's handle cannot be closed");
        handles.remove(&user("ada"), &handle);
        assert!(handles.get(&user("ada"), &handle).is_err());
        let other = handles.add_at(now, user("ada"), "SELECT 1".to_owned(), nothing()).expect("room");
        assert!(handles.get_at(now + KEEP / 2, &user("ada"), &other).is_ok());
        assert!(handles.get_at(now + KEEP + KEEP / 4, &user("ada"), &other).is_ok(), "it was used since");
        assert!(handles.get_at(now + 3 * KEEP, &user("ada"), &other).is_err());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let handles = Handles::default();
        let add = |name: &str| handles.add(user(name), "SELECT 1".to_owned(), nothing()).expect("room");
        let first = add("ada");
        for _ in 1..HANDLES_OF_USER_MAX {
            add("ada");
        }
        assert!(handles.get(&user("ada"), &first).is_ok());
        let second = add("bob");
        // The oldest of the same user goes: not the first, which was used since.
        add("ada");
        assert!(handles.get(&user("ada"), &first).is_ok() && handles.get(&user("bob"), &second).is_ok());
        assert_eq!(handles.kept(Instant::now()).len(), HANDLES_OF_USER_MAX + 1);
        let bind = |name: &str, handle: &str, bytes: usize| {
            let prepared = handles.get(&user(name), handle).expect("kept");
            handles.bind(&user(name), &prepared, Some(values(bytes))).map(|()| prepared.bound().version)
        };
        let most = BYTES_OF_USER_MAX - 8 * HANDLES_OF_USER_MAX * STATEMENT_BYTES;
        assert_eq!(bind("ada", &first, most).expect("room"), 2);
        assert!(bind("ada", &add("ada"), most).is_err(), "half is for others");
        assert!(bind("bob", &second, most).is_ok());
    }

    #[test]
    fn a_ticket_is_about_the_values_of_its_time() {
        let handles = Handles::default();
        let handle = handles.add(user("ada"), "SELECT ?".to_owned(), nothing()).expect("room");
        let prepared = handles.get(&user("ada"), &handle).expect("hers");
        handles.bind(&user("ada"), &prepared, Some(values(8))).expect("room");
        let version = prepared.bound().version;
        assert!(prepared.bound_at(version).is_ok());
        handles.bind(&user("ada"), &prepared, Some(values(8))).expect("room");
        assert!(prepared.bound_at(version).is_err());
        assert!(handles.bind(&user("ada"), &prepared, Some(values(BYTES_MAX))).is_err());
        assert!(prepared.bound().values.is_none(), "the earlier values do not come back");
    }
}
