//! Errors of the command line: each has its message and its exit code, and leaves nothing behind.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gust_tests::s3::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY};
use tempfile::TempDir;

use crate::scan_plans;

/// Folder with a configuration of its own and some Parquet in it.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new(configuration: &str) -> Self {
        let place = Self { folder: TempDir::with_prefix("gust-bad-input-").expect("a temporary folder") };
        std::fs::write(place.path("gust.toml"), configuration).expect("written");
        std::fs::create_dir(place.path("tmp")).expect("made");
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the program in this folder, on functions that are the real function binary.
    pub(crate) fn gust(&self, arguments: &[&str]) -> Command {
        self.gust_by(Command::new("/usr/bin/env"), arguments)
    }

    /// Returns the program with a limit of the processor time of each of its processes. A process that takes more is killed.
    pub(crate) fn gust_within(&self, processor_seconds_max: u64, arguments: &[&str]) -> Command {
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--cpu={processor_seconds_max}")).arg("/usr/bin/env");
        self.gust_by(limited, arguments)
    }

    fn gust_by(&self, mut command: Command, arguments: &[&str]) -> Command {
        // A program does not hear SIGHUP if it is started under `nohup`. This one hears it, however the tests were started.
        command
            .args(["--default-signal=HUP", env!("CARGO_BIN_EXE_gust_under_test")])
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("GUST_LOG")
            .env("TMPDIR", self.path("tmp"))
            // A test must not become a part of its user's history.
            .env("XDG_STATE_HOME", self.path("state"))
            .env("GUST_PROCESS__PROGRAM", env!("CARGO_BIN_EXE_bootstrap_under_test"))
            .stdin(Stdio::null());
        command
    }

    /// Writes a Parquet file with the rows of a DataFusion query.
    pub(crate) async fn parquet(&self, name: &str, select: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let copy = format!("COPY ({select}) TO '{}' STORED AS PARQUET", path.display());
        gust_tests::query::plain(&[], &copy).await;
    }

    /// Lists the entries that are left in the temporary folder.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("tmp")).expect("readable");
        entries.map(|entry| entry.expect("readable").path()).collect()
    }
}

/// Time in which a program has to stop at a time-out below a second. Processor time bounds what it computes meanwhile, and this what it
/// waits for: no busy machine holds it up as long.
pub(crate) const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// Runs a program to its end. Fails where it is killed at a limit, and kills it where it has not ended in time.
#[track_caller]
pub(crate) fn in_time(mut command: Command, ends_within: Duration, what: &str) -> Output {
    let deadline = Instant::now() + ends_within;
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let id = child.id().to_string();
    let watch = std::thread::spawn(move || child.wait_with_output().expect("it ends"));
    while !watch.is_finished() {
        if Instant::now() > deadline {
            Command::new("kill").args(["-KILL", &id]).status().expect("kill");
            panic!("not ended after {ends_within:?}: {what}");
        }
        crate::serve::pause(Duration::from_millis(5));
    }
    let output = watch.join().expect("no panic");
    // No statement ends by a signal, and the limit of processor time is one.
    assert!(output.status.code().is_some(), "{what}: {}", output.status);
    output
}

#[track_caller]
pub(crate) fn check(output: &Output, code: i32, expect: &[&str]) {
    let words = String::from_utf8_lossy(&output.stderr);
    for part in expect {
        assert!(words.contains(part), "`{part}` is not in:\n{words}");
    }
    assert_eq!(output.status.code(), Some(code), "{words}");
    assert!(!words.contains("panicked"), "{words}");
}

#[track_caller]
pub(crate) fn fails(place: &Place, arguments: &[&str], code: i32, expect: &[&str]) {
    has_failed(place, &place.gust(arguments).output().expect("it starts"), code, expect);
}

