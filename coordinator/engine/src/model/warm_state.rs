//! The state that queries before have likely left in environments of functions: that they are up, and footers of files. It is for estimates
//! only, which may be wrong about it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use object_store::ObjectMeta;

/// Most files that are remembered of a size of functions. Later ones count as never read.
const FILES_MAX: usize = 1 << 18;

/// Traces of one session's queries.
#[derive(Debug, Clone, Default)]
pub struct WarmState {
    /// Environments by memory: functions of each size are other ones.
    sizes: HashMap<u32, WarmEnvironments>,
    last_used: Option<Instant>,
}

#[derive(Debug, Clone, Default)]
struct WarmEnvironments {
    /// Most that were ever in use at once.
    count: usize,
    /// Number of fragments that have had a part of a file, by a hash of the file.
    fragments: HashMap<u64, u32>,
}

impl WarmState {
    /// Notes a query that hands out fragments to `at_once` environments; `files` are those of each fragment, with their store.
    pub fn query<'a>(
        &mut self,
        memory_mb: u32,
        at_once: usize,
        files: impl IntoIterator<Item = (&'a str, &'a ObjectMeta)>,
    ) {
        self.last_used = Some(Instant::now());
        let environments = self.sizes.entry(memory_mb).or_default();
        // The last used get few fragments, again and again: the others learn nothing.
        if at_once < environments.count {
            return;
        }
        environments.count = at_once;
        for (store, file) in files {
            let key = key(store, file);
            if environments.fragments.len() < FILES_MAX || environments.fragments.contains_key(&key) {
                *environments.fragments.entry(key).or_default() += 1;
            }
        }
    }

    /// Returns true if a platform that keeps idle environments for `kept_for` is likely to have ended all of them.
    pub fn is_cold(&self, kept_for: Duration) -> bool {
        self.last_used.is_some_and(|last| last.elapsed() > kept_for)
    }

    /// Returns the number of environments that are likely to be up.
    pub fn environments(&self, memory_mb: u32) -> usize {
        self.sizes.get(&memory_mb).map_or(0, |environments| environments.count)
    }

    /// Returns the probability that one of the `at_once` environments of a query has no footer of a file: any may have had any of its fragments, or
    /// is new.
    pub fn misses_footer(&self, memory_mb: u32, at_once: usize, store: &str, file: &ObjectMeta) -> f64 {
        let Some(environments) = self.sizes.get(&memory_mb) else { return 1.0 };
        let fragments = environments.fragments.get(&key(store, file)).copied().unwrap_or_default();
        let others = 1.0 - 1.0 / environments.count.max(at_once).max(1) as f64;
        others.powf(f64::from(fragments))
    }
}

/// Hashes the place and the version of a file.
fn key(store: &str, ObjectMeta { location, last_modified, size, e_tag, .. }: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    (store, location.as_ref(), last_modified, size, e_tag).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u32 = 2048;
    const HERE: &str = "file:///";

    fn file(size: u64) -> ObjectMeta {
        let location = "t/a.parquet".into();
        ObjectMeta { location, last_modified: chrono::DateTime::UNIX_EPOCH, size, e_tag: None, version: None }
    }

    #[test]
    fn a_footer_is_missed_less_the_more_have_read_it() {
        // The only one has it after one fragment, one of two, too, half of four after 2.4, half of a hundred after 69.
        for (functions, least) in [(1, 1), (2, 1), (4, 3), (100, 69)] {
            let mut warm = WarmState::default();
            assert_eq!(warm.misses_footer(MB, functions, HERE, &file(1)), 1.0);
            let enough = (1..200).find(|_| {
                warm.query(MB, functions, [(HERE, &file(1))]);
                warm.misses_footer(MB, functions, HERE, &file(1)) <= 0.5
            });
            assert_eq!(enough, Some(least), "{functions} functions");
            assert_eq!(warm.environments(MB), functions);
            let others = [(MB, HERE, 2), (MB, "s3://bucket/", 1), (1024, HERE, 1)];
            for (memory_mb, store, size) in others {
                assert_eq!(
                    warm.misses_footer(memory_mb, functions, store, &file(size)),
                    1.0,
                    "{memory_mb} {store} {size}"
                );
            }
        }
    }

    #[test]
    fn environments_that_a_query_does_not_reach_learn_nothing() {
        let mut warm = WarmState::default();
        warm.query(MB, 1, [(HERE, &file(1))]);
        assert_eq!(warm.misses_footer(MB, 1, HERE, &file(1)), 0.0);
        assert_eq!(warm.misses_footer(MB, 4, HERE, &file(1)), 0.75, "three of the four are new");
        warm.query(MB, 4, []);
        for _ in 0..100 {
            warm.query(MB, 1, [(HERE, &file(1))]);
        }
        assert_eq!((warm.environments(MB), warm.misses_footer(MB, 4, HERE, &file(1))), (4, 0.75));
    }

    #[test]
    fn a_platform_keeps_nothing_for_long() {
        let kept_for = Duration::from_secs(300);
        let mut warm = WarmState::default();
        warm.query(MB, 2, []);
        assert!(!warm.is_cold(kept_for));
        warm.last_used = Instant::now().checked_sub(2 * kept_for);
        assert!(warm.is_cold(kept_for));
    }
}
