//! Columns of a table that declares none: those of all of its files, each in a type that holds all values.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::datasource::file_format::FileFormat;
use fragment_fn::{repeated_name, with_optional_fields};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore};

use super::error::FolderError;
use super::footers;
use super::listing::File;
use super::names::FileKind;
use super::widen::widen;
use crate::tables::text::TextFormat;

/// Columns of one file.
#[derive(Debug, Clone)]
struct FileSchema {
    file: String,
    schema: SchemaRef,
}

/// Infers the columns of `files`, of which there is at least one.
///
/// # Errors
/// [`FolderError`] if types do not fit or a file has a name twice. For a file that cannot be read, an error with its
/// name.
pub(super) async fn infer(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    format: &Arc<dyn FileFormat>,
    kind: FileKind,
    files: &[File],
) -> Result<SchemaRef> {
    let text = format.downcast_ref::<TextFormat>().map(|text| text.clone().of_files(files.len()));
    let format = &text.map_or_else(|| Arc::clone(format), |text| Arc::new(text) as Arc<dyn FileFormat>);
    let at_once = state.config_options().execution.meta_fetch_concurrency.get();
    let schemas = files.iter().map(|file| async move {
        let schema = match kind {
            FileKind::Parquet => footers::schema(state, store, format, &file.meta).await?,
            _ => sampled(state, store, format, &file.meta).await?,
        };
        Ok::<_, datafusion::common::DataFusionError>(FileSchema { file: file.meta.location.to_string(), schema })
    });
    let schemas: Vec<_> = stream::iter(schemas).boxed().buffered(at_once).try_collect().await?;
    if kind == FileKind::Csv {
        same_headers(&schemas)?;
    }
    let merged = merge(kind, &schemas)?;
    match (merged.fields().is_empty(), schemas.first()) {
        (true, Some(FileSchema { file, .. })) if is_text(kind) => {
            Err(FolderError::NoColumns { example: file.clone() }.into())
        }
        _ => Ok(Arc::new(merged)),
    }
}

/// Infers a file's columns from its first rows, for formats without a footer.
async fn sampled(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    format: &Arc<dyn FileFormat>,
    file: &ObjectMeta,
) -> Result<SchemaRef> {
    let name = file.location.to_string();
    let schema = format.infer_schema(state, store, std::slice::from_ref(file)).await;
    let schema = schema.map_err(|error| error.context(format!("file `{name}`")))?;
    match repeated_name(&schema) {
        Some(column) => Err(FolderError::TwoColumns { file: name, column }.into()),
        None => Ok(schema),
    }
}

fn is_text(kind: FileKind) -> bool {
    matches!(kind, FileKind::Csv | FileKind::Json)
}

/// Returns a type in which what has no value yet is text.
fn without_null(of: &DataType) -> DataType {
    let field = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(without_null(field.data_type())));
    match of {
        DataType::Null => DataType::Utf8,
        DataType::List(element) => DataType::List(field(element)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        other => other.clone(),
    }
}

/// Checks that files have the same header, because columns of CSV are read by their place.
fn same_headers(files: &[FileSchema]) -> std::result::Result<(), FolderError> {
    let Some(FileSchema { file: first, schema: expect }) = files.first() else { return Ok(()) };
    for FileSchema { file: second, schema } in files {
        let mut pairs = expect.fields().iter().zip(schema.fields()).map(|(a, b)| (a.name(), b.name()));
        if let Some((of_first, of_second)) = pairs.find(|(a, b)| a != b) {
            return Err(FolderError::HeadersDiffer {
                first: first.clone(),
                of_first: of_first.clone(),
                second: second.clone(),
                of_second: of_second.clone(),
            });
        }
    }
    Ok(())
}

struct Column<'a> {
    field: Field,
    /// Name of the file that gave the column its type.
    file: &'a str,
    files: usize,
}

