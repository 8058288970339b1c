//! What can go wrong with a table, by what the caller can do about it.

/// The error underneath, kept for its chain of sources.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing has this name, or no file is there: check the name.
    #[error("{what} not found{}", hint_line(.hint))]
    NotFound { what: String, hint: Option<String> },

    /// Something has this name already: use it, or choose another name.
    #[error("{what} already exists")]
    AlreadyExists { what: String },

    /// The table uses something that would be read wrongly: nothing was read.
    #[error("table {table} has {feature}, which is not supported\nhint: {next}")]
    Unsupported { table: String, feature: String, next: &'static str },

    /// A metadata file does not hold what it should.
    #[error("cannot make sense of {file}")]
    Corrupt {
        file: String,
        #[source]
        source: Cause,
    },

    /// Storage or the catalog database did not answer: try again or check its settings.
    #[error("cannot reach {location}")]
    Unreachable {
        location: String,
        #[source]
        source: Cause,
    },

    /// Another commit came first and this one changed nothing: load the table again.
    #[error("table {table} was changed by another commit since it was loaded\nhint: load it again")]
    Conflict { table: String },

    /// The commit may or may not have happened: load the table to see. Its data files must stay.
    #[error("cannot tell whether the commit to table {table} happened\nhint: load it again before retrying")]
    CommitUnknown {
        table: String,
        #[source]
        source: Cause,
    },

    /// The caller passed something that cannot be used.
    #[error("{0}")]
    Invalid(String),
}

fn hint_line(hint: &Option<String>) -> String {
    hint.as_ref().map_or_else(String::new, |hint| format!("\nhint: {hint}"))
}

impl Error {
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Error::NotFound { what: what.into(), hint: None }
    }

    pub(crate) fn corrupt(file: impl Into<String>, source: impl Into<Cause>) -> Self {
        Error::Corrupt { file: file.into(), source: source.into() }
    }

    pub(crate) fn unreachable(location: impl Into<String>, source: impl Into<Cause>) -> Self {
        Error::Unreachable { location: location.into(), source: source.into() }
    }

    pub(crate) fn from_object_store(location: &str, error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Error::NotFound { what: format!("file {location}"), hint: None },
            error => Error::unreachable(location, error),
        }
    }

    /// An error of iceberg's while it worked on `file`: of the storage beneath it, or because the
    /// file is not what it should be.
    pub(crate) fn from_iceberg(file: &str, error: iceberg::Error) -> Self {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.is::<object_store::Error>() || source.is::<Error>()) {
            Error::unreachable(file, error)
        } else {
            Error::corrupt(file, error)
        }
    }
}
