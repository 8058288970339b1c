//! Session options: the place of bare names, for calls with the cookie of a session.
//!
//! A session is made by SetSessionOptions. Its cookie goes to the client with the answer, and comes back with each call.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use uuid::Uuid;

use crate::door::SessionWishes;
use crate::tokens::Principal;

/// Name of the cookie, as clients of Flight know it.
const COOKIE: &str = "arrow_flight_session_id";

/// Sessions of all users; one more makes the oldest go. Sessions of a user.
const SESSIONS_MAX: usize = 10_000;
const SESSIONS_OF_USER_MAX: usize = 1_000;

/// Time for which a session is kept after its last use.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// Most bytes of a value.
const VALUE_BYTES_MAX: usize = 256;

/// Options that a session has.
const CATALOG: &str = "catalog";
const SCHEMA: &str = "schema";

/// Reason why an option is not set, as the protocol numbers them.
const INVALID_NAME: i32 = 1;
const INVALID_VALUE: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub(super) struct OptionValue {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5")]
    pub(super) value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Whole(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    Texts(Texts),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Texts {
    #[prost(string, repeated, tag = "1")]
    values: Vec<String>,
}

/// Message of SetSessionOptions, and answer of GetSessionOptions.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Options {
    #[prost(map = "string, message", tag = "1")]
    pub(super) options: HashMap<String, OptionValue>,
}

/// Answer of SetSessionOptions.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Refusals {
    #[prost(map = "string, message", tag = "1")]
    pub(super) errors: HashMap<String, Refusal>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Refusal {
    #[prost(int32, tag = "1")]
    why: i32,
}

/// Sessions by their cookies.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Kept>>);

#[derive(Debug, Clone)]
struct Kept {
    principal: Principal,
    used: Instant,
    catalog: Option<String>,
    schema: Option<String>,
}

/// Answer to a change of options.
pub(super) struct Changed {
    pub(super) refusals: Refusals,
    /// Header with the cookie of a new session.
    pub(super) cookie: Option<String>,
}

/// Returns the value of the session's cookie.
fn cookie(headers: &MetadataMap) -> Option<&str> {
    let cookies = headers.get_all("cookie").iter().filter_map(|header| header.to_str().ok());
    let mut pairs = cookies.flat_map(|header| header.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, kept| kept.used.elapsed() < KEPT);
        sessions
    }

    /// Puts the options of a call's session where its own wishes have none.
    pub(super) fn narrow<T>(&self, principal: &Principal, call: &Request<T>, wishes: &mut SessionWishes) {
        let Some(cookie) = cookie(call.metadata()) else { return };
        let mut sessions = self.lock();
        let Some(kept) = sessions.get_mut(cookie).filter(|kept| kept.principal == *principal) else { return };
        kept.used = Instant::now();
        // A schema belongs to its catalog.
        if wishes.catalog.is_none() {
            wishes.catalog.clone_from(&kept.catalog);
            wishes.schema = wishes.schema.take().or_else(|| kept.schema.clone());
        }
    }

    /// Sets options of a call's session, which is made if there is none. `is_catalog` tells if there is such a catalog.
    pub(super) fn set<T>(
        &self,
        principal: &Principal,
        call: &Request<T>,
        options: Options,
        is_catalog: impl Fn(&str) -> bool,
    ) -> Changed {
        let mut sessions = self.lock();
        let known = cookie(call.metadata());
        let known = known.filter(|id| sessions.get(*id).is_some_and(|kept| kept.principal == *principal));
        let (id, is_new) =
            known.map_or_else(|| (Uuid::new_v4().simple().to_string(), true), |id| (id.to_owned(), false));
        let new = || Kept { principal: principal.clone(), used: Instant::now(), catalog: None, schema: None };
        let mut kept = sessions.get(&id).cloned().unwrap_or_else(new);
        kept.used = Instant::now();
        let mut refusals = Refusals::default();
        if options.options.contains_key(CATALOG) && !options.options.contains_key(SCHEMA) {
            // A schema belongs to its catalog.
            kept.schema = None;
        }
        for (name, OptionValue { value }) in options.options {
            let text = match value {
                None => Ok(None),
                Some(Value::Text(text)) if text.len() <= VALUE_BYTES_MAX => {
                    Ok(Some(text).filter(|text| !text.is_empty()))
                }
                Some(_) => Err(INVALID_VALUE),
            };
            let set = match (name.as_str(), text) {
                (CATALOG, Ok(Some(catalog))) if !is_catalog(&catalog) => Err(INVALID_VALUE),
                (CATALOG, Ok(catalog)) => {
                    kept.catalog = catalog;
                    Ok(())
                }
                (SCHEMA, Ok(schema)) => {
                    kept.schema = schema;
                    Ok(())
                }
                (CATALOG | SCHEMA, Err(why)) => Err(why),
                _ => Err(INVALID_NAME),
            };
            if let Err(why) = set {
                refusals.errors.insert(name, Refusal { why });
            }
        }
        if is_new {
            make_room(&mut sessions, principal);
        }
        let cookie = is_new.then(|| format!("{COOKIE}={id}; HttpOnly; SameSite=Strict"));
        sessions.insert(id, kept);
        Changed { refusals, cookie }
    }

    /// Returns the options of a call's session; none of a call without one.
    pub(super) fn get<T>(&self, principal: &Principal, call: &Request<T>) -> Options {
        let mut wishes = SessionWishes::default();
        self.narrow(principal, call, &mut wishes);
        let SessionWishes { catalog, schema, .. } = wishes;
        let option = |name: &str, value: Option<String>| {
            Some((name.to_owned(), OptionValue { value: Some(Value::Text(value?)) }))
        };
        Options { options: [option(CATALOG, catalog), option(SCHEMA, schema)].into_iter().flatten().collect() }
    }

    /// Forgets a call's session.
    pub(super) fn close<T>(&self, principal: &Principal, call: &Request<T>) {
        let mut sessions = self.lock();
        if let Some(id) = cookie(call.metadata())
            && sessions.get(id).is_some_and(|kept| kept.principal == *principal)
        {
            sessions.remove(id);
        }
    }
}

/// Makes the oldest session go: of a user who has too many, else of all.
fn make_room(sessions: &mut HashMap<String, Kept>, principal: &Principal) {
    let of_user = sessions.values().filter(|kept| kept.principal == *principal).count();
    let goes = |kept: &Kept| of_user < SESSIONS_OF_USER_MAX || kept.principal == *principal;
    if of_user >= SESSIONS_OF_USER_MAX || sessions.len() >= SESSIONS_MAX {
        let oldest = sessions.iter().filter(|(_, kept)| goes(kept)).min_by_key(|(_, kept)| kept.used);
        if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
            sessions.remove(&oldest);
        }
    }
}

/// Reads the message of an action.
pub(super) fn message<M: Message + Default>(body: &[u8]) -> Result<M, Status> {
    M::decode(body).map_err(|error| Status::invalid_argument(format!("the action's body: {error}")))
}
