//! A history that cannot be written: no byte more fits, or its folder is gone. Statements go on.

use std::process::{Command, Stdio};

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
