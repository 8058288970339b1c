//! Sessions on the tests' own S3 server: the coordinator and each function process are clients with an identity of their
//! own, so that the server can give each a pipe and tell who asked for what.

use std::path::Path;

use gust_engine::config::{Config, S3Config, Secret};
use gust_engine::error::QueryError;
use gust_engine::session::Session;
use gust_protocol::StoreAccess;

use crate::s3::identity::{COORDINATOR, access_key};
use crate::s3::{BUCKET, REGION, S3Server, SECRET_ACCESS_KEY};

/// How the bucket is reached with the keys of `name`.
pub fn access(server: &S3Server, name: &str) -> StoreAccess {
    let options = [
        ("aws_endpoint", server.endpoint()),
        ("aws_region", REGION),
        ("aws_allow_http", "true"),
        ("aws_access_key_id", &access_key(name)),
        ("aws_secret_access_key", SECRET_ACCESS_KEY),
    ];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    StoreAccess { url: format!("s3://{BUCKET}/"), options }
}

/// A session whose functions, where they are processes, run `bootstrap`: the one under test, which has its own identity.
///
/// # Errors
/// When the session cannot be opened.
pub fn session(server: &S3Server, config: Config, bootstrap: &Path) -> Result<Session, QueryError> {
    Session::new(self::config(server, config, bootstrap))
}

/// The configuration of such a session.
pub fn config(server: &S3Server, config: Config, bootstrap: &Path) -> Config {
    let mut config = config;
    config.s3 = S3Config {
        endpoint: Some(server.endpoint().to_owned()),
        region: Some(REGION.to_owned()),
        allow_http: true,
        path_style: true,
        access_key_id: Some(access_key(COORDINATOR)),
        secret_access_key: Some(Secret::new(SECRET_ACCESS_KEY)),
    };
    config.process.program = Some(bootstrap.to_owned());
    config
}
