//! Exit codes of the program.

use gust_engine::error::ErrorKind;

/// The end of a run, as a script sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// The SQL or the data is at fault.
    QueryFailed = 1,
    /// Flags or configuration are at fault, and nothing has run. clap exits with this code, too.
    Usage = 2,
    /// Functions failed and a fallback to the coordinator was not allowed.
    FunctionsFailed = 3,
    /// The statement would have cost more than its cap.
    CapReached = 4,
    /// The statement's time-out passed. `timeout(1)` has the same code.
    TimedOut = 124,
    /// SIGHUP: the terminal is gone.
    HungUp = 129,
    /// Ctrl-C. The code is 128 plus the signal's number, as in shells.
    Interrupted = 130,
    /// SIGTERM, as `kill` and container hosts send it.
    Terminated = 143,
}

impl Exit {
    /// Table of the codes for `--help`.
    pub const HELP: &str = "\
Exit codes:
  0    done
  1    the query failed: SQL or data
  2    wrong usage or configuration
  3    functions failed, and a fallback was not allowed
  4    the cap in dollars would have been passed
  124  the time-out passed
  129  hung up (SIGHUP)
  130  interrupted (Ctrl-C)
  143  terminated (SIGTERM)";

    /// Returns the end of a program whose statement failed.
    pub const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Sql | ErrorKind::Data | ErrorKind::Resources => Self::QueryFailed,
            ErrorKind::Functions => Self::FunctionsFailed,
            ErrorKind::CapReached => Self::CapReached,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::Setup => Self::Usage,
        }
    }

    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_code() {
        let exits = [
            Exit::Done,
            Exit::QueryFailed,
            Exit::Usage,
            Exit::FunctionsFailed,
            Exit::CapReached,
            Exit::TimedOut,
            Exit::HungUp,
            Exit::Interrupted,
            Exit::Terminated,
        ];
        let named: Vec<u8> =
            Exit::HELP.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        assert_eq!(named, exits.map(Exit::code));
    }
}
