//! The beginning of a connection: TLS, the user, and the parameters that clients want to know.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_server::tls_rustls::RustlsConfig;
use bytes::Bytes;
use pgwire::messages::PgWireBackendMessage as Answer;
use pgwire::messages::startup::{Authentication, NegotiateProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::answers::{Answers, Told};
use super::messages::{FIRST_BYTES_MAX, First, Message, ReadError, read_body, read_first, read_head};
use super::settings::name_of;
use crate::door::Door;
use crate::tokens::{NoUser, Principal};

/// Requests for encryption that a client may make before it begins.
const NEGOTIATIONS_MAX: usize = 4;

/// Name by which TLS clients ask for this protocol.
const ALPN: &[u8] = b"postgresql";

/// Version of PostgreSQL whose clients' ways are known. They ask for it and send what it understands.
pub(super) const SERVER_VERSION: &str = "16.6";

/// Socket with or without TLS.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! through {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).$method($($argument),*),
            Self::Tls(socket) => Pin::new(socket).$method($($argument),*),
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        through!(self, poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        through!(self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, poll_shutdown(cx))
    }
}

/// First message of a client after the negotiation of TLS.
pub(super) enum Begun {
    Client { socket: Socket, startup: Startup },
    Cancel { pid: i32, secret: Bytes },
}

/// Wishes of a client for its connection.
#[derive(Debug)]
pub(super) struct Startup {
    /// Minor version of the protocol that the client speaks.
    minor: u16,
    pub(super) parameters: Vec<(String, String)>,
}

impl Startup {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns names and values of the settings that the client's options hold, as `-c name=value` or `--name=value`.
    ///
    /// # Errors
    /// An option is not one of these, or nobody knows its name.
    pub(super) fn options(&self) -> Result<Vec<(String, String)>, Told> {
        let refused = |what: &str| {
            Told::new("22023", format!("options: `{what}` is not taken"))
                .with_hint("-c name=value, with a name that SHOW tells")
        };
        let mut options = Vec::new();
        let mut words = option_words(self.parameter("options").unwrap_or_default()).into_iter();
        while let Some(word) = words.next() {
            let setting = match word.as_str() {
                "-c" => words.next(),
                word => word.strip_prefix("--").or(word.strip_prefix("-c")).map(str::to_owned),
            };
            let pair = setting.as_deref().and_then(|setting| setting.split_once('='));
            let (name, value) = pair.ok_or_else(|| refused(&word))?;
            let name = name.replace('-', "_");
            name_of(&name).ok_or_else(|| refused(&name))?;
            options.push((name, value.to_owned()));
        }
        Ok(options)
    }
}

