//! Signals that end the program in order: functions are ended, folders removed, and the statement is recorded.

use std::io;

use gust_engine::error::QueryError;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CommandError;
use super::exit::Exit;

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Interrupt,
    Terminate,
    HangUp,
}

/// Ctrl-C, SIGTERM and SIGHUP, from the moment on when this is made.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None under `nohup`.
    hang_up: Option<Signal>,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, CommandError> {
        let listen = || -> io::Result<Self> {
            let hang_up = if ignores_hang_ups() { None } else { Some(signal(SignalKind::hangup())?) };
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up,
            })
        };
        listen().map_err(|error| CommandError::usage(format!("signals cannot be heard: {error}")))
    }

    /// Waits for a signal.
    pub(super) async fn heard(&mut self) -> Heard {
        let Self { interrupt, terminate, hang_up } = self;
        let hung_up = async {
            match hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => Heard::Interrupt,
            _ = terminate.recv() => Heard::Terminate,
            _ = hung_up => Heard::HangUp,
        }
    }

    /// Waits for the end that a signal means to a server, which SIGHUP does not end.
    pub(super) async fn server_ended(&mut self) -> CommandError {
        loop {
            match self.heard().await {
                Heard::HangUp => {}
                Heard::Interrupt => return QueryError::interrupted().into(),
                Heard::Terminate => return CommandError::new(Exit::Terminated, "terminated"),
            }
        }
    }

    /// Waits for a signal, and returns the end of the program that it means.
    pub(super) async fn ended(&mut self) -> CommandError {
        match self.heard().await {
            Heard::Interrupt => QueryError::interrupted().into(),
            Heard::Terminate => CommandError::new(Exit::Terminated, "terminated"),
            Heard::HangUp => CommandError::new(Exit::HungUp, "hung up"),
        }
    }
}

/// Tells if the program was started so that it outlives its terminal.
fn ignores_hang_ups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The first bit is signal 1, SIGHUP.
    ignored.is_some_and(|mask| mask & 1 == 1)
}
