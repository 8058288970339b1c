//! Keys by which a client cancels the statement of one of its connections, on a connection that has no user.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rand::TryRngCore;
use rand::rngs::OsRng;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

/// Keys of all connections. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(Arc<Mutex<HashMap<i32, Cancelling>>>);

#[derive(Debug)]
struct Cancelling {
    secret: i32,
    /// Token of the statement under way, or of the last one.
    statement: CancellationToken,
}

/// Key of one connection. It ends with the connection.
#[derive(Debug)]
pub(super) struct Key {
    keys: Keys,
    pid: i32,
    secret: i32,
}

impl Keys {
    /// Makes the key of a connection, of 63 random bits.
    ///
    /// # Errors
    /// The system's error if it has no random numbers.
    pub(super) fn make(&self) -> std::io::Result<Key> {
        loop {
            let mut bytes = [0; 8];
            OsRng.try_fill_bytes(&mut bytes).map_err(std::io::Error::other)?;
            let [a, b, c, d, e, f, g, h] = bytes;
            let (pid, secret) = (i32::from_be_bytes([a & 0x7f, b, c, d]), i32::from_be_bytes([e, f, g, h]));
            if let Entry::Vacant(free) = self.lock().entry(pid) {
                free.insert(Cancelling { secret, statement: CancellationToken::new() });
                return Ok(Key { keys: self.clone(), pid, secret });
            }
        }
    }

    /// Cancels the statement under way on the connection with this key. Nobody is told if there is none.
    pub(super) fn cancel(&self, pid: i32, secret: &Bytes) {
        if let Some(of) = self.lock().get(&pid)
            && bool::from(of.secret.to_be_bytes()[..].ct_eq(secret))
        {
            of.statement.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Cancelling>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn secret(&self) -> i32 {
        self.secret
    }

    /// Begins a statement. Earlier cancellations do not concern it.
    pub(super) fn begin(&self) -> CancellationToken {
        let token = CancellationToken::new();
        if let Some(of) = self.keys.lock().get_mut(&self.pid) {
            of.statement = token.clone();
        }
        token
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cancels_the_statement_of_its_own_connection() {
        let keys = Keys::default();
        let (one, two) = (keys.make().expect("a key"), keys.make().expect("a key"));
        let (of_one, of_two) = (one.begin(), two.begin());
        let secret = |key: &Key| Bytes::copy_from_slice(&key.secret().to_be_bytes());
        keys.cancel(one.pid(), &secret(&two));
        keys.cancel(one.pid(), &Bytes::new());
        keys.cancel(one.pid() ^ 1, &secret(&one));
        assert!(!of_one.is_cancelled() && !of_two.is_cancelled());
        keys.cancel(one.pid(), &secret(&one));
        assert!(of_one.is_cancelled() && !of_two.is_cancelled());
        assert!(!one.begin().is_cancelled(), "the next statement runs");
        drop(one);
        assert_eq!(keys.lock().len(), 1);
    }
}
