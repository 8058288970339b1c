//! `gust serve`: the server, from its start to its end by signals.

use std::collections::BTreeMap;
use std::path::Path;

use futures::future::BoxFuture;
use gust_engine::config::{CatalogConfig, Overrides};
use gust_engine::error::QueryError;
use gust_server::{Server, ServerOptions};

use super::args::ServeArgs;
use super::{CommandError, configuration, read_setup, with_region};
use crate::cli::say::say;
use crate::cli::signals::{Heard, Signals};

/// Serves until a signal. The first one drains, the second one stops.
pub(super) async fn serve(args: ServeArgs) -> Result<(), CommandError> {
    let config = with_region(configuration(args.config.as_deref(), &args.run.overrides())?).await;
    let setup = args.setup.iter().map(|path| read_setup(path)).collect::<Result<_, _>>()?;
    let drain = humantime::format_duration(config.server.drain);
    let is_behind_tls_proxy = args.behind_tls_proxy;
    let options = ServerOptions {
        listen: args.listen,
        postgres: args.postgres,
        is_behind_tls_proxy,
        catalog: args.catalog,
        setup,
    };
    let mut signals = Signals::listen()?;
    if args.check {
        tokio::select! {
            checked = Server::check(config, options) => checked?,
            ended = signals.server_ended() => return Err(ended),
        }
        say!("the server can start");
        return Ok(());
    }
    let mut server = tokio::select! {
        server = Server::start(config, options) => server?,
        ended = signals.server_ended() => return Err(ended),
    };
    say!("listening at {}", server.url());
    if let Some(address) = server.postgres_address() {
        say!("listening at {address} for clients of PostgreSQL");
    }
    let ended = loop {
        tokio::select! {
            ended = server.ended() => break ended,
            heard = signals.heard() => match heard {
                Heard::HangUp => {
                    reload(&server);
                    let (named, overrides) = (args.config.clone(), args.run.overrides());
                    let read = move || catalogs(named.as_deref(), &overrides);
                    drop(tokio::spawn(told(server.reload_catalogs(read))));
                }
                Heard::Interrupt | Heard::Terminate => {
                    say!("no more connections are taken; queries have {drain} to end, and a second signal stops them");
                    server.drain();
                    break tokio::select! {
                        ended = server.ended() => ended,
                        _ = signals.server_ended() => {
                            server.stop();
                            Ok(())
                        }
                    };
                }
            },
        }
    };
    server.close().await;
    Ok(ended?)
}

/// Reads the configuration, and returns its catalogs. The rest of it holds from the start on.
fn catalogs(named: Option<&Path>, overrides: &Overrides) -> Result<BTreeMap<String, CatalogConfig>, QueryError> {
    match configuration(named, overrides) {
        Ok(config) => Ok(config.catalogs),
        Err(CommandError { message, hint, .. }) => Err(QueryError::setup(message).with_default_hint(hint)),
    }
}

/// Says how the reading of the catalogs ends.
async fn told(reloading: BoxFuture<'static, Result<bool, QueryError>>) {
    match reloading.await {
        Ok(true) => say!("the catalogs were read anew"),
        Ok(false) => say!("no catalog has changed"),
        Err(error) => say!("the earlier catalogs hold: {error}"),
    }
}

fn reload(server: &Server) {
    match server.reload() {
        Ok(()) => say!("tokens and certificate were read anew"),
        Err(error) => say!("the earlier tokens and certificate hold: {error}"),
    }
}
