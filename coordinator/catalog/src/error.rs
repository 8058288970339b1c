//! Errors of a table, by the caller's next step.

/// Error underneath, kept for its chain of sources.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing has this name: check the name.
    #[error("{what} not found{}", hint_line(.hint))]
    NotFound { what: String, hint: Option<String> },

    /// A file that the catalog, a table's metadata or the caller names is gone: restore it. `what` is its role.
    #[error("{what} {file} is not there{}", hint_line(.hint))]
    Missing { what: String, file: String, hint: Option<String> },

    /// Another table or namespace has this name: use it, or choose another name.
    #[error("{what} already exists")]
    AlreadyExists { what: String },

    /// The table uses something that would be read wrongly: nothing was read.
    #[error("table {table} has {feature}, which is not supported\nhint: {next}")]
    Unsupported { table: String, feature: String, next: &'static str },

    /// A metadata file does not hold valid metadata. `what` is its role, where the role is known.
    #[error("cannot make sense of {what}{file}")]
    Corrupt {
        what: String,
        file: String,
        next: Option<&'static str>,
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

    /// Another commit came first, and this one changed nothing: load the table again.
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
    pub(crate) fn corrupt(file: impl Into<String>, source: impl Into<Cause>) -> Self {
        Error::Corrupt { what: String::new(), file: file.into(), next: None, source: source.into() }
    }

    pub(crate) fn unreachable(location: impl Into<String>, source: impl Into<Cause>) -> Self {
        Error::Unreachable { location: location.into(), source: source.into() }
    }

    pub(crate) fn from_object_store(location: &str, error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => {
                Error::Missing { what: "file".to_string(), file: location.to_string(), hint: None }
            }
            error => Error::unreachable(location, error),
        }
    }

    /// Adds the table, and the role of a missing or damaged file in it.
    pub(crate) fn in_table(self, table: &str, part: Part) -> Self {
        let (name, next) = match part {
            Part::Metadata => ("metadata file", "restore it; the folder may hold other versions of the table"),
            Part::ManifestList => ("manifest list", "restore it, or roll the table back to an earlier snapshot"),
            Part::Manifest => ("manifest", "restore it, or roll the table back to an earlier snapshot"),
        };
        match self {
            Error::Missing { file, .. } => {
                Error::Missing { what: format!("table {table}: its {name}"), file, hint: Some(next.to_string()) }
            }
            Error::Corrupt { what, file, source, .. } if what.is_empty() => {
                Error::Corrupt { what: format!("the {name} of table {table}, "), file, next: Some(next), source }
            }
            other => other,
        }
    }

    /// Returns the next step after an [`Error::Corrupt`] or an [`Error::Unreachable`]. None where the message says enough.
    pub fn next_step(&self) -> Option<&'static str> {
        if let Error::Corrupt { next, .. } = self {
            return *next;
        }
        let Error::Unreachable { location, source } = self else { return None };
        if source.is::<sqlx::Error>() {
            return Some("check that the catalog's path is an SQLite database that can be read");
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source.as_ref());
        while let Some(current) = cause {
            match current.downcast_ref::<object_store::Error>() {
                Some(object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) => {
                    return Some("check the credentials and the bucket's policy");
                }
                Some(object_store::Error::Generic { store: "LocalFileSystem", .. }) => {
                    return Some("check that the file can be read");
                }
                _ => cause = current.source(),
            }
        }
        location.contains("://").then_some("check the location, the endpoint, the region and the network")
    }

    /// Converts an error of iceberg's work on `file`. The fault is the storage's, or else the file's.
    pub(crate) fn from_iceberg(file: &str, error: iceberg::Error) -> Self {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.is::<object_store::Error>() || source.is::<Error>()) {
            Error::unreachable(file, error)
        } else {
            Error::corrupt(file, error)
        }
    }
}

/// Role of a metadata file in its table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Metadata,
    ManifestList,
    Manifest,
}
