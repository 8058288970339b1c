//! Messages of clients. Each is taken from its own bytes: one that lies about its length, or is no UTF-8, is refused.
//!
//! The crate of the wire reads past a message's end and replaces what is no UTF-8. So only its answers are used.

use std::io;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Most bytes of a client's message.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Most bytes of a message before the client is known.
pub(super) const FIRST_BYTES_MAX: usize = 10_000;

/// SQLSTATE codes of PostgreSQL.
const PROTOCOL: &str = "08P01";
const NOT_UTF8: &str = "22021";

const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;

/// Reason why a client's bytes are no message. The connection ends with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Malformed {
    pub(super) sqlstate: &'static str,
    pub(super) message: String,
}

fn malformed(message: impl Into<String>) -> Malformed {
    Malformed { sqlstate: PROTOCOL, message: message.into() }
}

/// Failure to read a message.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The client has gone.
    #[error(transparent)]
    Gone(#[from] io::Error),
}

/// Message that begins a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    Ssl,
    Gss,
    Cancel { pid: i32, secret: Bytes },
    Startup { minor: u16, parameters: Vec<(String, String)> },
}

/// Message of a client that is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe(Target),
    /// Rows to send; 0 for all.
    Execute {
        portal: String,
        rows: usize,
    },
    Close(Target),
    Sync,
    Flush,
    Password(String),
    Terminate,
    /// Part of a COPY that is no more under way.
    OfCopy,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) portal: String,
    pub(super) statement: String,
    pub(super) formats: Vec<i16>,
    /// Values of the parameters; None for NULL.
    pub(super) values: Vec<Option<Bytes>>,
    pub(super) result_formats: Vec<i16>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Statement(String),
    Portal(String),
}

/// Reads the message that begins a connection.
pub(super) async fn read_first(reader: &mut (impl AsyncRead + Unpin)) -> Result<First, ReadError> {
    let length = reader.read_u32().await? as usize;
    if !(8..=FIRST_BYTES_MAX).contains(&length) {
        return Err(malformed("this port speaks PostgreSQL's protocol, and this is no beginning of it").into());
    }
    let mut body = vec![0; length - 4];
    reader.read_exact(&mut body).await?;
    let mut body = Body(body.into());
    let code = body.u32()?;
    let first = match code {
        SSL => First::Ssl,
        GSS => First::Gss,
        CANCEL => First::Cancel { pid: body.i32()?, secret: std::mem::take(&mut body.0) },
        version if version >> 16 == 3 => {
            let mut parameters = Vec::new();
            loop {
                let name = body.text()?;
                if name.is_empty() {
                    break;
                }
                parameters.push((name, body.text()?));
            }
            First::Startup { minor: version as u16, parameters }
        }
        version => {
            let (major, minor) = (version >> 16, version & 0xffff);
            return Err(malformed(format!("version {major}.{minor} of the protocol is not spoken here; 3.0 is")).into());
        }
    };
    body.ends()?;
    Ok(first)
}

