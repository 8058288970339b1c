//! What environments of functions are likely to have from queries before: that they are up, and footers of files. For estimates
//! only, which may be wrong about it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use object_store::path::Path;

/// Files that are remembered; later ones count as never read.
const FILES_MAX: usize = 1 << 20;

/// A platform keeps what nobody uses for some minutes; AWS does not say how many.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// What one session's queries have left behind.
#[derive(Debug, Default)]
pub(super) struct Warmth {
    /// As many as were ever in use at once.
    environments: usize,
    /// How many fragments have had a part of a file, by a hash of where it lies.
    fragments: HashMap<u64, u32>,
    last_used: Option<Instant>,
}

impl Warmth {
    /// A query hands out this many fragments to this many functions at most.
    pub(super) fn query(&mut self, fragments: usize, functions_max: usize) {
        self.environments = self.environments.max(fragments.min(functions_max));
        self.last_used = Some(Instant::now());
    }

    /// One of its fragments has a part of this file.
    pub(super) fn fragment_of(&mut self, store: &str, file: &Path) {
        let key = key(store, file);
        if self.fragments.len() < FILES_MAX || self.fragments.contains_key(&key) {
            *self.fragments.entry(key).or_default() += 1;
        }
    }

    /// Forgets all where a platform is likely to have ended all environments.
    pub(super) fn cool_down(&mut self) {
        if self.last_used.is_some_and(|last| last.elapsed() > KEPT_FOR) {
            *self = Self::default();
        }
    }

    /// That are likely to be up.
    pub(super) fn environments(&self) -> usize {
        self.environments
    }

    /// How likely an environment has no footer of a file: any of them may have had any of its fragments.
    pub(super) fn misses(&self, store: &str, file: &Path) -> f64 {
        let fragments = self.fragments.get(&key(store, file)).copied().unwrap_or_default();
        let others = 1.0 - 1.0 / self.environments.max(1) as f64;
        others.powf(f64::from(fragments))
    }
}

fn key(store: &str, file: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    (store, file.as_ref()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_is_missed_less_the_more_have_read_it() {
        let (here, elsewhere) = ("file:///", "s3://bucket/");
        let (often, never) = (Path::from("t/often.parquet"), Path::from("t/never.parquet"));
        // The only one has it after one fragment, one of two, too, half of four after 2.4, half of a hundred after 69.
        for (functions, least) in [(1, 1), (2, 1), (4, 3), (100, 69)] {
            let mut warmth = Warmth::default();
            assert_eq!(warmth.misses(here, &often), 1.0);
            warmth.query(1000, functions);
            let enough = (1..200).find(|_| {
                warmth.fragment_of(here, &often);
                warmth.misses(here, &often) <= 0.5
            });
            assert_eq!(enough, Some(least), "{functions} functions");
            assert_eq!(warmth.environments(), functions);
            assert_eq!((warmth.misses(here, &never), warmth.misses(elsewhere, &often)), (1.0, 1.0));
        }
    }

    #[test]
    fn a_platform_keeps_nothing_for_long() {
        let mut warmth = Warmth::default();
        warmth.query(2, 8);
        warmth.query(1, 8);
        warmth.cool_down();
        assert_eq!(warmth.environments(), 2);
        warmth.last_used = Instant::now().checked_sub(2 * KEPT_FOR);
        warmth.cool_down();
        assert_eq!(warmth.environments(), 0);
    }
}