/// Splits options at spaces that have no backslash before them.
fn option_words(options: &str) -> Vec<String> {
    let (mut words, mut word, mut is_escaped) = (Vec::new(), String::new(), false);
    for character in options.chars() {
        match character {
            '\\' if !is_escaped => {
                is_escaped = true;
                continue;
            }
            character if character.is_whitespace() && !is_escaped => words.push(std::mem::take(&mut word)),
            character => word.push(character),
        }
        is_escaped = false;
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Failure of a beginning. The client is told it where it can hear it.
pub(super) struct NotBegun {
    pub(super) socket: Option<Socket>,
    pub(super) told: Told,
}

/// Negotiates TLS, and reads the first message.
pub(super) async fn begin(mut tcp: TcpStream, tls: Option<&RustlsConfig>) -> Result<Begun, Option<NotBegun>> {
    for _ in 0..NEGOTIATIONS_MAX {
        let answer = match read_first(&mut tcp).await {
            Ok(First::Ssl) if let Some(tls) = tls => {
                tcp.write_all(b"S").await.map_err(|_| None)?;
                return begin_tls(tcp, tls).await;
            }
            Ok(First::Ssl | First::Gss) => tcp.write_all(b"N").await,
            Ok(First::Cancel { pid, secret }) => return Ok(Begun::Cancel { pid, secret }),
            Ok(First::Startup { minor, parameters }) => {
                let socket = Socket::Plain(tcp);
                if tls.is_some() {
                    let told = Told::new("28000", "this server takes connections with TLS only")
                        .with_hint("connect with sslmode=require");
                    return Err(Some(NotBegun { socket: Some(socket), told }));
                }
                return Ok(Begun::Client { socket, startup: Startup { minor, parameters } });
            }
            Err(error) => return Err(not_begun(Socket::Plain(tcp), error)),
        };
        answer.map_err(|_| None)?;
    }
    let told = Told::new("08P01", "too many requests for encryption");
    Err(Some(NotBegun { socket: Some(Socket::Plain(tcp)), told }))
}

async fn begin_tls(tcp: TcpStream, tls: &RustlsConfig) -> Result<Begun, Option<NotBegun>> {
    // The port of HTTP has other names.
    let mut config = tls.get_inner().as_ref().clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let accepted = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.map_err(|_| None)?;
    let mut socket = Socket::Tls(Box::new(accepted));
    match read_first(&mut socket).await {
        Ok(First::Startup { minor, parameters }) => {
            Ok(Begun::Client { socket, startup: Startup { minor, parameters } })
        }
        Ok(First::Cancel { pid, secret }) => Ok(Begun::Cancel { pid, secret }),
        Ok(First::Ssl | First::Gss) => {
            let told = Told::new("08P01", "the connection is encrypted already");
            Err(Some(NotBegun { socket: Some(socket), told }))
        }
        Err(error) => Err(not_begun(socket, error)),
    }
}

fn not_begun(socket: Socket, error: ReadError) -> Option<NotBegun> {
    match error {
        ReadError::Malformed(why) => {
            Some(NotBegun { socket: Some(socket), told: Told::new(why.sqlstate, why.message) })
        }
        ReadError::Gone(_) => None,
    }
}

/// Finds out who the client is. On a server with tokens the password is one, and the name its user's.
pub(super) async fn authenticate(
    door: &Door,
    startup: &Startup,
    reader: &mut (impl AsyncRead + Unpin),
    answers: &mut Answers<impl AsyncWrite + Unpin>,
) -> io::Result<Result<Principal, Told>> {
    if startup.minor > 0 {
        let negotiated = NegotiateProtocolVersion::new(3 << 16, Vec::new());
        answers.push(Answer::NegotiateProtocolVersion(negotiated)).await?;
    }
    let Some(user) = startup.parameter("user").filter(|user| !user.is_empty()) else {
        return Ok(Err(Told::new("28000", "the client gives no user")));
    };
    if !door.has_users() {
        return Ok(Ok(Principal::default()));
    }
    answers.push(Answer::Authentication(Authentication::CleartextPassword)).await?;
    answers.flush().await?;
    let password = match read_head(reader, FIRST_BYTES_MAX).await {
        Ok(Some((kind, length))) => read_body(reader, kind, length).await,
        Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error),
    };
    let secret = match password {
        Ok(Message::Password(secret)) => secret,
        Ok(_) => return Ok(Err(Told::new("08P01", "a password is expected"))),
        Err(ReadError::Malformed(why)) => return Ok(Err(Told::new(why.sqlstate, why.message))),
        Err(ReadError::Gone(gone)) => return Err(gone),
    };
    Ok(match door.principal(&secret).await {
        Ok(principal) if principal.is_called(user) => Ok(principal),
        Ok(_) => Err(Told::new("28P01", format!("the token is not one of user `{user}`"))
            .with_hint("connect with the name of the token's user")),
        Err(why) => {
            let sqlstate = if why == NoUser::NoKeys { "57P03" } else { "28P01" };
            let hint = match why {
                NoUser::Unknown => "the password is a token of `gust token new`, or of the server's identity provider",
                why => why.next_step(),
            };
            Err(Told::new(sqlstate, why.to_string()).with_hint(hint))
        }
    })
}

/// Reads what a client that was refused still sends, so that it hears the reason: a socket that is closed over unread bytes
/// is reset.
pub(super) async fn linger(socket: &mut (impl AsyncRead + Unpin)) {
    let mut rest = [0; 1024];
    let mut left = 64;
    while left > 0 && socket.read(&mut rest).await.is_ok_and(|read| read > 0) {
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_settings() {
        let options = |text: &str| Startup { minor: 0, parameters: vec![("options".into(), text.into())] }.options();
        for (text, expect) in [
            ("", &[][..]),
            ("-c statement_timeout=5s", &[("statement_timeout", "5s")][..]),
            (" -cstatement_timeout=5s  --search-path=a\\ b", &[("statement_timeout", "5s"), ("search_path", "a b")]),
        ] {
            let expect: Vec<_> = expect.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            assert_eq!(options(text), Ok(expect), "{text}");
        }
        for text in ["-c", "-c nothing=1", "-x", "-c statement_timeout", "word"] {
            assert_eq!(options(text).expect_err(text).sqlstate, "22023", "{text}");
        }
    }
}
