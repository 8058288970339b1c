//! Places of connections: of those that have begun and have no user yet, and of those that have one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most connections with a user at the same time.
pub(super) const CONNECTIONS_MAX: usize = 1_000;

/// Most connections of one user by name. Others have as many at least.
pub(super) const CONNECTIONS_OF_USER_MAX: usize = CONNECTIONS_MAX / 2;

/// Most connections without a user, in all and from one address of another machine.
const BEGINNINGS_MAX: usize = 200;
const BEGINNINGS_OF_PEER_MAX: usize = 50;

/// Places of all connections. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    beginnings: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    users: Arc<Mutex<HashMap<String, usize>>>,
}

/// Place of a connection with a user.
#[derive(Debug)]
pub(super) struct Connected {
    user: Option<String>,
    users: Arc<Mutex<HashMap<String, usize>>>,
    _permit: OwnedSemaphorePermit,
}

/// Place of a connection that has no user yet.
#[derive(Debug)]
pub(super) struct Beginning {
    peer: IpAddr,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            beginnings: Arc::new(Semaphore::new(BEGINNINGS_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            peers: Arc::default(),
            users: Arc::default(),
        }
    }

    /// Waits until a connection may begin. Until then clients wait to be accepted.
    pub(super) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.beginnings).acquire_owned().await.ok()
    }

    /// Gives a connection its place; None if too many of its address begin already.
    pub(super) fn begin(&self, peer: IpAddr, permit: OwnedSemaphorePermit) -> Option<Beginning> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(peer).or_default();
        if *count >= BEGINNINGS_OF_PEER_MAX && !peer.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Beginning { peer, peers: Arc::clone(&self.peers), _permit: permit })
    }

    /// Gives a user's connection its place; None if there are too many, or too many of his.
    pub(super) fn connect(&self, user: Option<&str>) -> Option<Connected> {
        let permit = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        if let Some(user) = user {
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            let count = users.entry(user.to_owned()).or_default();
            if *count >= CONNECTIONS_OF_USER_MAX {
                return None;
            }
            *count += 1;
        }
        Some(Connected { user: user.map(str::to_owned), users: Arc::clone(&self.users), _permit: permit })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(user) = &self.user {
            leave(&self.users, user);
        }
    }
}

/// Counts one less of a key.
fn leave<K: std::hash::Hash + Eq>(counts: &Mutex<HashMap<K, usize>>, key: &K) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        leave(&self.peers, &self.peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_cannot_take_all_places() {
        let places = Places::new();
        let (far, near): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [127, 0, 0, 1].into());
        let mut begun = Vec::new();
        while let Some(beginning) = places.begin(far, places.room().await.expect("a place")) {
            begun.push(beginning);
        }
        assert_eq!(begun.len(), BEGINNINGS_OF_PEER_MAX);
        for _ in 0..BEGINNINGS_MAX - BEGINNINGS_OF_PEER_MAX {
            begun.push(places.begin(near, places.room().await.expect("a place")).expect("it is near"));
        }
        assert_eq!(places.beginnings.available_permits(), 0);
        assert!(places.connect(None).is_some(), "those with a user have places of their own");
        let hers: Vec<_> =
            (0..CONNECTIONS_OF_USER_MAX).map(|_| places.connect(Some("ada")).expect("a place")).collect();
        assert!(places.connect(Some("ada")).is_none() && places.connect(Some("bob")).is_some());
        drop(hers);
        assert!(places.connect(Some("ada")).is_some() && places.users.lock().expect("users").is_empty());
        begun.clear();
        assert_eq!(
            (places.beginnings.available_permits(), places.peers.lock().expect("peers").len()),
            (BEGINNINGS_MAX, 0)
        );
    }
}
