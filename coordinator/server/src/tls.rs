//! TLS from two files, which can be read anew while the server runs.

use std::path::Path;
use std::sync::Arc;

use chrono::Utc;
use gust_engine::config::TlsConfig;
use gust_engine::error::QueryError;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::tokens::read_private;

mod expiry;

/// Reads certificate and key.
///
/// # Errors
/// [`gust_engine::error::ErrorKind::Setup`] if one of them cannot be read or is none, they do not belong together, the certificate has expired,
/// or everybody can read the key.
pub(crate) fn read(TlsConfig { certificate, key }: &TlsConfig) -> Result<Arc<ServerConfig>, QueryError> {
    let failed = |path: &Path, why: String| QueryError::setup(format!("{}: {why}", path.display()));
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| failed(certificate, format!("no certificate in PEM: {error}")))?;
    let Some(own) = chain.first() else {
        return Err(failed(certificate, "it has no certificate in PEM".to_owned()));
    };
    if let Some(ended) = expiry::not_after(own).filter(|ended| *ended < Utc::now()) {
        let why = format!("the certificate has expired, on {}", ended.format("%Y-%m-%d at %H:%M:%S UTC"));
        return Err(failed(certificate, why).with_hint("renew it: no client would believe it"));
    }
    let private = PrivateKeyDer::from_pem_slice(read_private(key)?.as_bytes());
    let private = private.map_err(|error| failed(key, format!("no private key in PEM: {error}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| failed(key, error.to_string()))?;
    let made = builder.with_no_client_auth().with_single_cert(chain, private);
    let mut made =
        made.map_err(|error| failed(certificate, format!("it does not go with {}: {error}", key.display())))?;
    made.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(made))
}
