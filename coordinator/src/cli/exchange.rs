//! `gust exchange`: cleans the store in which functions leave large results.

use std::io::{Write, stdout};
use std::time::SystemTime;

use gust_engine::config::Overrides;
use gust_engine::session::Session;
use humansize::{BINARY, format_size};

use super::args::GcArgs;
use super::{CommandError, configuration};
use crate::cli::exit::Exit;

/// Removes the objects that old queries have left, and prints their number.
pub(super) async fn gc(args: GcArgs) -> Result<(), CommandError> {
    let config = configuration(args.config.as_deref(), &Overrides::default())?;
    let Some(place) = config.exchange.clone() else {
        let hint = "set `exchange` in gust.toml, or name the file with --config";
        return Err(CommandError::usage("no exchange is configured, and a private one is removed with its session")
            .with_hint(Some(hint)));
    };
    let kept_for = config.server.keep;
    let session = Session::new(config)?;
    let failed =
        |error: object_store::Error| CommandError::new(Exit::QueryFailed, format!("exchange {place}: {error}"));
    let exchange = session.exchange();
    let found = exchange.leftovers(args.older_than, kept_for, SystemTime::now()).await.map_err(failed)?;
    if !args.dry_run {
        exchange.remove(&found).await.map_err(failed)?;
    }
    let verb = if args.dry_run { "would remove" } else { "removed" };
    let (objects, queries, size) = (found.paths.len(), found.queries.len(), format_size(found.bytes, BINARY));
    let mut text = format!("{verb} {objects} objects of {queries} queries, {size}");
    if found.objects_kept > 0 {
        text += &format!("; kept {} that are not old enough", found.objects_kept);
    }
    if found.objects_foreign > 0 {
        text += &format!("; left alone {} that gust did not write", found.objects_foreign);
    }
    session.close().await;
    writeln!(stdout(), "{text} in {place}").map_err(CommandError::usage)
}
