//! Messages to a client, which are collected and sent in large writes.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use gust_engine::error::{ErrorKind, QueryError};
use pgwire::messages::PgWireBackendMessage as Answer;
use pgwire::messages::response::{CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::LINGER_TIME_MAX;

/// Bytes that are collected before they are sent.
const PENDING_BYTES: usize = 64 << 10;

/// Most bytes for which room is kept after a large answer.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Longest time in which a client takes what is sent.
const WRITE_TIME_MAX: Duration = Duration::from_secs(300);

/// Answers on their way to a client.
#[derive(Debug)]
pub(super) struct Answers<W> {
    writer: W,
    pending: BytesMut,
}

impl<W: AsyncWrite + Unpin> Answers<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, pending: BytesMut::new() }
    }

    /// Collects an answer, and sends what is collected once it is enough.
    ///
    /// # Errors
    /// The client has gone, or takes nothing any more.
    pub(super) async fn push(&mut self, answer: Answer) -> io::Result<()> {
        answer.encode(&mut self.pending).map_err(io::Error::other)?;
        if self.pending.len() >= PENDING_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Sends what is collected. It may be dropped on the way: what is not sent yet stays collected.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.flush_within(WRITE_TIME_MAX).await
    }

    async fn flush_within(&mut self, time: Duration) -> io::Result<()> {
        let sending = async {
            while !self.pending.is_empty() {
                if self.writer.write_buf(&mut self.pending).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            self.writer.flush().await
        };
        tokio::time::timeout(time, sending).await??;
        if self.pending.capacity() > KEPT_BYTES_MAX {
            self.pending = BytesMut::new();
        }
        Ok(())
    }

    pub(super) async fn complete(&mut self, tag: impl Into<String>) -> io::Result<()> {
        self.push(Answer::CommandComplete(CommandComplete::new(tag.into()))).await
    }

    pub(super) async fn ready(&mut self, status: TransactionStatus) -> io::Result<()> {
        self.push(Answer::ReadyForQuery(ReadyForQuery::new(status))).await
    }

    pub(super) async fn error(&mut self, error: &Told) -> io::Result<()> {
        self.push(Answer::ErrorResponse(ErrorResponse::new(error.fields("ERROR")))).await
    }

    pub(super) async fn warning(&mut self, sqlstate: &'static str, message: &str) -> io::Result<()> {
        let told = Told { sqlstate, message: message.to_owned(), hint: None, position: None };
        self.push(Answer::NoticeResponse(NoticeResponse::new(told.fields("WARNING")))).await
    }

    pub(super) async fn notice(&mut self, message: String) -> io::Result<()> {
        let told = Told { sqlstate: "00000", message, hint: None, position: None };
        self.push(Answer::NoticeResponse(NoticeResponse::new(told.fields("NOTICE")))).await
    }

    /// Sends the error that ends the connection. A client that does not read it at once is not waited for.
    pub(super) async fn fatal(&mut self, error: &Told) -> io::Result<()> {
        let fatal = Answer::ErrorResponse(ErrorResponse::new(error.fields("FATAL")));
        fatal.encode(&mut self.pending).map_err(io::Error::other)?;
        self.flush_within(LINGER_TIME_MAX).await?;
        tokio::time::timeout(LINGER_TIME_MAX, self.writer.shutdown()).await?
    }
}

/// Error as a client is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) sqlstate: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// Character of the client's text, from 1 on.
    pub(super) position: Option<usize>,
}

impl Told {
    pub(super) fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), hint: None, position: None }
    }

    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Returns the error of a statement, whose position is in `text`, after so many characters of the client's.
    pub(super) fn of(error: &QueryError, text: &str, characters_before: usize) -> Self {
        let position = error.position().and_then(|at| character_at(text, at.line, at.column));
        Self { position: position.map(|at| characters_before + at), ..Self::from(error) }
    }

    fn fields(&self, severity: &str) -> Vec<(u8, String)> {
        // A zero would end the text.
        let text = |text: &str| text.replace('\0', "\u{fffd}");
        let mut fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', self.sqlstate.to_owned()),
            (b'M', text(&self.message)),
        ];
        fields.extend(self.hint.as_deref().map(|hint| (b'H', text(hint))));
        fields.extend(self.position.map(|position| (b'P', position.to_string())));
        fields
    }
}

impl From<&QueryError> for Told {
    fn from(error: &QueryError) -> Self {
        let message = match error.kind() {
            ErrorKind::Interrupted if error.sqlstate() == "57014" => "the statement was cancelled",
            _ => error.message(),
        };
        Self {
            sqlstate: error.sqlstate(),
            message: message.to_owned(),
            hint: error.hint().map(str::to_owned),
            position: None,
        }
    }
}

/// Returns the place of a character among all characters of a text, from 1 on.
fn character_at(text: &str, line: u64, column: u64) -> Option<usize> {
    // The engine read another text.
    if text.is_empty() {
        return None;
    }
    let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
    let before: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(|line| line.chars().count()).sum();
    Some(before + column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_character_of_the_clients_text() {
        let error = |place: &str| QueryError::sql(format!("no such thing at {place}"));
        for (text, place, before, expect) in [
            ("SELECT x", "Line: 1, Column: 8", 0, Some(8)),
            ("SELECT 'ä',\n x", "Line: 2, Column: 2", 0, Some(14)),
            ("SELECT x", "Line: 1, Column: 8", 10, Some(18)),
            ("SELECT x", "nowhere", 10, None),
        ] {
            assert_eq!(Told::of(&error(place), text, before).position, expect, "{text}");
        }
    }

    #[test]
    fn an_error_has_all_that_is_known() {
        let error = QueryError::sql("no table `t\0`").with_hint("SHOW TABLES").with_sqlstate("42P01");
        let told = Told { position: Some(15), ..Told::from(&error) };
        let expect = [
            (b'S', "ERROR"),
            (b'V', "ERROR"),
            (b'C', "42P01"),
            (b'M', "no table `t\u{fffd}`"),
            (b'H', "SHOW TABLES"),
            (b'P', "15"),
        ];
        assert_eq!(told.fields("ERROR"), expect.map(|(kind, text)| (kind, text.to_owned())));
        assert_eq!(Told::from(&QueryError::interrupted()).message, "the statement was cancelled");
    }
}
