//! Prepared statements by handle. A handle is random, and its user's alone: for others it does not exist.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use gust_engine::session::Described;
use tonic::Status;
use uuid::Uuid;

use crate::tokens::Principal;

/// Most statements that one user has prepared at the same time.
const HANDLES_OF_USER_MAX: usize = 1_000;

/// Most bytes of all statements and their parameters.
const BYTES_MAX: usize = 256 << 20;

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
    parameters: Mutex<Option<RecordBatch>>,
}

impl Prepared {
    fn bytes(&self) -> usize {
        self.sql.len() + self.parameters().map_or(0, |rows| rows.get_array_memory_size())
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

    pub(super) fn parameters(&self) -> Option<RecordBatch> {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Handles {
    fn kept(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, principal: Principal, sql: String, described: Described) -> Result<String, Status> {
        let mut kept = self.kept();
        kept.retain(|_, statement| statement.used.elapsed() < KEEP);
        if kept.values().filter(|statement| statement.principal == principal).count() >= HANDLES_OF_USER_MAX {
            let detail = format!("{HANDLES_OF_USER_MAX} statements are prepared; no more are kept\nhint: close some");
            return Err(Status::resource_exhausted(detail));
        }
        has_room(&kept, sql.len())?;
        let handle = Uuid::new_v4().simple().to_string();
        let prepared = Arc::new(Prepared { sql, described, parameters: Mutex::default() });
        kept.insert(handle.clone(), Kept { principal, used: Instant::now(), prepared });
        Ok(handle)
    }

    pub(super) fn get(&self, principal: &Principal, handle: &str) -> Result<Arc<Prepared>, Status> {
        let mut kept = self.kept();
        let found = kept.get_mut(handle).filter(|statement| statement.principal == *principal);
        let found = found.ok_or_else(|| Status::not_found("there is no such prepared statement"))?;
        found.used = Instant::now();
        Ok(Arc::clone(&found.prepared))
    }

    /// Keeps values for the parameters of a statement.
    pub(super) fn bind(&self, prepared: &Prepared, parameters: Option<RecordBatch>) -> Result<(), Status> {
        let kept = self.kept();
        has_room(&kept, parameters.as_ref().map_or(0, RecordBatch::get_array_memory_size))?;
        *prepared.parameters.lock().unwrap_or_else(PoisonError::into_inner) = parameters;
        Ok(())
    }

    pub(super) fn remove(&self, principal: &Principal, handle: &str) {
        let mut kept = self.kept();
        if kept.get(handle).is_some_and(|statement| statement.principal == *principal) {
            kept.remove(handle);
        }
    }
}

fn has_room(kept: &HashMap<String, Kept>, bytes: usize) -> Result<(), Status> {
    let taken: usize = kept.values().map(|statement| statement.prepared.bytes()).sum();
    match taken + bytes <= BYTES_MAX {
        true => Ok(()),
        false => {
            Err(Status::resource_exhausted(format!("prepared statements have {BYTES_MAX} bytes; no more are kept")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Described {
        Described { parameters: Vec::new(), schema: None }
    }

    #[test]
    fn a_handle_is_its_users_alone() {
        let user = |name: &str| Principal { user: Some(name.to_owned()), token: None };
        let handles = Handles::default();
        let handle = handles.add(user("ada"), "SELECT 1".to_owned(), nothing()).expect("room");
        assert_eq!(handles.get(&user("ada"), &handle).expect("hers").sql, "SELECT 1");
        for (name, handle) in [("bob", handle.as_str()), ("ada", "other"), ("ada", "")] {
            assert!(handles.get(&user(name), handle).is_err(), "{name} {handle}");
        }
        handles.remove(&user("bob"), &handle);
        assert!(handles.get(&user("ada"), &handle).is_ok(), "another's handle cannot be closed");
        handles.remove(&user("ada"), &handle);
        assert!(handles.get(&user("ada"), &handle).is_err());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let handles = Handles::default();
        let add = |user: &str, sql: String| {
            let principal = Principal { user: Some(user.to_owned()), token: None };
            handles.add(principal, sql, nothing())
        };
        for _ in 0..HANDLES_OF_USER_MAX {
            add("ada", "SELECT 1".to_owned()).expect("room");
        }
        let refused = add("ada", "SELECT 1".to_owned()).expect_err("too many");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let bobs = add("bob", "SELECT 1".to_owned()).expect("another's");
        let principal = Principal { user: Some("bob".to_owned()), token: None };
        let prepared = handles.get(&principal, &bobs).expect("his");
        let rows = |count: usize| {
            let values: arrow::array::ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![0; count]));
            RecordBatch::try_from_iter([("v", values)]).expect("rows")
        };
        handles.bind(&prepared, Some(rows(1_000))).expect("room");
        assert!(has_room(&handles.kept(), BYTES_MAX - 20_000).is_ok());
        assert!(has_room(&handles.kept(), BYTES_MAX - 8_000).is_err(), "values count");
    }
}
