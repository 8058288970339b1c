//! A server in a process and a folder of its own, for one measurement.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use gust_tests::slow_readers::Ports;

use crate::tax::sibling;

/// Server in a folder of its own. Dropping it kills it.
pub struct Server {
    child: Child,
    pub ports: Ports,
}

impl Server {
    /// Starts a server without users, whose queries run in it, with more flags.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start(folder: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        fs::write(folder.join("gust.toml"), "on = 'local'\n[server]\nreach = ['.']\n")?;
        let mut command = gust(folder)?;
        let serve = ["serve", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--timeout", "1day"];
        command.args(serve).args(flags).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut words = BufReader::new(child.stderr.take().context("its words")?).lines();
        let mut port = || loop {
            let line = words.next().context("the server has ended")??;
            let Some(place) = line.trim().strip_prefix("listening at ") else { continue };
            let address = place.trim_start_matches("http://").split(' ').next().unwrap_or_default();
            break Ok::<_, anyhow::Error>(address.parse::<SocketAddr>()?.port());
        };
        let ports = Ports { http: port()?, postgres: port()? };
        // A server whose words nobody reads would be held up by them.
        std::thread::spawn(move || words.map_while(Result::ok).for_each(|line| eprintln!("server: {line}")));
        Ok(Self { child, ports })
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns the program in a folder.
///
/// # Errors
/// When it was not built.
pub fn gust(folder: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(sibling("gust_under_test")?);
    // A measurement must not become a part of its user's history.
    command.current_dir(folder).env_remove("GUST_LOG").env("XDG_STATE_HOME", folder.join("state")).stdin(Stdio::null());
    Ok(command)
}
