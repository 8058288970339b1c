use super::*;

fn read(line: &[&str]) -> Result<Cli, clap::Error> {
    Cli::read(["gust"].iter().chain(line))
}

fn query(line: &[&str]) -> QueryArgs {
    match read(&[&["query"], line].concat()).expect("valid arguments").command {
        Command::Query(query) => query,
        other => panic!("not a query: {other:?}"),
    }
}

#[test]
fn clap_finds_no_contradiction() {
    Cli::command().debug_assert();
}

#[test]
fn a_bare_query_has_defaults() {
    let query = query(&["SELECT 1"]);
    assert_eq!(query.source.sql.as_deref(), Some("SELECT 1"));
    assert_eq!(query.format, OutputFormat::Table);
    assert_eq!(query.report, ReportFormat::Text);
    assert_eq!(query.source.run.overrides(), Overrides::default(), "flags that are not given override nothing");
}

#[test]
fn a_query_takes_every_flag() {
    let line = "- --setup a.sql --setup b.sql --catalog lake --on in-process --allow-fallback --functions 8 \
                --timeout 1min30s --max-cost 0.05 --prefer cost --deadline 10s --dry-run --format ndjson --output rows.ndjson --report json \
                --report-file report.json --config lake.toml -vv \
                --label team=ads --label job=1";
    let query = query(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(query.source.setup, [PathBuf::from("a.sql"), PathBuf::from("b.sql")]);
    assert_eq!(query.source.catalog.as_deref(), Some("lake"));
    assert_eq!(query.source.config, Some("lake.toml".into()));
    assert!(query.dry_run);
    assert_eq!(query.format, OutputFormat::Ndjson);
    assert_eq!(query.report, ReportFormat::Json);
    assert_eq!(query.report_file, Some("report.json".into()));
    assert_eq!(query.output, Some("rows.ndjson".into()));
    assert_eq!(query.labels, [("team", "ads"), ("job", "1")].map(|(k, v)| Label::new(k, v).expect("a label")));
    let overrides = Overrides {
        on: Some(Target::InProcess),
        functions_max: Some(8),
        allow_fallback: Some(true),
        timeout: Some(Duration::from_secs(90)),
        prefer: Some(Prefer::Cost),
        deadline: Some(Duration::from_secs(10)),
        cap: Some(Money::from_nano_dollars(50_000_000)),
    };
    assert_eq!(query.source.run.overrides(), overrides);
}

#[test]
fn the_demo_has_defaults_and_flags() {
    let demo = |line: &[&str]| match read(&[&["demo"], line].concat()).expect("valid arguments").command {
        Command::Demo(demo) => demo,
        other => panic!("not a demo: {other:?}"),
    };
    let plain = demo(&[]);
    assert_eq!((plain.scale_factor, plain.queries), (1.0, vec![1, 3, 6, 12, 18]));
    let flags = demo(&["--sf", "0.01", "--home", "/data", "--queries", "1,22", "--functions", "2", "--on", "local"]);
    assert_eq!((flags.scale_factor, &flags.home, &flags.queries), (0.01, &PathBuf::from("/data"), &vec![1, 22]));
    let overrides = Overrides { on: Some(Target::Local), functions_max: Some(2), ..Overrides::default() };
    assert_eq!(flags.overrides(), overrides);
}

#[test]
fn a_server_listens_on_loopback_unless_told_otherwise() {
    let serve = |line: &[&str]| match read(&[&["serve"], line].concat()).expect("valid arguments").command {
        Command::Serve(serve) => serve,
        other => panic!("not a server: {other:?}"),
    };
    let plain = serve(&[]);
    assert_eq!(plain.listen.to_string(), "127.0.0.1:8123");
    assert_eq!(plain.run.overrides(), Overrides::default());
    let flags = serve(&["--listen", "[::1]:0", "--setup", "a.sql", "--catalog", "lake", "--max-cost", "0.05"]);
    assert_eq!((flags.listen.to_string(), flags.catalog.as_deref()), ("[::1]:0".to_owned(), Some("lake")));
    assert_eq!(flags.setup, [PathBuf::from("a.sql")]);
}

#[test]
fn the_exchange_is_cleaned_with_care() {
    let gc = |line: &[&str]| match read(&[&["exchange", "gc"], line].concat()).expect("valid arguments").command {
        Command::Exchange(ExchangeCommand::Gc(gc)) => gc,
        other => panic!("not a gc: {other:?}"),
    };
    let plain = gc(&[]);
    assert_eq!((plain.older_than, plain.dry_run, plain.config), (Duration::from_secs(3600), false, None));
    let flags = gc(&["--older-than", "2days", "--dry-run", "--config", "lake.toml"]);
    assert_eq!((flags.older_than, flags.dry_run), (Duration::from_secs(172_800), true));
}

#[test]
fn costs_are_rolled_up_by_one_key() {
    let cost = |line: &[&str]| match read(&[&["cost"], line].concat()).expect("valid arguments").command {
        Command::Cost(cost) => (cost.group_by(), cost.since),
        other => panic!("not a cost: {other:?}"),
    };
    let team = || GroupBy::LabelKey("team".to_owned());
    assert_eq!(cost(&[]), (GroupBy::Day, None));
    assert_eq!(cost(&["--by", "label"]), (GroupBy::Label, None));
    assert_eq!(cost(&["--label-key", "team"]), (team(), None));
    assert_eq!(cost(&["--by", "label", "--label-key", "team"]), (team(), None));
    let day = StartedSince::Day(NaiveDate::from_ymd_opt(2026, 11, 1).expect("a day"));
    assert_eq!(cost(&["--by", "table", "--since", "2026-11-01"]), (GroupBy::Table, Some(day)));
    assert_eq!(cost(&["--since", "12h"]).1, Some(StartedSince::Ago(Duration::from_secs(43_200))));
}

#[test]
fn bad_arguments_are_usage_errors() {
    #[track_caller]
    fn check(line: &[&str], expect: &str) {
        let error = read(line).expect_err("bad arguments");
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()));
        assert!(error.to_string().contains(expect), "for {line:?}: {error}");
    }
    check(&[], "Usage: gust");
    check(&["qery"], "'query'");
    check(&["query", "--fromat", "csv"], "'--format'");
    check(&["query", "--format", "xml"], "possible values: table, csv, json, ndjson, arrow");
    check(&["query", "--on", "spark"], "possible values: auto, local, in-process, processes, lambda");
    check(&["query", "--functions", "0"], "1..=10000");
    check(&["query", "--timeout", "soon"], "write e.g. 500ms, 30s or 5min");
    check(&["query", "--timeout", "0s"], "above zero and at most 1day");
    check(&["query", "--timeout", "25h"], "a time-out is above zero and at most 1day");
    check(&["query", "--deadline", "0s"], "a deadline is above zero and at most 1day");
    check(&["query", "--deadline", "soon"], "write e.g. 500ms, 30s or 5min");
    check(&["query", "--prefer", "nonsense"], "possible values: cost, latency, balanced");
    check(&["query", "--max-cost", "-0.05"], "no amount of dollars");
    check(&["query", "--max-cost", "5 cents"], "no amount of dollars");
    check(&["query", "--report", "none", "--report-file", "x", "SELECT 1"], "--report-file needs a report");
    check(&["query", "SELECT 1", "SELECT 2"], "unexpected argument 'SELECT 2'");
    check(&["demo", "--sf", "0"], "above zero and at most 1000");
    check(&["demo", "--sf", "nan"], "above zero and at most 1000");
    check(&["demo", "--queries", "23"], "1..=22");
    check(&["query", "--label", "team", "SELECT 1"], "expected KEY=VALUE, such as team=ads");
    check(&["query", "--label", "a team=ads", "SELECT 1"], "expected a key of 1 to 64");
    check(&["demo", "--label", "team="], "expected a value of 1 to 256");
    check(&["cost", "--by", "week"], "possible values: day, user, label, table, outcome");
    check(&["cost", "--since", "yesterday"], "write a time such as 12h or 7d, or a day such as 2026-11-01");
    check(&["cost", "--since", "2026-11-31"], "write a time such as 12h or 7d");
    check(&["cost", "--label-key", "a'b"], "expected a key of 1 to 64");
    check(&["cost", "--by", "user", "--label-key", "team"], "leave --by out");
    check(&["serve", "--listen", "8123"], "invalid socket address syntax");
    check(&["token", "new"], "--user <NAME>");
    check(&["token", "new", "--user", ""], "a name has 1 to 128 bytes");
    check(&["token", "new", "--user", "a", "--expires", "soon"], "'soon' for '--expires <DURATION>'");
    check(&["query", "--server", "http://localhost:8123", "--on", "local"], "--on is about this machine");
    check(&["query", "--token-file", "token", "SELECT 1"], "--server <URL>");
    check(&["cost", "--server", "http://localhost:8123", "--config", "gust.toml"], "cannot be used with");
    check(&["serve", "SELECT 1"], "unexpected argument 'SELECT 1'");
    check(&["exchange"], "Usage: gust exchange");
    check(&["exchange", "gc", "--older-than", "soon"], "'soon' for '--older-than <DURATION>'");
}

