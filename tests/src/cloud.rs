//! Sessions on the tests' own S3 server: the coordinator and each function process are clients with an identity of their
//! own, so that the server can give each a pipe and tell who asked for what.

use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use datafusion::execution::object_store::ObjectStoreRegistry;
use gust::config::{Config, S3Config};
use gust::session::Session;
use gust_protocol::StoreAccess;
use url::Url;

use crate::s3::{BUCKET, REGION, S3Server, SECRET_ACCESS_KEY, identity};

/// Who the coordinator is to the server.
pub const COORDINATOR: &str = "coordinator";

/// How the bucket is reached with the keys of `name`.
pub fn access(server: &S3Server, name: &str) -> StoreAccess {
    let options = [
        ("aws_endpoint", server.endpoint()),
        ("aws_region", REGION),
        ("aws_allow_http", "true"),
        ("aws_access_key_id", &identity::access_key(name)),
        ("aws_secret_access_key", SECRET_ACCESS_KEY),
    ];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    StoreAccess { url: format!("s3://{BUCKET}/"), options }
}

/// A session whose functions, where they are processes, run `function`; `folder` outlives it.
///
/// # Errors
/// When the session or its function program cannot be made.
pub fn session(server: &S3Server, config: Config, function: &Path, folder: &Path) -> anyhow::Result<Session> {
    let mut config = config;
    config.s3 = S3Config {
        endpoint: Some(server.endpoint().to_owned()),
        region: Some(REGION.to_owned()),
        allow_http: true,
        path_style: true,
        // Keys in the settings would travel to the functions, which then were all the coordinator.
        access_key_id: None,
        secret_access_key: None,
    };
    config.process.program = Some(identity::with_own_identity(function, folder)?);
    let session = Session::new(config)?;
    let store = fragment_fn::connect(&access(server, COORDINATOR), None).map_err(|message| anyhow!(message))?;
    session.stores().register_store(&Url::parse(&format!("s3://{BUCKET}/"))?, Arc::clone(&store));
    Ok(session)
}
