//! Delete files of a manifest.

use std::sync::Arc;

use super::choose::{Chooser, sequence_number};
use super::entry::{Content, DecodedManifest, DeleteParts, Entry, Format};
use super::list::ManifestFile;
use crate::deletes::{Delete, DeleteIndex, DeleteKind, EqualityKey, PATH_FIELD_ID};
use crate::error::{Error, MetadataFile, Result};
use crate::scan::{COMPACT, DeleteContent, DeleteFile, FilePath};
use crate::table::Table;
use crate::types::Type;

/// Delete file of a manifest, with what its readers need.
#[derive(Debug)]
pub(crate) struct FoundDelete {
    pub(crate) delete: Delete,
    pub(crate) path: FilePath,
    pub(crate) size_bytes: u64,
    pub(crate) format: Format,
    pub(crate) is_encrypted: bool,
    /// Offset and bytes of a vector.
    pub(crate) place: Option<(u64, u64)>,
}

impl FoundDelete {
    /// Makes the delete file that a reader is told of.
    ///
    /// # Errors
    /// Unsupported or corrupt: a format or a key that no reader can apply.
    pub(crate) fn to_read(&self, table: &Table, index: &DeleteIndex) -> Result<DeleteFile> {
        let path = &self.path;
        let unsupported = |feature| Err(Error::Unsupported { table: table.name().to_owned(), feature, next: COMPACT });
        if self.is_encrypted {
            return unsupported(format!("encrypted delete files ({path})"));
        }
        let content = match &self.delete.kind {
            DeleteKind::Vector { .. } => {
                let (offset, bytes) = self.place.unwrap_or_default();
                DeleteContent::Vector { offset, bytes }
            }
            _ if self.format != Format::Parquet => {
                return unsupported(format!("delete files in format {} ({path})", self.format));
            }
            DeleteKind::Positions { .. } => DeleteContent::Positions,
            DeleteKind::Equality { keys, .. } => {
                for EqualityKey { id, ty, .. } in keys {
                    match ty {
                        None => {
                            let why = format!("{path} deletes by field {id}, which no schema of the table has");
                            let error = Error::corrupt(&*self.delete.manifest, why);
                            return Err(error.in_table(table.name(), MetadataFile::Manifest));
                        }
                        Some(ty @ (Type::Float | Type::Double)) => {
                            let column = table.metadata().field(*id).map(|found| found.name).unwrap_or_default();
                            return unsupported(format!("equality deletes by column {column} of type {ty}"));
                        }
                        Some(_) => {}
                    }
                }
                DeleteContent::Equality {
                    ids: keys.iter().map(|key| key.id).collect(),
                    scope: index.scope(&self.delete),
                    sequence_number: self.delete.sequence_number,
                }
            }
        };
        Ok(DeleteFile {
            path: path.clone(),
            size_bytes: self.size_bytes,
            record_count: self.delete.record_count,
            content,
        })
    }
}

impl Chooser {
    /// Lists the delete files of a manifest.
    pub(crate) fn deletes(&self, manifest: &DecodedManifest, of: &ManifestFile) -> Result<Vec<FoundDelete>> {
        let positions = self.positions(manifest, &of.path)?;
        let location: Arc<str> = of.path.as_str().into();
        let mut keys: Vec<Option<Arc<[u8]>>> = vec![None; manifest.tuples()];
        let mut deletes = Vec::with_capacity(manifest.entries.len());
        for entry in &manifest.entries {
            let Some(key) = keys.get_mut(entry.tuple as usize) else {
                return Err(Error::corrupt(&of.path, format!("entry {} has no partition values", entry.number)));
            };
            let key = key.get_or_insert_with(|| self.partition_key(manifest, entry.tuple, &positions));
            deletes.push(FoundDelete {
                delete: Delete {
                    path: manifest.path(entry),
                    manifest: Arc::clone(&location),
                    sequence_number: sequence_number(entry, of)?,
                    partition: Arc::clone(key),
                    record_count: entry.record_count,
                    kind: self.delete_kind(manifest, entry, &of.path)?,
                },
                path: FilePath { folder: manifest.folder(entry), name: manifest.name(entry).into() },
                size_bytes: entry.size_bytes,
                format: entry.format,
                is_encrypted: entry.is_encrypted,
                place: entry.delete.as_ref().and_then(|parts| Some((parts.offset?, parts.bytes?))),
            });
        }
        Ok(deletes)
    }

    fn delete_kind(&self, manifest: &DecodedManifest, entry: &Entry, location: &str) -> Result<DeleteKind> {
        let none = DeleteParts::default();
        let parts = entry.delete.as_deref().unwrap_or(&none);
        let corrupt = |what: &str| Err(Error::corrupt(location, format!("{what} {}", manifest.path(entry))));
        let facts = |id: i32| {
            let metrics = manifest.metrics(entry).iter().find(|metrics| metrics.id == id)?;
            Some(self.wanted.facts(manifest, metrics))
        };
        let of = || parts.data_file.as_ref().map(|path| path.to_string());
        match (entry.content, entry.format) {
            (Content::Data, _) => corrupt("it lists among delete files data file"),
            (Content::PositionDeletes, Format::Puffin) => match (of(), parts.offset.zip(parts.bytes)) {
                (None, _) => corrupt("it names no data file for deletion vector"),
                (_, None) => corrupt("it has no place for deletion vector"),
                (Some(of), Some(_)) => Ok(DeleteKind::Vector { of }),
            },
            (Content::PositionDeletes, _) => Ok(DeleteKind::Positions { of: of(), paths: facts(PATH_FIELD_ID) }),
            (Content::EqualityDeletes, _) if parts.equality_ids.is_empty() => {
                corrupt("it names no columns for equality delete")
            }
            (Content::EqualityDeletes, _) => {
                let key = |id: &i32| EqualityKey { id: *id, ty: self.wanted.ty(*id), facts: facts(*id) };
                let keys = parts.equality_ids.iter().map(key).collect();
                Ok(DeleteKind::Equality { keys, is_global: self.is_unpartitioned() })
            }
        }
    }
}
