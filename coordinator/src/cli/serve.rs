//! `gust serve`: the server, from its start to its end by signals.

use gust_server::{Server, ServerOptions};

use super::args::ServeArgs;
use super::{CommandError, configuration, read_setup, with_region};
use crate::cli::say::say;
use crate::cli::signals::Signals;

/// Serves until a signal. The first one drains, the second one stops.
pub(super) async fn serve(args: ServeArgs) -> Result<(), CommandError> {
    let config = with_region(configuration(args.config.as_deref(), &args.run.overrides())?).await;
    let setup = args.setup.iter().map(|path| read_setup(path)).collect::<Result<_, _>>()?;
    let drain = humantime::format_duration(config.server.drain);
    let options = ServerOptions { listen: args.listen, catalog: args.catalog, setup };
    let mut signals = Signals::listen()?;
    let mut server = tokio::select! {
        server = Box::pin(Server::start(config, options)) => server?,
        ended = signals.ended() => return Err(ended),
    };
    say!("listening at http://{}", server.address());
    let ended = tokio::select! {
        ended = server.ended() => ended,
        _ = signals.ended() => {
            say!("no more connections are taken; queries have {drain} to end, and a second signal stops them");
            server.drain();
            tokio::select! {
                ended = server.ended() => ended,
                _ = signals.ended() => {
                    server.stop();
                    Ok(())
                }
            }
        }
    };
    server.close().await;
    Ok(ended?)
}
