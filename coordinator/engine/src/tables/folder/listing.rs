//! Files of a location, found with as few and as narrow listings as its pattern and filters allow.
//!
//! ```text
//!  location ─▶ a file? ─▶ itself (one HEAD)
//!           └▶ a folder or pattern ─▶ level by level (one LIST a folder) while pattern or filters may rule folders out
//!                                  └▶ then everything below at once
//! ```
//!
//! A folder is read with all its sub-folders. A store is asked the same question once a statement (`listings`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::{DataFusionError, Result};
use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::error::FolderError;
use super::filter::PartitionFilter;
use super::glob::{Glob, NamePlace, is_pattern};
use super::listings::{ListedStore, Listings};
use super::location::{TableLocation, path_of};
use super::names::{self, FileKind};
use super::partitions::{self, FolderValue};
use arrow::datatypes::FieldRef;

/// Listings that run at once.
const LISTINGS_MAX: usize = 32;

/// Folders of one level that are always listed one by one. A wider level is listed so only if some of its folders were
/// ruled out.
const FOLDERS_MAX: usize = 64;

/// A filter of the files of a location.
#[derive(Clone, Copy)]
pub(super) struct ListFilter<'a> {
    pub(super) columns: &'a [FieldRef],
    pub(super) filter: Option<&'a PartitionFilter>,
    /// True if plain sub-folders are read, too.
    pub(super) nested: bool,
}

/// Files that a listing found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files in the order of their paths.
    pub(super) files: Vec<File>,
    left_out: usize,
    /// Name of the first file that was left out.
    example: Option<String>,
    /// True if filters ruled folders or files out.
    pub(super) pruned: bool,
}

/// A file and the way in which it was found.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) meta: ObjectMeta,
    /// Number of names at the beginning of its path that the statement did not write. They are no partitions.
    pub(super) implied_names: usize,
    /// True if the statement asked for its name or its extension.
    pub(super) is_named: bool,
    /// True if all folders were searched for it: by `**`, or because a folder is read with all that is in it.
    is_searched: bool,
}

impl File {
    /// Returns the names of the folders that may be partitions.
    pub(super) fn folders(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.meta.location.as_ref().split('/').skip(self.implied_names).collect();
        names.pop();
        names
    }

    pub(super) fn name(&self) -> &str {
        self.meta.location.filename().unwrap_or_default()
    }
}

/// Lists a location.
///
/// # Errors
/// The store's own error, with the location. [`FolderError`] for a table of another kind, or for a text that is no
/// location.
pub(super) async fn find(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    location: &TableLocation,
    wanted: ListFilter<'_>,
) -> Result<Listing> {
    let mut found = Listing::default();
    for reading in [Some(location.clone()), location.decoded()].into_iter().flatten() {
        reading.check_granted()?;
        let store = ListedStore { store, url: &reading.store, listings: Listings::of(state) };
        let read = LocationLister { store, location: &reading, wanted }.read().await;
        found = read.map_err(|error| with_location(location, error))?;
        if !found.files.is_empty() || found.pruned {
            break;
        }
    }
    // A link, or another reading of the text, may lead out of what the writer may name.
    if let Some(grants) = &location.grants {
        found.files.iter().try_for_each(|file| grants.check(location.store.as_str(), &file.meta.location))?;
    }
    if location.is_local() {
        found.files = once_each(found.files);
    }
    found.files.sort_by(|a, b| a.meta.location.cmp(&b.meta.location));
    found.files.dedup_by(|a, b| a.meta.location == b.meta.location);
    Ok(found)
}

/// A file and its real path.
struct PlacedFile {
    /// True if a link leads to its folder.
    is_linked: bool,
    path: PathBuf,
    file: File,
}

