//! A history that cannot be written: no byte more fits, its folder is gone, or its disk hangs. Statements go on.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Served;
use crate::bad_input::{Place, wait_until};

/// Fault of the disk of a server that runs.
struct Fault<'a> {
    name: &'static str,
    /// Words of the log.
    told: &'static str,
    begin: Box<dyn Fn(&Served<'_>) + 'a>,
    end: Box<dyn Fn(&Served<'_>) + 'a>,
}

/// Returns a command whose writes fail beyond a limit of the system. By itself such a write ends its program.
fn limited(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().expect("a folder")).stdin(Stdio::null());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(key, value),
            None => shell.env_remove(key),
        };
    }
    shell
}

/// Sets the bytes that a file of the server may have from now on.
fn limit(server: &Served<'_>, bytes: &str) {
    let arguments = ["--pid".to_owned(), server.child.id().to_string(), format!("--fsize={bytes}:unlimited")];
    let set = Command::new("prlimit").args(arguments).status().expect("prlimit of util-linux");
    assert!(set.success());
}

#[test]
fn statements_go_on_where_the_history_cannot_be_written() {
    let place = Place::new("on = 'local'\n");
    let server = Served::started(&place, limited(&Served::command_of(&place, &[])), &[]);
    let (folder, moved) = (place.path("state/gust"), place.path("state/moved"));
    let faults = [
        Fault {
            name: "full",
            told: "cannot be read or written: ",
            begin: Box::new(|server| limit(server, "0")),
            end: Box::new(|server| limit(server, "unlimited")),
        },
        Fault {
            name: "gone",
            told: "cannot be opened: ",
            begin: Box::new(|_| {
                std::fs::rename(&folder, &moved).expect("moved");
                std::fs::write(&folder, "no folder").expect("written");
            }),
            end: Box::new(|_| {
                std::fs::remove_file(&folder).expect("removed");
                std::fs::rename(&moved, &folder).expect("moved back");
            }),
        },
    ];
    let unrecorded = || server.metric("gust_statements_unrecorded_total");
    let (mut lost, mut warnings) = (0.0, 0);
    for Fault { name, told, begin, end } in faults {
        let before = format!("SELECT 'before {name}' AS word");
        assert_eq!(server.rows(&before), json!([{ "word": format!("before {name}") }]));
        wait_until("it is recorded", || server.outcomes(&before.replace('\'', "''")) == ["done"]);
        begin(&server);
        for number in 0..3 {
            assert_eq!(server.rows(&format!("SELECT {number} AS n")), json!([{ "n": number }]), "{name}");
        }
        assert_eq!(server.query("*/*", "SELECT * FROM nowhere").status, 400, "{name}");
        lost += 4.0;
        wait_until("all are counted", || unrecorded() == lost);
        server.has_said(told);
        warnings += 1;
        assert_eq!(
            server.said().matches("not recorded in the history").count(),
            warnings,
            "{name}: once, and not with each"
        );
        end(&server);
        let after = format!("SELECT 'after {name}' AS word");
        assert_eq!(server.rows(&after), json!([{ "word": format!("after {name}") }]));
        wait_until("it is recorded again", || server.outcomes(&after.replace('\'', "''")) == ["done"]);
        server.has_said("the history is written again; 4 statements have no record");
        assert_eq!(unrecorded(), lost);
    }
    let seen = server.rows("SELECT count(*) AS n FROM gust.queries WHERE statement LIKE 'SELECT _ AS n'");
    assert_eq!(seen, json!([{ "n": 0 }]), "what was counted has no record");
}

/// The file is a pipe that nobody reads: whoever opens it waits for ever, as on a disk that hangs.
#[test]
fn statements_go_on_where_the_history_hangs() {
    let place = Place::new("on = 'local'\n[history]\npath = 'hung/history.db'\n");
    std::fs::create_dir(place.path("hung")).expect("made");
    let made = Command::new("mkfifo").arg(place.path("hung/history.db")).status().expect("mkfifo of coreutils");
    assert!(made.success());
    let server = Served::start(&place, &[]);
    let statement = |number: usize| {
        assert_eq!(server.rows(&format!("SELECT {number} AS n")), json!([{ "n": number }]));
    };
    // Neither the first one nor those behind it wait for the disk, and they hold no thread.
    let since = Instant::now();
    statement(0);
    let first = since.elapsed();
    assert!(first < Duration::from_secs(4), "the first one waits: {first:?}");
    let (threads, since) = (server.threads(), Instant::now());
    for number in 1..=30 {
        statement(number);
    }
    assert!(since.elapsed() < Duration::from_secs(40), "{:?}", since.elapsed());
    wait_until("all are counted", || server.metric("gust_statements_unrecorded_total") == 31.0);
    let more = server.threads().saturating_sub(threads);
    assert!(more < 10, "{more} threads more than {threads}");
    let read = server.query("*/*", "SELECT * FROM gust.queries");
    assert!(read.status >= 400 && read.text().contains("did not answer within 5 s"), "{read:?}");
    wait_until("it is counted, too", || server.metric("gust_statements_unrecorded_total") == 32.0);
    assert_eq!(server.said().matches("not recorded in the history").count(), 1, "once, and not with each");
    // The disk is there again: the write that hung goes on, and has been given up.
    std::fs::rename(place.path("hung/history.db"), place.path("hung/pipe")).expect("moved");
    std::fs::write(place.path("hung/history.db"), "").expect("written");
    drop(std::fs::File::open(place.path("hung/pipe")).expect("opened"));
    wait_until("it is written again", || {
        statement(31);
        server.said().contains("the history is written again")
    });
    let kept = server.rows("SELECT DISTINCT statement FROM gust.queries");
    assert_eq!(kept, json!([{ "statement": "SELECT 31 AS n" }]), "what was counted has no record");
}
