//! Values that several files of a scan need: read by the first, and let go after the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::Result;
use tokio::sync::Mutex;

/// Users that are still to come, of those that were announced.
#[derive(Debug, Default)]
pub(super) struct Users {
    announced: AtomicUsize,
    left: AtomicUsize,
}

impl Users {
    pub(super) fn announce(&self) {
        self.announced.fetch_add(1, Ordering::Relaxed);
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn forget(&self) {
        self.announced.store(0, Ordering::Relaxed);
        self.left.store(0, Ordering::Relaxed);
    }

    /// Counts one who has come, and returns true for the last. A plan that runs again has as many once more.
    pub(super) fn is_last(&self) -> bool {
        let announced = self.announced.load(Ordering::Relaxed);
        let next = |left: usize| Some(if left > 1 { left - 1 } else { announced });
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok_and(|left| left <= 1)
    }
}

/// Value that is kept from its first user to its last.
#[derive(Debug)]
pub(super) struct Shared<T> {
    users: Users,
    kept: Mutex<Option<Arc<T>>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { users: Users::default(), kept: Mutex::default() }
    }
}

impl<T> Shared<T> {
    pub(super) fn announce(&self) {
        self.users.announce();
    }

    /// Lets go of the value, and of the users that were announced.
    pub(super) async fn forget(&self) {
        self.users.forget();
        *self.kept.lock().await = None;
    }

    /// Returns the value for one user. `read` makes it where it is not kept.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) async fn get(&self, read: impl Future<Output = Result<T>>) -> Result<Arc<T>> {
        let mut kept = self.kept.lock().await;
        let value = match &*kept {
            Some(value) => Arc::clone(value),
            None => Arc::new(read.await?),
        };
        *kept = (!self.users.is_last()).then(|| Arc::clone(&value));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_is_read_once_for_all_users_and_let_go_after_the_last() {
        let (shared, reads) = (Shared::<usize>::default(), AtomicUsize::new(0));
        let get = async || shared.get(async { Ok(reads.fetch_add(1, Ordering::Relaxed)) }).await.expect("a value");
        (0..3).for_each(|_| shared.announce());
        // A plan that runs twice.
        for run in 0..2 {
            for user in 0..3 {
                let value = get().await;
                assert_eq!(*value, run, "user {user}");
                assert_eq!(Arc::strong_count(&value), if user < 2 { 2 } else { 1 }, "user {user} of run {run}");
            }
        }
        // Nobody was announced.
        let shared = Shared::<usize>::default();
        assert_eq!(Arc::strong_count(&shared.get(async { Ok(7) }).await.expect("a value")), 1);
    }
}