#[test]
fn every_help_has_examples() {
    for (line, expect) in [
        (vec!["query", "--help"], "gust query --catalog"),
        (vec!["explain", "--help"], "gust explain \""),
        (vec!["demo", "--help"], "gust demo --sf 0.1"),
        (vec!["doctor", "--help"], "gust doctor --on lambda"),
        (vec!["exchange", "gc", "--help"], "gust exchange gc --dry-run"),
        (vec!["cost", "--help"], "gust cost --by user --since 7d"),
        (vec!["serve", "--help"], "curl http://127.0.0.1:8123/v1/query"),
        (vec!["completions", "--help"], "gust completions bash >"),
        (vec!["token", "new", "--help"], "gust token new --user ada --expires 90d"),
        (vec!["--help"], "124  the time-out passed"),
    ] {
        let help = read(&line).expect_err("help is an error of clap's");
        assert_eq!(help.exit_code(), i32::from(Exit::Done.code()));
        assert!(help.to_string().contains(expect), "for {line:?}: {help}");
        assert!(!help.to_string().contains("bootstrap"), "a hidden command shows: {help}");
    }
}

#[test]
fn sql_comes_from_the_argument_or_stdin() {
    #[track_caller]
    fn check(sql: Option<&str>, stdin_is_terminal: bool, expect: Result<&str, &str>) {
        let mut query = query(&[]);
        query.source.sql = sql.map(str::to_owned);
        let got = query.source.read_sql("from stdin".as_bytes(), stdin_is_terminal);
        assert_eq!(got.as_deref().map_err(|error| error.to_string()), expect.map_err(str::to_owned));
    }
    check(Some("SELECT 1"), true, Ok("SELECT 1"));
    check(Some("-"), true, Ok("from stdin"));
    check(None, false, Ok("from stdin"));
    check(None, true, Err("no SQL was given"));
    let endless = query(&["-"]).source.read_sql(std::io::repeat(b'x'), false).expect_err("too long").to_string();
    assert_eq!(endless, "the SQL on stdin is longer than 16777216 bytes");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "SELECT 2").expect("written");
    let path = file.path().to_str().expect("text");
    let read = |path: &str| query(&["-f", path]).source.read_sql(std::io::empty(), true);
    assert_eq!(read(path).expect("read"), "SELECT 2");
    let missing = read("missing.sql").expect_err("no file").to_string();
    assert!(missing.starts_with("cannot read the SQL from missing.sql: "), "{missing}");
}
