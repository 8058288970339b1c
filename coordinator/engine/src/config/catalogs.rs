//! Iceberg catalogs. Each type has keys of its own; a key of another type is an error that says so.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::error::{ConfigError, Setting};
use super::node::Node;
use super::units::{self, Secret};

/// An Iceberg catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogConfig {
    Sqlite(SqliteConfig),
    Rest(RestConfig),
    Glue(GlueConfig),
    S3Tables(S3TablesConfig),
}

/// SQL catalog in a SQLite file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The SQLite file.
    pub path: PathBuf,
    /// Folder or URL that holds the tables.
    pub warehouse: String,
}

/// Service that speaks Iceberg's REST protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestConfig {
    /// Address of the service, without `/v1`.
    pub uri: String,
    /// Name of the warehouse there.
    pub warehouse: Option<String>,
    /// Permission to send credentials unencrypted, and to be lent some. Default false.
    pub allow_http: bool,
    pub access: RestAccess,
}

/// Credentials for a REST catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestAccess {
    None,
    Token(SecretSource),
    OAuth2 {
        client_id: Option<String>,
        client_secret: SecretSource,
        uri: Option<String>,
        scope: Option<String>,
    },
    /// AWS's signature by the credentials of the environment.
    SigV4 {
        name: String,
        region: String,
    },
}

/// Place of a secret: the configuration or the environment, or a file that has nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    Value(Secret),
    File(PathBuf),
}

/// Tables of AWS Glue, by its Iceberg REST endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlueConfig {
    pub region: String,
    /// Account whose catalog is read. None is that of the credentials.
    pub account: Option<String>,
    /// Endpoint in place of the region's own, such as a VPC's.
    pub uri: Option<String>,
    pub allow_http: bool,
}

/// Tables of one bucket of S3 Tables, by its Iceberg REST endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3TablesConfig {
    pub bucket_arn: String,
    /// Region, by default that of the ARN.
    pub region: String,
    /// Endpoint in place of the region's own, such as a VPC's.
    pub uri: Option<String>,
    pub allow_http: bool,
}

/// Type of a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Sqlite,
    Rest,
    Glue,
    S3Tables,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Sqlite, Self::Rest, Self::Glue, Self::S3Tables];

    const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Rest => "rest",
            Self::Glue => "glue",
            Self::S3Tables => "s3tables",
        }
    }

    /// Lists the keys beside `type`.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Sqlite => &["path", "warehouse"],
            Self::Rest => &[
                "uri",
                "warehouse",
                "allow_http",
                "token",
                "token_file",
                "oauth2_client_id",
                "oauth2_client_secret",
                "oauth2_client_secret_file",
                "oauth2_uri",
                "oauth2_scope",
                "sigv4_name",
                "sigv4_region",
            ],
            Self::Glue => &["region", "account", "uri", "allow_http"],
            Self::S3Tables => &["bucket_arn", "region", "uri", "allow_http"],
        }
    }
}

/// Keys of all types.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    #[serde(rename = "type")]
    kind: Option<Kind>,
    #[serde(deserialize_with = "units::optional_path")]
    path: Option<PathBuf>,
    warehouse: Option<String>,
    uri: Option<String>,
    allow_http: bool,
    token: Option<Secret>,
    #[serde(deserialize_with = "units::optional_path")]
    token_file: Option<PathBuf>,
    oauth2_client_id: Option<String>,
    oauth2_client_secret: Option<Secret>,
    #[serde(deserialize_with = "units::optional_path")]
    oauth2_client_secret_file: Option<PathBuf>,
    oauth2_uri: Option<String>,
    oauth2_scope: Option<String>,
    sigv4_name: Option<String>,
    sigv4_region: Option<String>,
    region: Option<String>,
    account: Option<String>,
    bucket_arn: Option<String>,
}

