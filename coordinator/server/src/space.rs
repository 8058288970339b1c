//! Bytes that the kept rows of all statements may take: those of files in `temp_folder`, and those of objects in the exchange.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gust_engine::error::{ErrorKind, QueryError};

/// SQLSTATE code of PostgreSQL for a limit of the configuration.
const OVER_LIMIT: &str = "53400";

/// Space of all statements.
#[derive(Debug)]
pub(crate) struct Space {
    /// Words for the rows that take it.
    rows: &'static str,
    hint: &'static str,
    bytes_max: u64,
    /// Bytes that are taken.
    bytes: AtomicU64,
}

impl Space {
    /// Makes the space of rows in files.
    pub(crate) const fn of_results(bytes_max: u64) -> Self {
        let hint = "stream the rows with POST /v1/query, or raise results_bytes_max under [server]";
        Self { rows: "kept rows", hint, bytes_max, bytes: AtomicU64::new(0) }
    }

    /// Makes the space of rows in the exchange.
    pub(crate) const fn of_links(bytes_max: u64) -> Self {
        let hint = "forget statements that have ended, or raise links_bytes_max under [server]";
        Self { rows: "linked rows", hint, bytes_max, bytes: AtomicU64::new(0) }
    }

    /// Returns the bytes that are taken.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Part of a space that the rows of one statement take. It is given back at its end.
#[derive(Debug)]
pub(crate) struct Share {
    space: Arc<Space>,
    bytes: u64,
}

impl Share {
    /// Makes an empty part.
    pub(crate) fn of(space: &Arc<Space>) -> Self {
        Self { space: Arc::clone(space), bytes: 0 }
    }

    /// Takes what is missing to so many bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Resources`] with 53400 if all statements would take more than they may. The part is as before then.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> Result<(), QueryError> {
        let Space { rows, hint, bytes_max, bytes: taken } = &*self.space;
        let missing = bytes.saturating_sub(self.bytes);
        let more = |taken: u64| taken.checked_add(missing).filter(|taken| taken <= bytes_max);
        if taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            let message = format!("the {rows} of all statements take more than {bytes_max} bytes");
            return Err(QueryError::new(ErrorKind::Resources, message).with_hint(*hint).with_sqlstate(OVER_LIMIT));
        }
        self.bytes += missing;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.space.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_share_a_space_and_give_their_parts_back() {
        let space = Arc::new(Space::of_links(100));
        let mut shares = [Share::of(&space), Share::of(&space)];
        for (of, bytes, taken) in [(0, 40, Some(40)), (1, 60, Some(100)), (0, 41, None), (0, 40, Some(100))] {
            assert_eq!(shares[of].grow_to(bytes).ok().map(|()| space.bytes()), taken, "{bytes}");
        }
        let [mut one, other] = shares;
        let error = one.grow_to(u64::MAX).expect_err("too much");
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Resources, OVER_LIMIT));
        assert!(error.hint().is_some_and(|hint| hint.contains("links_bytes_max")), "{error:?}");
        drop(other);
        assert_eq!(space.bytes(), 40);
        one.grow_to(100).expect("there is room again");
        drop(one);
        assert_eq!(space.bytes(), 0);
    }
}