/// Reads the head of a message: its kind and the bytes of its body. None at the end of the connection.
pub(super) async fn read_head(
    reader: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Option<(u8, usize)>, ReadError> {
    let mut kind = [0];
    if reader.read(&mut kind).await? == 0 {
        return Ok(None);
    }
    let length = reader.read_u32().await? as usize;
    let Some(body) = length.checked_sub(4) else {
        return Err(malformed("a message is shorter than its length").into());
    };
    if body > bytes_max {
        return Err(malformed(format!("a message has {body} bytes; at most {bytes_max} are taken")).into());
    }
    Ok(Some((kind[0], body)))
}

/// Reads the body of a message. Room is made as its bytes come.
pub(super) async fn read_body(
    reader: &mut (impl AsyncRead + Unpin),
    kind: u8,
    length: usize,
) -> Result<Message, ReadError> {
    let mut body = Vec::new();
    reader.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(message(kind, body.into())?)
}

fn message(kind: u8, body: Bytes) -> Result<Message, Malformed> {
    let mut body = Body(body);
    let message = match kind {
        b'Q' => Message::Query(body.text()?),
        b'P' => Message::Parse { name: body.text()?, sql: body.text()?, types: body.list(Body::u32)? },
        b'B' => Message::Bind(Bind {
            portal: body.text()?,
            statement: body.text()?,
            formats: body.list(Body::i16)?,
            values: body.list(Body::value)?,
            result_formats: body.list(Body::i16)?,
        }),
        b'D' => Message::Describe(body.target()?),
        b'E' => {
            let (portal, rows) = (body.text()?, body.i32()?);
            // PostgreSQL takes a number below zero for all rows as well.
            Message::Execute { portal, rows: usize::try_from(rows).unwrap_or(0) }
        }
        b'C' => Message::Close(body.target()?),
        b'S' => Message::Sync,
        b'H' => Message::Flush,
        b'p' => Message::Password(body.text()?),
        b'X' => Message::Terminate,
        b'd' | b'c' | b'f' => return Ok(Message::OfCopy),
        kind => return Err(malformed(format!("a message of kind {:?} is not taken", char::from(kind)))),
    };
    body.ends()?;
    Ok(message)
}

/// Rest of a message.
struct Body(Bytes);

impl Body {
    fn has(&self, bytes: usize) -> Result<(), Malformed> {
        if self.0.len() < bytes { Err(malformed("a message is shorter than its contents")) } else { Ok(()) }
    }

    fn ends(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed("a message is longer than its contents")) }
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.has(4)?;
        Ok(self.0.get_u32())
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.has(4)?;
        Ok(self.0.get_i32())
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        self.has(2)?;
        Ok(self.0.get_i16())
    }

    /// Takes a text that ends with a zero.
    fn text(&mut self) -> Result<String, Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or_else(|| malformed("a text has no end"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.into())
            .map_err(|_| Malformed { sqlstate: NOT_UTF8, message: "a text is not UTF-8".into() })
    }

    fn value(&mut self) -> Result<Option<Bytes>, Malformed> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| malformed("a value has a length below zero"))?;
        self.has(length)?;
        Ok(Some(self.0.split_to(length)))
    }

    /// Takes a number of items, and the items. Room is made as they come.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count = self.i16()? as u16;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn target(&mut self) -> Result<Target, Malformed> {
        self.has(1)?;
        match self.0.get_u8() {
            b'S' => Ok(Target::Statement(self.text()?)),
            b'P' => Ok(Target::Portal(self.text()?)),
            other => Err(malformed(format!("{:?} is neither a statement nor a portal", char::from(other)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn first(bytes: &[u8]) -> Result<First, ReadError> {
        read_first(&mut &bytes[..]).await
    }

    fn with_length(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
    }

    #[tokio::test]
    async fn a_connection_begins_with_one_of_four_messages() {
        assert_eq!(first(&with_length(&SSL.to_be_bytes())).await.expect("SSL"), First::Ssl);
        assert_eq!(first(&with_length(&GSS.to_be_bytes())).await.expect("GSS"), First::Gss);
        let cancel = with_length(&[&CANCEL.to_be_bytes()[..], &7_i32.to_be_bytes(), b"key!"].concat());
        assert_eq!(
            first(&cancel).await.expect("cancel"),
            First::Cancel { pid: 7, secret: Bytes::from_static(b"key!") }
        );
        let startup = with_length(b"\0\x03\0\x02user\0ada\0\0");
        let parameters = vec![("user".to_owned(), "ada".to_owned())];
        assert_eq!(first(&startup).await.expect("startup"), First::Startup { minor: 2, parameters });
        for (bytes, words) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "PostgreSQL's protocol"),
            (vec![0, 0, 0, 7, 0, 3, 0], "PostgreSQL's protocol"),
            (vec![0x40, 0, 0, 0, 0, 3, 0, 0], "PostgreSQL's protocol"),
            (with_length(b"\0\x02\0\0"), "version 2.0"),
            (with_length(b"\0\x03\0\0user\0ada\0"), "a text has no end"),
            (with_length(b"\0\x03\0\0\0more"), "longer than its contents"),
            (with_length(b"\0\x03\0\0user\0\xff\0\0"), "not UTF-8"),
        ] {
            let error = first(&bytes).await.expect_err(words);
            assert!(error.to_string().contains(words) && matches!(error, ReadError::Malformed(_)), "{error}");
        }
        assert!(matches!(first(b"\0\0\0\x20\0\x03").await, Err(ReadError::Gone(_))), "it is truncated");
    }

    async fn read(kind: u8, body: &[u8]) -> Result<Message, ReadError> {
        let bytes = [&[kind][..], &with_length(body)].concat();
        let mut reader = &bytes[..];
        let (kind, length) = read_head(&mut reader, 1_000).await?.expect("a head");
        let message = read_body(&mut reader, kind, length).await?;
        assert!(reader.is_empty(), "it reads no more than its own bytes");
        Ok(message)
    }

    #[tokio::test]
    async fn a_message_is_what_its_bytes_say() {
        let bind = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02hi\xff\xff\xff\xff\0\0";
        let expect = Bind {
            portal: "p".to_owned(),
            statement: "s".to_owned(),
            formats: vec![1],
            values: vec![Some(Bytes::from_static(b"hi")), None],
            result_formats: vec![],
        };
        assert_eq!(read(b'B', bind).await.expect("Bind"), Message::Bind(expect));
        let all = Message::Execute { portal: String::new(), rows: 0 };
        assert_eq!(read(b'E', b"\0\xff\xff\xff\xff").await.expect("Execute"), all);
        let statement = Message::Close(Target::Statement("s".to_owned()));
        assert_eq!(read(b'C', b"Ss\0").await.expect("Close"), statement);
        // Each beginning of a message is refused, and so is more than the message.
        for length in 0..bind.len() {
            read(b'B', &bind[..length]).await.expect_err("shorter");
        }
        for (kind, body) in [
            (b'B', [&bind[..], b"x"].concat()),
            (b'Q', b"SELECT 1".to_vec()),
            (b'Q', b"SELECT '\xff'\0".to_vec()),
            (b'P', b"\0\0\xff\xff".to_vec()),
            (b'D', b"Xs\0".to_vec()),
            (b'F', b"\0".to_vec()),
            (b'Q', vec![b'x'; 2_000]),
        ] {
            let error = read(kind, &body).await.expect_err("malformed");
            assert!(matches!(error, ReadError::Malformed(_)), "{kind}: {error}");
        }
        let error = read_head(&mut &b"Q\x40\0\0\0"[..], MESSAGE_BYTES_MAX).await.expect_err("1 GiB");
        assert!(error.to_string().contains("at most 67108864 are taken"), "{error}");
        assert!(matches!(read_head(&mut &b""[..], 1).await, Ok(None)));
    }
}