/// Merges all columns, in the order in which they turn up.
fn merge(kind: FileKind, files: &[FileSchema]) -> std::result::Result<Schema, FolderError> {
    let mut columns: Vec<Column<'_>> = Vec::new();
    for FileSchema { file, schema } in files {
        for field in schema.fields() {
            let Some(column) = columns.iter_mut().find(|column| column.field.name() == field.name()) else {
                columns.push(Column { field: field.as_ref().clone(), file, files: 1 });
                continue;
            };
            column.files += 1;
            let nullable = column.field.is_nullable() || field.is_nullable();
            let (held, found) = (column.field.data_type(), field.data_type());
            // Every value of CSV can be read as text.
            let as_text = (kind == FileKind::Csv).then_some(DataType::Utf8);
            let Some(wide) = widen(held, found).or(as_text) else {
                return Err(FolderError::TypesDiffer {
                    column: field.name().clone(),
                    first: column.file.to_owned(),
                    first_type: held.to_string(),
                    second: file.clone(),
                    second_type: found.to_string(),
                });
            };
            if wide != *held {
                column.file = file;
            }
            column.field = column.field.clone().with_data_type(wide).with_nullable(nullable);
        }
    }
    let fields = columns.into_iter().map(|column| {
        let is_everywhere = column.files == files.len();
        let nullable = column.field.is_nullable() || !is_everywhere;
        let of = if is_text(kind) { without_null(column.field.data_type()) } else { column.field.data_type().clone() };
        let field = column.field.with_data_type(of);
        with_optional_fields(&Arc::new(field.with_nullable(nullable)))
    });
    Ok(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, columns: &[(&str, DataType)]) -> FileSchema {
        let fields: Vec<Field> = columns.iter().map(|(name, of)| Field::new(*name, of.clone(), false)).collect();
        FileSchema { file: name.to_owned(), schema: Arc::new(Schema::new(fields)) }
    }

    #[test]
    fn a_column_that_a_file_lacks_is_nullable() {
        let files = [
            file("1", &[("a", DataType::Int32), ("b", DataType::Utf8View)]),
            file("2", &[("c", DataType::Int8), ("a", DataType::Int64)]),
        ];
        let merged = merge(FileKind::Parquet, &files).expect("they fit");
        let found: Vec<_> =
            merged.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone(), f.is_nullable())).collect();
        let expect = [("a", DataType::Int64, false), ("b", DataType::Utf8View, true), ("c", DataType::Int8, true)];
        assert_eq!(found, expect);
    }

    #[test]
    fn a_csv_column_is_text_if_a_file_has_text() {
        let files = [
            file("1", &[("a", DataType::Int64), ("b", DataType::Null), ("c", DataType::Int64)]),
            file("2", &[("a", DataType::Utf8), ("b", DataType::Null), ("c", DataType::Float64)]),
        ];
        let merged = merge(FileKind::Csv, &files).expect("they fit");
        let found: Vec<_> = merged.fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(found, [DataType::Utf8, DataType::Utf8, DataType::Float64]);
        same_headers(&files).expect("they are the same");
        let turned = [files[0].clone(), file("2", &[("b", DataType::Int64), ("a", DataType::Int64)])];
        let error = same_headers(&turned).expect_err("b stands where a is").to_string();
        assert!(error.contains("`a` in `1`") && error.contains("`b` in `2`"), "{error}");
    }

    #[test]
    fn files_whose_types_differ_are_named() {
        let files = [
            file("1", &[("a", DataType::Int32)]),
            file("2", &[("a", DataType::Int64)]),
            file("3", &[("a", DataType::Utf8View)]),
        ];
        let error = merge(FileKind::Parquet, &files).expect_err("a number and a text");
        let told = format!("{error}; {}", error.hint());
        for part in ["`a`", "Int64 in `2`", "Utf8View in `3`", "declare the columns"] {
            assert!(told.contains(part), "`{part}` is not in: {told}");
        }
    }
}
