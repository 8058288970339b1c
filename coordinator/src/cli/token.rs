//! `gust token new`: a token of a user. Its secret is shown once, and its hash belongs into the server's file.

use std::io::{Write, stdout};

use chrono::Utc;
use gust_server::NewToken;

use super::CommandError;
use super::args::TokenArgs;
use crate::cli::say::say;

/// Writes the secret to stderr, and the lines for the file to stdout.
pub(super) fn new(TokenArgs { user, groups, expires }: TokenArgs) -> Result<(), CommandError> {
    let expires = expires.map(|time| {
        let at = chrono::Duration::from_std(time).ok().and_then(|time| Utc::now().checked_add_signed(time));
        at.ok_or_else(|| CommandError::usage("--expires: the time is too far away"))
    });
    let token = NewToken::new(user, groups, expires.transpose()?)
        .map_err(|error| CommandError::usage(format!("there are no random numbers: {error}")))?;
    write!(stdout(), "{token}").map_err(CommandError::usage)?;
    say!("{}", token.secret());
    Ok(())
}
