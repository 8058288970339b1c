//! Faults of a location or its files, with the next step.

use datafusion::common::DataFusionError;

/// A location that cannot be a table, or files that do not make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    #[error("`{location}`: there is no such file, and no file matches it")]
    Nothing { location: String },
    #[error("`{location}`: there is no data in it; {}", left_out(*count, example))]
    OnlyLeftOut { location: String, count: usize, example: String },
    #[error("`{location}`: {reason}")]
    NotALocation { location: String, reason: String },
    /// Keeps the store's own reason, because the store checks names.
    #[error("`{location}`: a name below it cannot be read: {reason}")]
    NotAName { location: String, reason: String },
    #[error("`{location}` holds files of several formats: `{first}` and `{second}`")]
    SeveralFormats { location: String, first: String, second: String, extension: String },
    #[error(
        "`{location}` is a table of {format}, not a folder of files: its files alone do not say which rows are valid"
    )]
    OtherTable { location: String, format: &'static str, hint: &'static str },
    #[error("file `{file}` lies in no folder `{column}=…`, and the table is partitioned by `{column}`")]
    NoPartition { file: String, column: String },
    #[error("folder `{folder}`: `{value}` is no {data_type}, the type of the partition column `{column}`")]
    BadPartition { folder: String, column: String, value: String, data_type: String },
    #[error("column `{column}` is {first_type} in `{first}` and {second_type} in `{second}`")]
    TypesDiffer { column: String, first: String, first_type: String, second: String, second_type: String },
    #[error(
        "a column is called `{of_first}` in `{first}` and `{of_second}` in `{second}`; columns of CSV are read by their place"
    )]
    HeadersDiffer { first: String, of_first: String, second: String, of_second: String },
    #[error("file `{file}` has two columns named `{column}`")]
    TwoColumns { file: String, column: String },
    /// Begins with the engine's words, which tools know.
    #[error("Unable to find factory for {format}; known are {known}")]
    NoFormat { format: String, known: String, hint: &'static str },
    #[error(
        "`{location}`: several locations of one table lie in one store; this one is in {other}, the first in {first}"
    )]
    SeveralStores { location: String, first: String, other: String },
    #[error("location `{location}` is given twice")]
    SameLocation { location: String },
    #[error("file `{file}` is packed in a way that is not read")]
    Compressed { file: String },
    #[error("`{location}`: the name `{example}` does not say what the files are")]
    NoKind { location: String, example: String },
    #[error("`{example}` has no row that tells the columns")]
    NoColumns { example: String },
}

fn left_out(count: usize, example: &str) -> String {
    match count {
        1 => format!("1 name was left out: `{example}`"),
        count => format!("{count} names were left out, among them `{example}`"),
    }
}

impl FolderError {
    /// Returns the next step.
    pub fn hint(&self) -> String {
        match self {
            Self::Nothing { .. } => "check the path; a folder is read with all its sub-folders".to_owned(),
            Self::OnlyLeftOut { .. } => "an empty file is no data; a name that begins with _ or . is read only if it is named in full".to_owned(),
            Self::NotALocation { .. } => "write it as folder/name, with *, **, ?, [a-c], [!a-c] and {a,b} for patterns".to_owned(),
            Self::NotAName { .. } => "rename it; names must have no control characters, and none may be empty as in a//b".to_owned(),
            Self::SeveralFormats { location, extension, .. } => format!("name one kind, such as '{location}*.{extension}'"),
            Self::OtherTable { hint, .. } => (*hint).to_owned(),
            Self::NoPartition { column, .. } => format!("move it there, or leave `{column}` out of PARTITIONED BY"),
            Self::BadPartition { column, .. } => format!("declare `{column}` as VARCHAR, or rename the folder"),
            Self::TypesDiffer { .. } => "declare the columns in CREATE EXTERNAL TABLE (…) with the types that you want, or rewrite one of the files".to_owned(),
            Self::HeadersDiffer { .. } => "write the files with one header, or read them one by one".to_owned(),
            Self::TwoColumns { .. } => "write it again with names that differ".to_owned(),
            Self::NoFormat { hint, .. } => (*hint).to_owned(),
            Self::SeveralStores { .. } => "make a table of each, and a view with UNION ALL".to_owned(),
            Self::SameLocation { .. } => "leave one out".to_owned(),
            Self::Compressed { .. } => "pack it by gzip, zstd, bzip2 or xz, or write it as Parquet".to_owned(),
            Self::NoKind { location, .. } => format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{location}' says so; JSON and PARQUET are others"),
            Self::NoColumns { .. } => "declare the columns: CREATE EXTERNAL TABLE t (a INT) …".to_owned(),
        }
    }
}

impl From<FolderError> for DataFusionError {
    fn from(error: FolderError) -> Self {
        Self::External(Box::new(error))
    }
}
