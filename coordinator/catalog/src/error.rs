//! Errors of a table, by the caller's next step.

/// Error underneath, kept for its chain of sources.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing has this name: check the name.
    #[error("{what} not found")]
    NotFound { what: String, hint: Option<String> },

    /// A file that the catalog, a table's metadata or the caller names is gone: restore it. `what` is its role.
    #[error("{what} {file} is not there")]
    Missing { what: String, file: String, hint: Option<String> },

    /// Another table or namespace has this name: use it, or choose another name.
    #[error("{what} already exists")]
    AlreadyExists { what: String },

    /// The table uses something that would be read wrongly: nothing was read.
    #[error("table {table} has {feature}, which is not supported")]
    Unsupported { table: String, feature: String, next: &'static str },

    /// A metadata file does not hold valid metadata. `what` is its role, where the role is known.
    #[error("cannot read {what}{file}")]
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

    /// A table has no such version, or has it no more.
    #[error("table {table} has no {version}")]
    NoVersion { table: String, version: String, hint: Option<String> },

    /// A catalog's settings cannot be used.
    #[error("catalog {catalog}: {why}")]
    Setting { catalog: String, why: String },

    /// A catalog does not accept the credentials, or no token can be had: correct them.
    #[error("catalog {catalog} does not accept the credentials ({status}): {why}")]
    Unauthorized { catalog: String, status: u16, why: String },

    /// A catalog knows who asks, and forbids it: ask for the right.
    #[error("catalog {catalog} forbids to read {what} (403): {why}")]
    Forbidden { catalog: String, what: String, why: String },

    /// A catalog answers with something else than what was asked for.
    #[error("{location} answers with status {status}: {why}")]
    Refused { location: String, status: u16, why: String },

    /// A catalog lends credentials for other files than the table's.
    #[error("{}its catalog lends credentials for {}, not for {file}", of_table(table), prefixes.join(", "))]
    NotLent { table: String, file: String, prefixes: Vec<String> },

    /// Another commit came first, and this one changed nothing: load the table again.
    #[error("table {table} was changed by another commit since it was loaded")]
    Conflict { table: String },

    /// The commit may or may not have happened: load the table to see. Its data files must stay.
    #[error("cannot tell whether the commit to table {table} happened")]
    CommitUnknown {
        table: String,
        #[source]
        source: Cause,
    },

    /// The database is another program's.
    #[error("database {database} is not an Iceberg catalog: it has no table iceberg_tables")]
    NotACatalog { database: String },

    /// Which of a folder's metadata files counts cannot be told.
    #[error("folder {folder} has two newest metadata files, {one} and {other}")]
    Ambiguous { folder: String, one: String, other: String },

    /// The caller passed something that cannot be used.
    #[error("{0}")]
    Invalid(String),
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
    pub(crate) fn in_table(self, table: &str, role: MetadataFile) -> Self {
        let name = role.name();
        let next = match role {
            MetadataFile::Metadata => "restore it; the folder may hold other versions of the table",
            MetadataFile::ManifestList | MetadataFile::Manifest => {
                "restore it, or roll the table back to an earlier snapshot"
            }
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

    /// Puts another next step for a file that does not hold what it should.
    pub(crate) fn with_next(self, next: &'static str) -> Self {
        match self {
            Error::Corrupt { what, file, source, .. } => Error::Corrupt { what, file, next: Some(next), source },
            other => other,
        }
    }

    /// Returns the next step. None where the message says enough.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::NotFound { hint, .. } | Error::Missing { hint, .. } | Error::NoVersion { hint, .. } => {
                hint.as_deref()
            }
            Error::NotACatalog { .. } => Some("check the catalog's path in the configuration"),
            Error::Ambiguous { .. } => Some("pass the path of the right one"),
            Error::Unsupported { next, .. } => Some(next),
            Error::Corrupt { next, .. } => *next,
            Error::Unreachable { location, source } => unreachable_hint(location, source.as_ref()),
            Error::Setting { .. } => Some("check the catalog's settings in the configuration"),
            Error::Unauthorized { status: 400 | 403, .. } => {
                Some("check the AWS keys (their session may have ended), the region, and this machine's clock")
            }
            Error::Unauthorized { .. } => Some("check the catalog's token, its OAuth2 settings or the AWS credentials"),
            Error::Forbidden { .. } => Some("ask the catalog's owner for the right to read it"),
            Error::Refused { status: 429 | 503, .. } => Some("try again later"),
            Error::Refused { .. } => Some("check the catalog's `uri` and `warehouse` in the configuration"),
            Error::NotLent { .. } => Some("ask the catalog's owner to lend credentials for the table's whole location"),
            Error::Conflict { .. } => Some("load it again"),
            Error::CommitUnknown { .. } => Some("load it again before retrying"),
            Error::AlreadyExists { .. } | Error::Invalid(_) => None,
        }
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

fn of_table(table: &str) -> String {
    if table.is_empty() { String::new() } else { format!("table {table}: ") }
}

/// Returns the next step if a place did not answer, by the reason.
fn unreachable_hint(location: &str, source: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if source.is::<sqlx::Error>() {
        return Some("check that the catalog's path is an SQLite database that can be read");
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source);
    while let Some(current) = cause {
        match current.downcast_ref::<object_store::Error>() {
            Some(object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) => {
                return Some("check the credentials and the bucket's policy");
            }
            Some(object_store::Error::Generic { store: "LocalFileSystem", .. }) => {
                return Some("check that the file can be read");
            }
            // S3 refuses a token that has ended or makes no sense with status 400, which object_store gives no kind.
            Some(error)
                if ["<Code>ExpiredToken<", "<Code>InvalidToken<"]
                    .iter()
                    .any(|code| error.to_string().contains(code)) =>
            {
                return Some("the session token has ended or is another's: get new credentials");
            }
            _ => cause = current.source(),
        }
    }
    location.contains("://").then_some("check the location, the endpoint, the region and the network")
}

/// Role of a metadata file in its table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MetadataFile {
    Metadata,
    ManifestList,
    Manifest,
}

impl MetadataFile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            MetadataFile::Metadata => "metadata file",
            MetadataFile::ManifestList => "manifest list",
            MetadataFile::Manifest => "manifest",
        }
    }
}
