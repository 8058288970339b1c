//! Who is asking: identities are access keys, and free. Whoever knows the secret may call itself anything that begins
//! with [`PREFIX`].

use std::io;
use std::path::{Path, PathBuf};

use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use super::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};

/// What the access keys of all identities begin with.
pub const PREFIX: &str = ACCESS_KEY_ID;

/// The server's list of keys.
pub(super) struct Identities;

#[async_trait::async_trait]
impl S3Auth for Identities {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key.starts_with(PREFIX) {
            Ok(SecretKey::from(SECRET_ACCESS_KEY))
        } else {
            Err(s3_error!(InvalidAccessKeyId))
        }
    }
}

/// The access key of an identity.
pub fn access_key(name: &str) -> String {
    format!("{PREFIX}-{name}")
}

/// A program that is `function` with the credentials of its own process: `gust-test-key-function-PID`.
///
/// A process cannot change its environment once it runs, and all children of an invoker get the same one.
///
/// # Errors
/// When the program cannot be written into `folder`.
pub fn with_own_identity(function: &Path, folder: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let program = folder.join("function-with-own-identity");
    let script = format!(
        "#!/bin/sh\nexport AWS_ACCESS_KEY_ID={}-$$ AWS_SECRET_ACCESS_KEY={SECRET_ACCESS_KEY}\nexec '{}' \"$@\"\n",
        access_key("function"),
        function.display(),
    );
    std::fs::write(&program, script)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    Ok(program)
}
