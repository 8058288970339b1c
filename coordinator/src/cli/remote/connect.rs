//! The connection to a server: its URL, its certificate, and the user's token.

use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cli::CommandError;
use crate::cli::args::ServerArgs;

/// Variable with the token.
const TOKEN: &str = "GUST_TOKEN";

/// Port of `gust serve`.
const PORT: u16 = 8123;

/// Longest token that is read, as the server takes it.
const TOKEN_BYTES_MAX: u64 = 8 << 10;

/// Longest time in which the server takes the connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Pause after which a server that says nothing is asked if it is still there, and its time to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Socket of a server, with or without TLS.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// Place of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    uri: Uri,
    host: String,
    port: u16,
    is_encrypted: bool,
}

impl Place {
    /// Reads a URL.
    fn read(url: &str) -> Result<Self, CommandError> {
        let bad = |why: &str| {
            CommandError::usage(format!("--server: {why}"))
                .with_hint(Some("write https://HOST:PORT, or http://127.0.0.1:8123"))
        };
        // A URL may have a token in it, by mistake. So no message repeats what was written.
        if url.contains('@') {
            return Err(bad("a URL with a user is not taken"));
        }
        let uri: Uri = url.parse().map_err(|_| bad("this is no URL"))?;
        let is_encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("the URL begins with neither https:// nor http://")),
        };
        if !matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/")) {
            return Err(bad("the URL has a path"));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(PORT);
        let authority = format!("{}:{port}", uri.host().unwrap_or_default());
        let whole = Uri::builder().scheme(if is_encrypted { "https" } else { "http" }).authority(authority);
        let uri = whole.path_and_query("/").build().map_err(|_| bad("the URL names no host"))?;
        Ok(Self { uri, host, port, is_encrypted })
    }

    fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

/// Connection, and the token that goes with each call.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) channel: Channel,
    pub(super) token: Option<String>,
}

/// Connects to a server.
///
/// # Errors
/// The URL, the token or the certificates cannot be used, or nobody answers.
pub(super) async fn connect(url: &str, args: &ServerArgs) -> Result<Connected, CommandError> {
    let place = Place::read(url)?;
    let token = token(args.token_file.as_deref())?;
    if token.is_some() && !place.is_encrypted && !place.is_loopback() {
        return Err(CommandError::usage(format!("--server: {} would get the token without encryption", place.host))
            .with_hint(Some("write https://")));
    }
    let tls = match place.is_encrypted {
        true => Some(TlsConnector::from(Arc::new(client_config(args.ca.as_deref())?))),
        false => None,
    };
    let endpoint = Endpoint::from(place.uri.clone())
        .connect_timeout(CONNECT_TIME_MAX)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let of_connector = place.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (place, tls) = (of_connector.clone(), tls.clone());
        async move { socket(&place, tls).await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
        let why = gust_engine::error::with_causes(&error);
        CommandError::usage(format!("cannot connect to {}: {why}", place.uri))
            .with_hint(Some("check the address, and with https:// the certificate: --ca names its authority"))
    })?;
    Ok(Connected { channel, token })
}

async fn socket(place: &Place, tls: Option<TlsConnector>) -> io::Result<Box<dyn Socket>> {
    let tcp = TcpStream::connect((place.host.as_str(), place.port)).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(place.host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, tcp).await?))
}

/// Makes the settings of TLS, with the system's certificates or those of a file.
fn client_config(ca: Option<&Path>) -> Result<ClientConfig, CommandError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let failed = |why: String| CommandError::usage(format!("--ca {}: {why}", path.display()));
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            for certificate in read.map_err(|error| failed(format!("no certificate in PEM: {error}")))? {
                roots.add(certificate).map_err(|error| failed(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(failed("it has no certificate in PEM".to_owned()));
            }
        }
        // Some of a system's certificates may be broken. A server's that needs them is refused.
        None => {
            let _added_and_broken = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(CommandError::usage)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Reads the token from its file, else from the variable. A server without users needs none.
fn token(file: Option<&Path>) -> Result<Option<String>, CommandError> {
    let Some(path) = file else {
        return Ok(std::env::var(TOKEN).ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()));
    };
    let failed = |why: String| CommandError::usage(format!("--token-file {}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mode = file.metadata().map_err(|error| failed(error.to_string()))?.permissions().mode();
    if mode & 0o004 != 0 {
        return Err(failed("everybody on this machine can read it".to_owned())
            .with_hint(Some(format!("chmod o= {}", path.display()))));
    }
    let mut text = String::new();
    let read = file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    if read as u64 > TOKEN_BYTES_MAX {
        return Err(failed(format!("it is longer than {TOKEN_BYTES_MAX} bytes")));
    }
    match text.trim() {
        "" => Err(failed("it has no token".to_owned())),
        token => Ok(Some(token.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server() {
        for (url, expect) in [
            ("http://127.0.0.1:8123", Ok(("127.0.0.1", 8123, false, true))),
            ("http://localhost", Ok(("localhost", 8123, false, true))),
            ("https://gust.example/", Ok(("gust.example", 8123, true, false))),
            ("https://[::1]:443", Ok(("::1", 443, true, true))),
            ("http://192.0.2.1:80", Ok(("192.0.2.1", 80, false, false))),
            ("https://gust_secret@gust.example", Err("a URL with a user is not taken")),
            ("gust.example:8123", Err("neither https:// nor http://")),
            ("grpc://gust.example", Err("neither https:// nor http://")),
            ("https://gust.example/v1", Err("has a path")),
            ("https://gust.example/?token=gust_secret", Err("has a path")),
            ("gust_secret", Err("neither https:// nor http://")),
            ("https:// gust_secret", Err("is no URL")),
            ("https://", Err("is no URL")),
            ("", Err("is no URL")),
        ] {
            match (Place::read(url), expect) {
                (Ok(place), Ok((host, port, is_encrypted, is_loopback))) => {
                    assert_eq!((place.host.as_str(), place.port), (host, port), "{url}");
                    assert_eq!((place.is_encrypted, place.is_loopback()), (is_encrypted, is_loopback), "{url}");
                }
                (Err(error), Err(words)) => {
                    assert!(
                        error.message.contains(words) && !error.message.contains("gust_secret"),
                        "{url}: {error:?}"
                    );
                }
                (place, expect) => panic!("{url}: {place:?} is not {expect:?}"),
            }
        }
    }
}