/// Drops files that a search through all folders found a second time, by a link to a folder that it searched anyway.
fn once_each(files: Vec<File>) -> Vec<File> {
    let mut real_folders: HashMap<PathBuf, PathBuf> = HashMap::new();
    let mut place = |file: File| {
        let path = std::path::Path::new("/").join(file.meta.location.as_ref());
        let folder = path.parent().unwrap_or(&path).to_owned();
        let real =
            real_folders.entry(folder.clone()).or_insert_with(|| folder.canonicalize().unwrap_or(folder.clone()));
        PlacedFile { is_linked: *real != folder, path: real.join(file.name()), file }
    };
    let mut placed: Vec<PlacedFile> = files.into_iter().map(&mut place).collect();
    placed.sort_by_key(|placed| placed.is_linked);
    let mut seen = HashSet::new();
    placed.retain(|placed| seen.insert(placed.path.clone()) || !(placed.is_linked && placed.file.is_searched));
    placed.into_iter().map(|placed| placed.file).collect()
}

/// Adds the location to the error of a listing.
fn with_location(location: &TableLocation, error: DataFusionError) -> DataFusionError {
    let location = location.text.clone();
    match error.find_root() {
        DataFusionError::ObjectStore(inner) => match inner.as_ref() {
            object_store::Error::InvalidPath { source } => {
                FolderError::NotAName { location, reason: source.to_string() }.into()
            }
            _ => error.context(format!("`{location}`")),
        },
        _ => error.context(format!("`{location}`")),
    }
}

impl Listing {
    /// Returns the reason why there is no file.
    pub(super) fn no_file_error(self, location: &TableLocation) -> FolderError {
        let location = location.text.clone();
        match self.example {
            Some(example) => FolderError::OnlyLeftOut { location, count: self.left_out, example },
            None => FolderError::Nothing { location },
        }
    }

    /// Tells if a table may well have no file here. Its folder is there, or filters want none of its files, or it has
    /// only the files that writers leave beside data. Files of another format are no empty table.
    pub(super) fn is_empty_table(&self, location: &TableLocation, other: &[File]) -> bool {
        let is_of_another = |file: &File| FileKind::of_file(file.name()).is_some();
        !other.iter().any(is_of_another) && (self.pruned || self.left_out > 0 || location.is_local_folder())
    }

    /// Counts files of another kind as left out.
    pub(super) fn with_other(mut self, other: &[File]) -> Self {
        other.iter().for_each(|file| self.leave_out(&file.meta.location));
        self
    }

    fn leave_out(&mut self, path: &Path) {
        self.left_out += 1;
        self.example.get_or_insert_with(|| path.filename().unwrap_or_default().to_owned());
    }
}

struct LocationLister<'a> {
    store: ListedStore<'a>,
    location: &'a TableLocation,
    wanted: ListFilter<'a>,
}

