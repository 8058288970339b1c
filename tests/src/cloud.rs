//! Sessions on the tests' own S3 server. The coordinator and each function process are clients with an identity of their
//! own, so the server can give each of them a pipe and tell their requests apart.

use std::path::Path;

use gust_engine::config::{Config, S3Config};
use gust_engine::error::QueryError;
use gust_engine::session::Session;
use gust_protocol::StoreAccess;

use crate::s3::identity::{COORDINATOR, access_key};
use crate::s3::{BUCKET, REGION, S3Server, SECRET_ACCESS_KEY};

/// Returns the access to the bucket with the keys of `name`.
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

/// Opens a session. Its functions, where they are processes, run `bootstrap`, the one under test: it has an identity of its own.
///
/// # Errors
/// When the session cannot be opened.
pub fn session(server: &S3Server, config: Config, bootstrap: &Path) -> Result<Session, QueryError> {
    Session::new(self::config(server, config, bootstrap))
}

/// Returns `config` with the server and the function's program set.
pub fn config(server: &S3Server, config: Config, bootstrap: &Path) -> Config {
    let mut config = config;
    config.s3 = S3Config { access_key_id: Some(access_key(COORDINATOR)), ..server.config() };
    config.process.program = Some(bootstrap.to_owned());
    config
}
