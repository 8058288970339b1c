//! The server under measurement: a process of its own, with users.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::tax::sibling;

/// Longest time that it takes to end.
const END_MAX: Duration = Duration::from_secs(30);

/// A running server. Dropping it kills it.
pub struct ServerProcess {
    child: Child,
    pub address: SocketAddr,
    /// Secrets of the users.
    pub secrets: Vec<String>,
}

impl ServerProcess {
    /// Starts a server over the table `t` of a folder.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start(folder: &Path, users: usize, connections_max: usize) -> anyhow::Result<Self> {
        let settings = format!(
            "on = 'local'\n[server]\ntokens = 'tokens.toml'\nreach = ['t']\nconnections_max = {connections_max}\n"
        );
        fs::write(folder.join("gust.toml"), settings)?;
        fs::write(folder.join("setup.sql"), "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't/'")?;
        let (mut secrets, mut tokens) = (Vec::new(), String::new());
        for user in 0..users {
            let output = gust(folder)?.args(["token", "new", "--user", &format!("user{user}")]).output()?;
            anyhow::ensure!(output.status.success(), "no token: {}", String::from_utf8_lossy(&output.stderr));
            secrets.push(String::from_utf8(output.stderr)?.trim().to_owned());
            tokens += &String::from_utf8(output.stdout)?;
        }
        fs::write(folder.join("tokens.toml"), tokens)?;
        fs::set_permissions(folder.join("tokens.toml"), fs::Permissions::from_mode(0o600))?;
        let mut command = gust(folder)?;
        command.args(["serve", "--listen", "127.0.0.1:0", "--setup", "setup.sql"]).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut words = BufReader::new(child.stderr.take().context("its words")?);
        let address = loop {
            let mut line = String::new();
            anyhow::ensure!(words.read_line(&mut line)? > 0, "the server has ended");
            eprint!("server: {line}");
            if let Some(url) = line.trim().strip_prefix("listening at http://") {
                break url.parse()?;
            }
        };
        // A server whose words nobody reads would be held up by them.
        std::thread::spawn(move || words.lines().map_while(Result::ok).for_each(|line| eprintln!("server: {line}")));
        Ok(Self { child, address, secrets })
    }

    /// Returns the bytes of its memory that are resident.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kilobytes = line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        kilobytes.unwrap_or_default() * 1024
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        anyhow::ensure!(sent.success(), "no signal");
        let since = Instant::now();
        while since.elapsed() < END_MAX {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(status.success(), "the server ended with {status}");
                return Ok(());
            }
            std::thread::yield_now();
        }
        anyhow::bail!("the server has not ended after {END_MAX:?}")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn gust(folder: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(sibling("gust_under_test")?);
    command
        .current_dir(folder)
        .env_remove("GUST_LOG")
        // A measurement must not become a part of its user's history.
        .env("XDG_STATE_HOME", folder.join("state"))
        .stdin(Stdio::null());
    Ok(command)
}
