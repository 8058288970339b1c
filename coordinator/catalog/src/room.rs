//! Bound of a listing.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Most names of one listing.
const NAMES_MAX: usize = 1_000_000;

/// Names that one listing may still have, over all of its pages, namespaces and catalogs.
#[derive(Debug)]
pub struct NamesRoom {
    names_max: usize,
    taken: AtomicUsize,
}

impl Default for NamesRoom {
    fn default() -> Self {
        Self::for_names(NAMES_MAX)
    }
}

impl NamesRoom {
    pub fn for_names(names_max: usize) -> Self {
        Self { names_max, taken: AtomicUsize::new(0) }
    }

    /// Counts names before they are kept.
    ///
    /// # Errors
    /// Invalid: the listing has too many.
    pub(crate) fn take(&self, names: usize) -> Result<()> {
        let taken = self.taken.fetch_add(names, Ordering::Relaxed).saturating_add(names);
        match taken <= self.names_max {
            true => Ok(()),
            false => Err(Error::Invalid(format!("a listing has more than {} namespaces and tables", self.names_max))),
        }
    }
}