impl<'de> Deserialize<'de> for CatalogConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = Keys::deserialize(deserializer)?;
        let missing = D::Error::missing_field;
        match keys.kind.ok_or_else(|| missing("type"))? {
            Kind::Sqlite => Ok(Self::Sqlite(SqliteConfig {
                path: keys.path.ok_or_else(|| missing("path"))?,
                warehouse: keys.warehouse.ok_or_else(|| missing("warehouse"))?,
            })),
            Kind::Rest => Ok(Self::Rest(RestConfig {
                uri: keys.uri.clone().ok_or_else(|| missing("uri"))?,
                warehouse: keys.warehouse.clone(),
                allow_http: keys.allow_http,
                access: keys.access().map_err(D::Error::custom)?,
            })),
            Kind::Glue => Ok(Self::Glue(GlueConfig {
                region: keys.region.ok_or_else(|| missing("region"))?,
                account: keys.account,
                uri: keys.uri,
                allow_http: keys.allow_http,
            })),
            Kind::S3Tables => {
                let bucket_arn = keys.bucket_arn.ok_or_else(|| missing("bucket_arn"))?;
                let region = keys.region.or_else(|| region_of_bucket(&bucket_arn).map(str::to_owned));
                let region = region.ok_or_else(|| {
                    D::Error::custom("a `bucket_arn` such as arn:aws:s3tables:REGION:ACCOUNT:bucket/NAME")
                })?;
                Ok(Self::S3Tables(S3TablesConfig { bucket_arn, region, uri: keys.uri, allow_http: keys.allow_http }))
            }
        }
    }
}

/// Returns the region in the ARN of a table bucket. None for any other text.
fn region_of_bucket(arn: &str) -> Option<&str> {
    match arn.split(':').collect::<Vec<_>>().as_slice() {
        ["arn", _, "s3tables", region, account, bucket]
            if !region.is_empty() && !account.is_empty() && bucket.starts_with("bucket/") =>
        {
            Some(region)
        }
        _ => None,
    }
}

impl Keys {
    fn access(self) -> Result<RestAccess, &'static str> {
        let secret = |value: Option<Secret>, file: Option<PathBuf>, twice| match (value, file) {
            (Some(_), Some(_)) => Err(twice),
            (Some(value), None) => Ok(Some(SecretSource::Value(value))),
            (None, file) => Ok(file.map(SecretSource::File)),
        };
        let token = secret(self.token, self.token_file, "one of `token` and `token_file`")?;
        let client = secret(
            self.oauth2_client_secret,
            self.oauth2_client_secret_file,
            "one of `oauth2_client_secret` and `oauth2_client_secret_file`",
        )?;
        let is_oauth2 = self.oauth2_client_id.is_some() || self.oauth2_uri.is_some() || self.oauth2_scope.is_some();
        match (token, client, self.sigv4_name, self.sigv4_region) {
            (None, None, None, None) if !is_oauth2 => Ok(RestAccess::None),
            (Some(token), None, None, None) if !is_oauth2 => Ok(RestAccess::Token(token)),
            (None, Some(client_secret), None, None) => Ok(RestAccess::OAuth2 {
                client_id: self.oauth2_client_id,
                client_secret,
                uri: self.oauth2_uri,
                scope: self.oauth2_scope,
            }),
            (None, None, Some(name), Some(region)) if !is_oauth2 => Ok(RestAccess::SigV4 { name, region }),
            (None, None, Some(_), None) | (None, None, None, Some(_)) => {
                Err("`sigv4_name` together with `sigv4_region`")
            }
            (None, None, None, None) => Err("`oauth2_client_secret` or `oauth2_client_secret_file` beside `oauth2_…`"),
            _ => Err("one way to be authorized: a token, `oauth2_…` or `sigv4_…`"),
        }
    }
}

/// Finds keys of another type. A table without a known type is left to the reading of its keys.
pub(super) fn check_keys(tree: &Node) -> Result<(), ConfigError> {
    for name in tree.keys_at(&["catalogs"]) {
        let kind = tree.text_at(&["catalogs", name, "type"]);
        let Some(kind) = Kind::ALL.into_iter().find(|known| Some(known.name()) == kind) else { continue };
        for key in tree.keys_at(&["catalogs", name]) {
            let owners: Vec<&str> =
                Kind::ALL.into_iter().filter(|other| other.keys().contains(&key)).map(Kind::name).collect();
            if key != "type" && !kind.keys().contains(&key) && !owners.is_empty() {
                let setting = Setting::new(format!("catalogs.{name}.{key}"), tree.origin_of(&["catalogs", name, key]));
                let keys = kind.keys().iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
                return Err(ConfigError::ForeignKey {
                    setting,
                    owners: owners.join(" and "),
                    hint: format!("a catalog of type \"{0}\" has the keys {keys}", kind.name()),
                    kind: kind.name(),
                });
            }
        }
    }
    Ok(())
}