impl LocationLister<'_> {
    async fn read(&self) -> Result<Listing> {
        let pattern = self.location.pattern();
        if !is_pattern(&pattern) {
            return self.literal().await;
        }
        // A name may have a pattern's characters, as in `a[1].parquet`. A file of that name goes before the files that
        // match.
        let is_likely_a_name = pattern.contains(['[', '{']) && !self.location.is_folder;
        if is_likely_a_name && let Some(found) = self.file().await? {
            return Ok(found);
        }
        let no_location = |reason| FolderError::NotALocation { location: self.location.text.clone(), reason };
        let found = self.matching(Glob::parse(&pattern).map_err(no_location)?).await?;
        if !found.files.is_empty() || found.pruned {
            return Ok(found);
        }
        // Folders may match, too. A text that looks like a pattern may still be a name.
        if !self.location.is_folder {
            let below = self.matching(Glob::parse(&format!("{pattern}/")).map_err(no_location)?).await?;
            if !below.files.is_empty() {
                return Ok(below);
            }
        }
        let literal = self.literal().await?;
        Ok(if literal.files.is_empty() { found } else { literal })
    }

    /// Reads the location as a file, or as a folder with all that is in it.
    async fn literal(&self) -> Result<Listing> {
        if !self.location.is_folder
            && let Some(found) = self.file().await?
        {
            return Ok(found);
        }
        self.walk(path_of(self.location.names.iter().map(String::as_str))?, &[]).await
    }

    /// Reads the location as a file, if it is one.
    async fn file(&self) -> Result<Option<Listing>> {
        let path = path_of(self.location.names.iter().map(String::as_str))?;
        Ok(self.store.file(&path).await?.map(|meta| self.single_file(meta)))
    }

    fn single_file(&self, meta: ObjectMeta) -> Listing {
        let mut found = Listing::default();
        if meta.size == 0 {
            found.leave_out(&meta.location);
        } else {
            found.files.push(File {
                meta,
                implied_names: self.location.implied_names,
                is_named: true,
                is_searched: false,
            });
        }
        found
    }

    async fn matching(&self, globs: Vec<Glob>) -> Result<Listing> {
        // Each folder that is named literally gets one walk.
        let mut by_root: BTreeMap<Vec<String>, Vec<Glob>> = BTreeMap::new();
        for glob in globs {
            by_root.entry(glob.root.clone()).or_default().push(glob);
        }
        let mut all = Listing::default();
        for (root, globs) in by_root {
            let found = self.walk(path_of(root.iter().map(String::as_str))?, &globs).await?;
            all.files.extend(found.files);
            all.left_out += found.left_out;
            all.example = all.example.or(found.example);
            all.pruned |= found.pruned;
        }
        Ok(all)
    }

    /// Goes down from `root`. Without patterns everything matches.
    async fn walk(&self, root: Path, globs: &[Glob]) -> Result<Listing> {
        let walk = Walk { lister: self, depth_of_root: root.parts_count(), globs };
        let mut found = Listing::default();
        let mut level = vec![root];
        let mut rules_out = true;
        while !level.is_empty() {
            // A wide level in which nothing could be ruled out is likely to go on like that.
            let by_level = rules_out || level.len() <= FOLDERS_MAX;
            let (narrow, whole): (Vec<_>, Vec<_>) =
                level.into_iter().partition(|folder| by_level && walk.narrows(folder));
            let listings = whole
                .into_iter()
                .map(|folder| async move { self.store.below(&folder).await }.try_flatten_stream().boxed());
            let mut objects = stream::iter(listings).flatten_unordered(LISTINGS_MAX);
            while let Some(meta) = objects.try_next().await? {
                walk.add_object(meta, &mut found)?;
            }
            let listings = narrow.into_iter().map(|folder| async move { self.store.folder(&folder).await });
            let mut listings = stream::iter(listings).buffered(LISTINGS_MAX);
            level = Vec::new();
            let mut seen = 0;
            while let Some(listed) = listings.try_next().await? {
                for meta in &listed.objects {
                    walk.add_object(meta.clone(), &mut found)?;
                }
                seen += listed.common_prefixes.len();
                for folder in &listed.common_prefixes {
                    if walk.goes_into(folder, &mut found)? {
                        level.push(folder.clone());
                    }
                }
            }
            rules_out = level.len() < seen;
        }
        Ok(found)
    }
}

/// One way down from a folder.
struct Walk<'a> {
    lister: &'a LocationLister<'a>,
    depth_of_root: usize,
    globs: &'a [Glob],
}