#[track_caller]
fn has_failed(place: &Place, output: &Output, code: i32, expect: &[&str]) {
    check(output, code, expect);
    assert_eq!(output.stdout, b"", "rows of a failed statement");
    assert_eq!(place.left(), Vec::<PathBuf>::new(), "something is left in the temporary folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_in_sql_and_in_names_are_named() {
    let place = Place::new("");
    place.parquet("data/a.parquet", "SELECT 1 AS k").await;
    std::fs::write(place.path("setup.sql"), "CREATE EXTERNAL TABLE orders STORED AS PARQUET LOCATION 'data/'")
        .expect("written");
    let query = |sql: &'static str| ["query", "--setup", "setup.sql", sql];
    fails(&place, &["query", "SELECT * FROM 'nowhere/*.parquet'"], 1, &["nowhere/*.parquet", "hint: check the path"]);
    fails(&place, &["query", "SELECT * FROM 'nowhere.parquet'"], 1, &["`nowhere.parquet`: there is no such file"]);
    fails(&place, &query("SELECT * FROM orders WHER k = 1"), 1, &["found: k", "Line: 1, Column: 27"]);
    fails(&place, &query("SELECT * FROM ordres"), 1, &["no table `ordres`", "did you mean `orders`?"]);
    fails(&place, &query("SELECT\n  missing FROM orders"), 1, &["missing", "Line: 2, Column: 3"]);
    fails(&place, &query("SELEC 1"), 1, &["SELEC", "Line: 1, Column: 1"]);
    fails(&place, &query(""), 1, &["there is no statement"]);
    fails(&place, &query("INSERT INTO orders VALUES (2)"), 1, &["gust reads"]);
    fails(&place, &["query", "--setup", "absent.sql", "SELECT 1"], 2, &["absent.sql"]);
    fails(&place, &["query", "--catalog", "lake", "SELECT 1"], 2, &["no catalog `lake`"]);
    fails(&place, &query("SELECT 1 / (k - 1) FROM orders"), 1, &["ivide by zero"]);
}

/// Statements that would change an Iceberg table are refused by their words, also where no row or every row would go. The rows stay.
#[test]
fn an_iceberg_table_is_not_changed() {
    let place = Place::new("");
    let metadata = scan_plans::write(&place.path("t").display().to_string());
    let setup = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
    std::fs::write(place.path("setup.sql"), setup).expect("written");
    let query = |sql: &'static str| ["query", "--setup", "setup.sql", "--format", "csv", sql];
    let count = || place.gust(&query("SELECT count(*) AS n FROM t")).output().expect("it starts").stdout;
    let before = count();
    assert_eq!(String::from_utf8_lossy(&before), "n\n28\n");
    for sql in [
        "DELETE FROM t",
        "DELETE FROM t WHERE false",
        "DELETE FROM t WHERE id IN (SELECT id FROM t WHERE id > 1)",
        "UPDATE t SET id = 1",
        "UPDATE t SET id = 1 WHERE false",
        "INSERT INTO t SELECT * FROM t WHERE false",
        "INSERT OVERWRITE t SELECT * FROM t WHERE false",
        "MERGE INTO t USING t AS u ON t.id = u.id WHEN MATCHED THEN DELETE",
        "TRUNCATE TABLE t",
    ] {
        fails(&place, &query(sql), 1, &["gust reads"]);
        assert_eq!(count(), before, "{sql}");
    }
}

#[test]
fn a_wrong_setting_is_named_with_its_place() {
    let place = Place::new("functons_max = 3\n");
    fails(&place, &["query", "SELECT 1"], 2, &["functons_max", "line 1", "did you mean `functions_max`?"]);
    let place = Place::new("timeout_seconds = \"soon\"\n");
    fails(&place, &["query", "SELECT 1"], 2, &["timeout_seconds", "soon"]);
    let place = Place::new("");
    let output = place.gust(&["query", "SELECT 1"]).env("GUST_FUNCTONS_MAX", "3").output().expect("it starts");
    check(&output, 2, &["GUST_FUNCTONS_MAX", "GUST_FUNCTIONS_MAX"]);
}

#[test]
fn an_endpoint_without_a_listener_is_named() {
    let settings = format!(
        "[s3]\nendpoint = \"http://127.0.0.1:1\"\nallow_http = true\npath_style = true\nregion = \"{REGION}\"\n\
         access_key_id = \"{ACCESS_KEY_ID}\"\nsecret_access_key = \"{SECRET_ACCESS_KEY}\"\n"
    );
    let place = Place::new(&settings);
    fails(&place, &["query", "SELECT * FROM 's3://lake/t/'"], 1, &["127.0.0.1:1", "hint: check the endpoint"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_or_odd_file_is_named() {
    let place = Place::new("");
    place.parquet("cut/a.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    let whole = std::fs::read(place.path("cut/a.parquet")).expect("readable");
    std::fs::write(place.path("cut/a.parquet"), &whole[..whole.len() / 2]).expect("written");
    place.parquet("odd/a.parquet", "SELECT 1 AS k").await;
    place.parquet("odd/b.parquet", "SELECT 'one' AS k").await;
    for on in ["local", "in-process", "processes"] {
        fails(
            &place,
            &["query", "--on", on, "SELECT sum(k) FROM 'cut/'"],
            1,
            &["cut/a.parquet", "truncated or is not Parquet"],
        );
        fails(&place, &["query", "--on", on, "SELECT max(k) FROM 'odd/'"], 1, &["k", "odd/"]);
    }
}

/// A query is planned from a table's metadata. Before it reads a file, the file grows, shrinks, or goes.
#[test]
fn a_file_that_changes_after_planning_is_named() {
    let place = Place::new("");
    let demo = ["demo", "--sf", "0.001", "--home", "lake", "--queries", "6", "--on", "local"];
    check(&place.gust(&demo).output().expect("it starts"), 0, &["made orders"]);
    let data = std::fs::read_dir(place.path("lake/warehouse/tpch_sf0_001/orders/data")).expect("readable");
    let file = data.map(|entry| entry.expect("readable").path()).find(|path| path.is_file()).expect("a data file");
    let name = file.file_name().expect("a name").to_string_lossy().into_owned();
    let whole = std::fs::read(&file).expect("readable");
    let longer = [whole.as_slice(), b"x"].concat();
    let again = "hint: a file of the table is gone or is not the one that was planned; run the query again";
    for on in ["local", "in-process", "processes"] {
        let sql = "SELECT max(o_comment) FROM orders";
        let query = ["query", "--config", "lake/gust.toml", "--catalog", "demo", "--on", on, sql];
        check(&place.gust(&query).output().expect("it starts"), 0, &[]);
        for changed in [&longer[..], &whole[..whole.len() / 2], &whole[..9]] {
            std::fs::write(&file, changed).expect("written");
            fails(&place, &query, 1, &[&name, "planned", again]);
        }
        std::fs::remove_file(&file).expect("removed");
        fails(&place, &query, 1, &[&name, again]);
        std::fs::write(&file, &whole).expect("written");
    }
}

/// Rows that no operator can hold in a few megabytes: distinct and wide.
const WIDE: &str = "SELECT value AS k, repeat(md5(CAST(value AS VARCHAR)), 20) AS v FROM generate_series(1, 60000)";

#[tokio::test(flavor = "multi_thread")]
async fn too_little_memory_or_disk_names_the_setting() {
    let place = Place::new("");
    place.parquet("t/a.parquet", WIDE).await;
    place.parquet("t/b.parquet", WIDE).await;
    let sort = "SELECT * FROM 't/' ORDER BY v, k";
    let run = |on: &str, settings: &[(&str, &str)]| {
        let mut command = place.gust(&["query", "--on", on, "--format", "csv", sort]);
        command.envs(settings.iter().copied()).output().expect("it starts")
    };
    let output = run("local", &[("GUST_MEMORY_BYTES_MAX", "100000")]);
    check(&output, 1, &["memory_bytes_max"]);
    let output = run("processes", &[("GUST_FUNCTION_MEMORY_BYTES", "100000")]);
    check(&output, 1, &["fragment", "function_memory_bytes"]);
    let output =
        run("processes", &[("GUST_FUNCTION_MEMORY_BYTES", "30000000"), ("GUST_FUNCTION_TEMP_BYTES", "100000")]);
    check(&output, 1, &["fragment", "free space in the temporary folder"]);
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_of_another_release_is_refused() {
    let place = Place::new("");
    place.parquet("t/a.parquet", "SELECT 1 AS k").await;
    let mut command = place.gust(&["query", "--on", "processes", "SELECT sum(k) FROM 't/'"]);
    let output = command.env("TEST_OTHER_RELEASE", "1").output().expect("it starts");
    check(&output, 3, &["version mismatch", "hint: deploy the function of the coordinator's release"]);
    // With leave to fall back, the coordinator does it alone, and says so.
    let mut command = place.gust(&["query", "--on", "processes", "--allow-fallback", "SELECT sum(k) FROM 't/'"]);
    let output = command.env("TEST_OTHER_RELEASE", "1").output().expect("it starts");
    check(&output, 0, &["fell back"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains('1'));
}

/// Query with more work than anybody waits for.
pub(crate) const ENDLESS: &str =
    "SELECT count(*) FROM generate_series(1, 10000000) a, generate_series(1, 10000000) b WHERE a.value * b.value = -1";

/// With `2>&1 | head -1` nobody reads on: the output is dropped, and the exit code stays the statement's.
#[test]
fn a_closed_stderr_keeps_the_exit_code() {
    let place = Place::new("on = 'local'");
    for (arguments, code) in [
        (&["query", "SELECT 1 AS a"][..], 0),
        (&["query", "-vv", "SELECT 1 AS a"], 0),
        (&["query", "--report", "json", "SELECT 1 AS a"], 0),
        (&["query", "SELECT 1 +"], 1),
        (&["query", "SELECT CAST('x' AS INT)"], 1),
        (&["query", "--config", "missing.toml", "SELECT 1"], 2),
        (&["prices"], 0),
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = place.gust(arguments).stderr(writer).output().expect("it starts");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

/// With `| head -1` nobody reads on: the statement ends, its report is written, and that is no failure.
#[test]
fn a_reader_that_goes_ends_the_statement() {
    let place = Place::new("on = 'local'");
    for format in ["csv", "table", "json", "arrow"] {
        let sql = "SELECT value AS v FROM generate_series(1, 100000000000)";
        let mut command = place.gust(&["query", "--format", format, sql]);
        let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut begun = [0; 16];
        running.stdout.take().expect("a pipe").read_exact(&mut begun).expect("rows");
        check(&running.wait_with_output().expect("it ends"), 0, &["here "]);
    }
    let cancelled = "SELECT count(*) AS n FROM gust.queries WHERE outcome = 'cancelled'";
    let rows = place.gust(&["query", "--format", "csv", cancelled]).output().expect("it starts");
    check(&rows, 0, &[]);
    assert_eq!(String::from_utf8_lossy(&rows.stdout), "n\n4\n");
}

#[test]
fn a_time_out_stops_the_statement() {
    let place = Place::new("");
    let command = place.gust_within(30, &["query", "--timeout", "300ms", ENDLESS]);
    let output = in_time(command, STOPPED_WITHIN, "the endless statement");
    has_failed(&place, &output, 124, &["did not finish within 300ms", "--timeout"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_leave_nothing() {
    for (signal, code, words) in [("INT", 130, "interrupted"), ("TERM", 143, "terminated"), ("HUP", 129, "hung up")] {
        signal_leaves_nothing(signal, code, words).await;
    }
}

async fn signal_leaves_nothing(signal: &str, code: i32, words: &str) {
    let place = Place::new("");
    place.parquet("t/a.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    let endless = "SELECT count(*) FROM (SELECT sum(k) AS s FROM 't/') t, generate_series(1, 10000000) a, generate_series(1, 10000000) b WHERE a.value * b.value = s - 1";
    let mut command = place.gust(&["query", "--on", "processes", "--timeout", "60s", endless]);
    // The mark is found in the environment of the children, which inherit the program's.
    let mark = place.path("mark");
    let running =
        command.env("TEST_MARK", &mark).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    wait_until("a function process has started", || processes_marked(&mark) > 1);
    let interrupted =
        Command::new("kill").args([&format!("-{signal}"), &running.id().to_string()]).status().expect("kill");
    assert!(interrupted.success());
    let output = running.wait_with_output().expect("it ends");
    check(&output, code, &[words]);
    wait_until("every child is gone", || processes_marked(&mark) == 0);
    assert_eq!(place.left(), Vec::<PathBuf>::new(), "something is left in the temporary folder");
}

/// Counts running processes that have the mark in their environment.
fn processes_marked(mark: &Path) -> usize {
    let mark = [b"TEST_MARK=", mark.as_os_str().as_encoded_bytes()].concat();
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let environments = processes.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
    environments.filter(|environment| environment.split(|byte| *byte == 0).any(|variable| variable == mark)).count()
}

/// Time after which something counts as not to come. No busy machine is held up as long. It is less than a minute, after which statements,
/// clients and providers of these tests end by themselves or are asked again.
const COMES_WITHIN: Duration = Duration::from_secs(45);

#[track_caller]
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + COMES_WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "not so after {COMES_WITHIN:?}: {what}");
        crate::serve::pause(Duration::from_millis(5));
    }
}

/// A shell's script knows all commands and their flags, and bash can read its own.
#[test]
fn shells_complete_commands_and_flags() {
    let place = Place::new("");
    let words = ["query", "explain", "doctor", "calibrate", "completions", "serve", "max-cost", "output", "ndjson"];
    for shell in ["bash", "zsh", "fish"] {
        let output = place.gust(&["completions", shell]).output().expect("it starts");
        check(&output, 0, &[]);
        let script = String::from_utf8(output.stdout).expect("text");
        let missing: Vec<_> = words.iter().filter(|word| !script.contains(**word)).collect();
        assert!(missing.is_empty(), "{shell}: {missing:?}");
        assert!(!script.contains("bootstrap"), "{shell}: a hidden command");
        std::fs::write(place.path(shell), script).expect("written");
    }
    // The script's own function answers for `gust query --max-<TAB>`.
    let asked = "source ./bash && COMP_WORDS=(gust query --max-) && COMP_CWORD=2 && _gust gust --max- query && echo ${COMPREPLY[@]}";
    let answer = Command::new("bash").args(["-c", asked]).current_dir(place.path("")).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "--max-cost", "{answer:?}");
    fails(&place, &["completions", "tcsh"], 2, &["tcsh"]);
}

/// Rows go to stdout and words to stderr, in every format, also when the rows come from functions.
#[tokio::test(flavor = "multi_thread")]
async fn rows_go_to_stdout_and_words_to_stderr_in_every_format() {
    let place = Place::new("");
    place.parquet("t/a.parquet", "SELECT 1 AS k, 'x' AS v").await;
    for (format, expect) in [
        ("table", "| 1 | x |"),
        ("csv", "k,v\n1,x\n"),
        ("json", r#"[{"k":1,"v":"x"}]"#),
        ("ndjson", r#"{"k":1,"v":"x"}"#),
    ] {
        let output = place.gust(&["query", "--on", "processes", "--format", format, "SELECT * FROM 't/'"]).output();
        let output = output.expect("it starts");
        check(&output, 0, &["1 adopted"]);
        let rows = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(rows.contains(expect), "{format}: {rows}");
    }
    let report: &Path = &place.path("report.json");
    let arguments =
        ["query", "--on", "in-process", "--report", "json", "--report-file", "report.json", "SELECT * FROM 't/'"];
    check(&place.gust(&arguments).output().expect("it starts"), 0, &[]);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).expect("written")).expect("JSON");
    assert_eq!((&report["fragments_adopted"], &report["rows"]), (&1.into(), &1.into()), "{report}");
}