impl CatalogConfig {
    /// Checks the settings that depend on each other. A relative warehouse starts from the folder of its file.
    pub(super) fn check(&mut self, name: &str, tree: &Node) -> Result<(), ConfigError> {
        let origin = |key: &str| tree.origin_of(&["catalogs", name, key]);
        let setting = |key: &str| Setting::new(format!("catalogs.{name}.{key}"), origin(key));
        let plain = |key: &str| ConfigError::Conflict {
            setting: setting(key),
            reason: "credentials would travel unencrypted",
            hint: "use https://, or set `allow_http = true` for the catalog if that is meant",
        };
        let check_uri = |key: &str, uri: &str, may_be_plain: bool| {
            let url = url::Url::parse(uri).ok().filter(url::Url::has_host);
            match url.as_ref().map(url::Url::scheme) {
                Some("https") => Ok(()),
                Some("http") if may_be_plain => Ok(()),
                Some("http") => Err(plain(key)),
                _ => {
                    // It may have a secret in it.
                    let value = if uri.contains(['@', '?']) { "(hidden)".to_owned() } else { format!("{uri:?}") };
                    let expected = "an http:// or https:// URL".to_owned();
                    Err(ConfigError::InvalidValue { setting: setting(key), value, expected, hint: None })
                }
            }
        };
        match self {
            Self::Sqlite(SqliteConfig { warehouse, .. }) => {
                let is_valid = match warehouse.split_once("://") {
                    Some((scheme, rest)) => ["file", "s3"].contains(&scheme) && !rest.is_empty(),
                    None => !warehouse.is_empty(),
                };
                if !is_valid {
                    let expected = "a folder, or a URL that starts with file:// or s3://".to_owned();
                    let value = format!("{warehouse:?}");
                    return Err(ConfigError::InvalidValue {
                        setting: setting("warehouse"),
                        value,
                        expected,
                        hint: None,
                    });
                }
                if let (false, super::Origin::File { path, .. }) = (warehouse.contains("://"), origin("warehouse")) {
                    *warehouse =
                        path.parent().unwrap_or(Path::new("")).join(&*warehouse).to_string_lossy().into_owned();
                }
                Ok(())
            }
            Self::Rest(RestConfig { uri, allow_http, access, .. }) => {
                check_uri("uri", uri, *allow_http || *access == RestAccess::None)?;
                match access {
                    RestAccess::OAuth2 { uri: Some(uri), .. } => check_uri("oauth2_uri", uri, *allow_http),
                    _ => Ok(()),
                }
            }
            Self::Glue(GlueConfig { uri, allow_http, .. }) | Self::S3Tables(S3TablesConfig { uri, allow_http, .. }) => {
                uri.as_deref().map_or(Ok(()), |uri| check_uri("uri", uri, *allow_http))
            }
        }
    }

    /// Makes a catalog in a SQLite file.
    pub fn sqlite(path: impl Into<PathBuf>, warehouse: impl Into<String>) -> Self {
        Self::Sqlite(SqliteConfig { path: path.into(), warehouse: warehouse.into() })
    }

    /// Returns the place that holds all tables. None for a service, which alone knows where its tables are.
    pub fn tables_in(&self) -> Option<&str> {
        match self {
            Self::Sqlite(SqliteConfig { warehouse, .. }) => Some(warehouse),
            Self::Rest(_) | Self::Glue(_) | Self::S3Tables(_) => None,
        }
    }

    /// Returns the file of this machine that holds the catalog. None for a service.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(SqliteConfig { path, .. }) => Some(path),
            Self::Rest(_) | Self::Glue(_) | Self::S3Tables(_) => None,
        }
    }
}