impl Walk<'_> {
    fn names<'p>(&self, path: &'p Path) -> Vec<&'p str> {
        path.as_ref().split_terminator('/').skip(self.depth_of_root).collect()
    }

    fn values(&self, folders: &[&str]) -> Vec<Option<FolderValue>> {
        partitions::values(self.lister.wanted.columns, folders.iter().copied())
    }

    /// Returns the names of `folder` that may be partitions.
    fn partition_folders<'p>(&self, folder: &'p Path) -> Vec<&'p str> {
        folder.as_ref().split_terminator('/').skip(self.lister.location.implied_names).collect()
    }

    /// Tells if it pays to list one folder before those below it.
    fn narrows(&self, folder: &Path) -> bool {
        let depth = self.names(folder).len();
        let by_filter = || {
            let filter = self.lister.wanted.filter;
            filter.is_some_and(|filter| filter.needs_more_than(&self.values(&self.partition_folders(folder))))
        };
        self.globs.iter().any(|glob| glob.narrows(depth)) || by_filter()
    }

    /// Tells if a folder that turned up may hold files that are wanted.
    fn goes_into(&self, folder: &Path, found: &mut Listing) -> Result<bool> {
        let names = self.names(folder);
        let Some((name, above)) = names.split_last() else { return Ok(false) };
        self.refuse_other_tables(&names)?;
        let matches = |glob: &Glob| glob.may_be_below(&names);
        if self.is_hidden(name, NamePlace::Folder { depth: above.len() })
            || !(self.globs.is_empty() || self.globs.iter().any(matches))
            || self.is_skipped_sub_folder(name)
        {
            return Ok(false);
        }
        let Some(filter) = self.lister.wanted.filter else { return Ok(true) };
        let matches = filter.may_match(&self.values(&self.partition_folders(folder)))?;
        found.pruned |= !matches;
        Ok(matches)
    }

    /// Adds an object to the files that were found, if it is data that is wanted.
    fn add_object(&self, meta: ObjectMeta, found: &mut Listing) -> Result<()> {
        let names = self.names(&meta.location);
        let Some((file, folders)) = names.split_last() else { return Ok(()) };
        self.refuse_other_tables(&names)?;
        let glob = self.globs.iter().find(|glob| glob.matches(&names));
        if !self.globs.is_empty() && glob.is_none() {
            return Ok(());
        }
        let in_hidden =
            folders.iter().enumerate().any(|(depth, name)| self.is_hidden(name, NamePlace::Folder { depth }));
        if meta.size == 0 || in_hidden || self.is_hidden(file, NamePlace::File) || names::is_unfinished(file) {
            found.leave_out(&meta.location);
            return Ok(());
        }
        if folders.iter().any(|name| self.is_skipped_sub_folder(name)) {
            return Ok(());
        }
        let is_named = glob.is_some_and(Glob::names_extension);
        let is_searched = glob.is_none_or(Glob::is_deep);
        let file = File { meta, implied_names: self.lister.location.implied_names, is_named, is_searched };
        if let Some(filter) = self.lister.wanted.filter
            && !filter.may_match(&self.values(&file.folders()))?
        {
            found.pruned = true;
            return Ok(());
        }
        found.files.push(file);
        Ok(())
    }

    fn is_hidden(&self, name: &str, place: NamePlace) -> bool {
        names::hiding_character(name)
            .is_some_and(|first| !self.globs.iter().any(|glob| glob.asks_for_hidden(place, first)))
    }

    /// Tells if a folder is a plain sub-folder that the session's settings leave out.
    fn is_skipped_sub_folder(&self, folder: &str) -> bool {
        self.globs.is_empty() && !self.lister.wanted.nested && partitions::folder_key(folder).is_none()
    }

    /// Refuses the files of a table that keeps a list of its valid files. They must not be read without the list.
    fn refuse_other_tables(&self, names: &[&str]) -> Result<()> {
        if !self.globs.is_empty() {
            return Ok(());
        }
        let (format, hint) = if names.contains(&"_delta_log") {
            ("Delta Lake", "read it with a tool that knows Delta Lake, or name its files: 'folder/*.parquet'")
        } else if names.contains(&".hoodie") {
            ("Apache Hudi", "read it with a tool that knows Hudi, or name its files: 'folder/**/*.parquet'")
        } else if let [.., "metadata", file] = names
            && file.ends_with(".metadata.json")
        {
            ("Iceberg", "CREATE EXTERNAL TABLE … STORED AS ICEBERG LOCATION '…'")
        } else {
            return Ok(());
        };
        let location = self.lister.location.text.clone();
        Err(FolderError::OtherTable { location, format, hint }.into())
    }
}
