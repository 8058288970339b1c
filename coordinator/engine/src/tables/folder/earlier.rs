//! Answers of stores to the listings of earlier statements. A statement plans by them, and reads, while its own listings are under way.
//!
//! ```text
//!  statement ─┬─▶ its listing ───────────────────────┬─ the same ─▶ its rows go out
//!             └─▶ earlier answer ─▶ plan ─▶ reads ───┴─ another ──▶ it is planned anew
//! ```
//!
//! So nobody sees rows of files that a statement's own listing does not have. What was read for nothing is counted as the statement's.
//!
//! An answer that was wrong is forgotten, and the statement that it misled keeps no other. So a folder that changes all the time misleads
//! every second statement at most.
//!
//! Non-goals: files of this machine, which are listed at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta};

/// Objects of all answers that are kept. An object takes about 250 bytes.
const OBJECTS_MAX: usize = 100_000;

/// Store and path of what is asked for.
pub(super) type Place = (ObjectStoreUrl, Path);

/// Answers that the statements of a process share. If there is no room for one more, all others are forgotten.
#[derive(Debug, Default)]
pub struct EarlierListings(Mutex<Kept>);

#[derive(Debug, Default)]
pub(super) struct Kept {
    below: HashMap<Place, Arc<Vec<ObjectMeta>>>,
    folders: HashMap<Place, Arc<ListResult>>,
    files: HashMap<Place, Arc<Option<ObjectMeta>>>,
    objects: usize,
}

/// Answer to a question that a store is asked.
pub(super) trait Reply: Send + Sync + Sized + 'static {
    /// Counts what is in it.
    fn objects(&self) -> usize;
    fn is_same(&self, other: &Self) -> bool;
    fn of(kept: &mut Kept) -> &mut HashMap<Place, Arc<Self>>;
}

impl Reply for Vec<ObjectMeta> {
    fn objects(&self) -> usize {
        self.len()
    }

    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn of(kept: &mut Kept) -> &mut HashMap<Place, Arc<Self>> {
        &mut kept.below
    }
}

impl Reply for ListResult {
    fn objects(&self) -> usize {
        self.objects.len() + self.common_prefixes.len()
    }

    fn is_same(&self, other: &Self) -> bool {
        self.objects == other.objects && self.common_prefixes == other.common_prefixes
    }

    fn of(kept: &mut Kept) -> &mut HashMap<Place, Arc<Self>> {
        &mut kept.folders
    }
}

impl Reply for Option<ObjectMeta> {
    fn objects(&self) -> usize {
        1
    }

    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn of(kept: &mut Kept) -> &mut HashMap<Place, Arc<Self>> {
        &mut kept.files
    }
}

impl Kept {
    fn remove<T: Reply>(&mut self, place: &Place) {
        let left = T::of(self).remove(place);
        self.objects -= left.as_deref().map_or(0, room);
    }
}

/// Returns the room that an answer takes. One without objects takes room, too.
fn room<T: Reply>(answer: &T) -> usize {
    answer.objects() + 1
}

impl EarlierListings {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no holder panics")
    }

    pub(super) fn get<T: Reply>(&self, place: &Place) -> Option<Arc<T>> {
        T::of(&mut self.lock()).get(place).cloned()
    }

    /// Keeps the latest answer to a question.
    pub(super) fn keep<T: Reply>(&self, place: &Place, answer: &Arc<T>) {
        let mut kept = self.lock();
        kept.remove::<T>(place);
        let room = room(&**answer);
        if kept.objects + room > OBJECTS_MAX {
            *kept = Kept::default();
        }
        if room <= OBJECTS_MAX {
            kept.objects += room;
            T::of(&mut kept).insert(place.clone(), Arc::clone(answer));
        }
    }

    /// Forgets the answer to a question.
    pub(super) fn forget<T: Reply>(&self, place: &Place) {
        self.lock().remove::<T>(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_objects() {
        let listings = EarlierListings::default();
        let place = |name: &str| (ObjectStoreUrl::local_filesystem(), Path::from(name));
        let object = ObjectMeta {
            location: Path::from("a"),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: 1,
            e_tag: None,
            version: None,
        };
        let answer = |objects: usize| Arc::new(vec![object.clone(); objects]);
        for _ in 0..3 {
            listings.keep(&place("a"), &answer(OBJECTS_MAX / 2));
        }
        listings.keep(&place("b"), &answer(OBJECTS_MAX / 3));
        let found = |name: &str| listings.get::<Vec<ObjectMeta>>(&place(name)).map(|answer| answer.len());
        assert_eq!((found("a"), found("b")), (Some(OBJECTS_MAX / 2), Some(OBJECTS_MAX / 3)));
        listings.keep(&place("c"), &answer(OBJECTS_MAX / 3));
        assert_eq!((found("a"), found("b"), found("c")), (None, None, Some(OBJECTS_MAX / 3)));
        listings.keep(&place("c"), &answer(OBJECTS_MAX));
        assert_eq!(found("c"), None);
        listings.keep(&place("c"), &Arc::new(None));
        assert_eq!((found("c"), listings.lock().objects), (None, 2));
        listings.forget::<Option<ObjectMeta>>(&place("c"));
        assert_eq!(listings.lock().objects, 0);
    }
}
