use gust_protocol::with_hint_line;

use super::*;

mod catalogs;
mod grants;

fn told(error: ConfigError) -> String {
    with_hint_line(&error, error.hint())
}

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = ConfigFile { path: "lake/gust.toml".into(), text: file.to_owned() };
    let environment = environment.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    Config::load(Some(&file), environment, &Overrides::default())
}

#[test]
fn without_settings_defaults_hold() {
    let none = Config::load(None, [], &Overrides::default()).expect("defaults");
    assert_eq!(none, Config::default());
    let unrelated = [("PATH", "/bin"), ("GUST_LOG", "debug"), ("GUST_TOKEN", "x"), ("GUSTO", "1"), ("GUST_ON", "")];
    let unset = Config { file: Some("lake/gust.toml".into()), ..Config::default() };
    assert_eq!(load("", &unrelated).expect("nothing is set"), unset);
}

#[test]
fn a_file_sets_everything() {
    let file = r#"
        on = "in-process"
        invoker = "lambda"
        functions_max = 16
        allow_fallback = true
        timeout_seconds = 1.5
        prefer = "balanced"
        deadline_seconds = 0.5
        memory_bytes_max = "1GiB"
        function_memory_bytes = 1_000_000
        function_temp_bytes = "1 GB"
        read_ahead_requests_max = 0
        read_ahead_bytes_max = "16MiB"
        late_columns_percent_max = 0
        join = "broadcast"
        broadcast_bytes_max = "16MiB"
        aligned_joins = "functions"
        shuffle = "hash"
        sort = "ranges"
        shuffle_bytes_min = "1 MB"
        shuffle_partitions = 64
        shuffle_reads_max = 100
        build_first = "always"
        temp_folder = "tmp"
        exchange = "s3://bucket/exchange"
        time_model = "model.toml"
        fragment_bytes_target = 0x100
        [catalogs.lake]
        type = "sqlite"
        path = "/data/catalog.db"
        warehouse = "warehouse"
        [s3]
        endpoint = "http://127.0.0.1:9000"
        region = "eu-central-1"
        allow_http = true
        path_style = true
        access_key_id = "id"
        secret_access_key = "key"
        session_token = "token"
        anonymous_buckets = ["public"]
        [process]
        program = "bin/bootstrap"
        cores = 6
        [lambda]
        functions = ["gust:live", "arn:aws:lambda:eu-central-1:123456789012:function:gust-1"]
        region = "eu-central-1"
        endpoint = "https://lambda.example"
        memory_mb = 2048
        [cost]
        region = "eu-central-1"
        prices = "prices.toml"
        max = "0.05"
        coordinator_hour = 0.17
        coordinator_outside = true
        [history]
        enabled = false
        path = "history.db"
        statement = "hash"
        retention_days = 30
        bytes_max = "16MiB"
        user = "ada"
        labels = { team = "ads", env = "prod" }
        [iceberg]
        trust_bounds = false
        [server]
        reach = ["s3://lake/open/", "open"]
        hosts = ["gust.example"]
        queries_max = 6
        queued_max = 60
        connections_max = 200
        drain_seconds = "1m"
        journal = false
        journal_after_seconds = 2
        statements_max = 20
        keep_seconds = 60
        results_bytes_max = "1GiB"
        links_bytes_max = "2GiB"
        links = "proxied"
        tokens = "tokens.toml"
        tls = { certificate = "cert.pem", key = "/etc/gust/key.pem" }
        budgets_file = "budgets.json"
        otlp = "http://127.0.0.1:4318"
        [server.jwt]
        issuer = "https://idp.example"
        audience = "gust"
        jwks = "https://idp.example/keys"
        algorithms = ["ES256"]
        groups_claim = "groups"
        [[server.budget]]
        user = "ada"
        dollars_per_day = 0.5
        [[server.budget]]
        group = "analysts"
        dollars_per_month = "100"
        [[server.grant]]
        users = ["ada"]
        groups = ["analysts"]
        tables = ["lake.sales.*", "trips"]
        paths = ["s3://lake/web/", "web"]
    "#;
    let lake = CatalogConfig::sqlite("/data/catalog.db", "lake/warehouse");
    let expect = Config {
        on: Target::InProcess,
        invoker: InvokerKind::Lambda,
        functions_max: 16,
        allow_fallback: true,
        timeout: Duration::from_millis(1500),
        prefer: Some(Prefer::Balanced),
        deadline: Some(Duration::from_millis(500)),
        memory_bytes_max: 1 << 30,
        function_memory_bytes: 1_000_000,
        function_temp_bytes: 1_000_000_000,
        read_ahead_requests_max: 0,
        read_ahead_bytes_max: 16 << 20,
        late_columns_percent_max: 0,
        join: JoinPlace::Broadcast,
        broadcast_bytes_max: 16 << 20,
        aligned_joins: AlignedPlace::Functions,
        shuffle: ShufflePlace::Hash,
        sort: SortPlace::Ranges,
        shuffle_bytes_min: 1_000_000,
        shuffle_partitions: Some(64),
        shuffle_reads_max: 100,
        build_first: BuildFirst::Always,
        temp_folder: Some("lake/tmp".into()),
        exchange: Some("s3://bucket/exchange".to_owned()),
        fragment_bytes_target: 256,
        catalogs: BTreeMap::from([("lake".to_owned(), lake)]),
        s3: S3Config {
            endpoint: Some("http://127.0.0.1:9000".to_owned()),
            region: Some("eu-central-1".to_owned()),
            allow_http: true,
            path_style: true,
            access_key_id: Some("id".to_owned()),
            secret_access_key: Some(Secret::new("key")),
            session_token: Some(Secret::new("token")),
            anonymous_buckets: vec!["public".to_owned()],
        },
        process: ProcessConfig { program: Some("lake/bin/bootstrap".into()), cores: 6 },
        lambda: LambdaConfig {
            functions: ["gust:live", "arn:aws:lambda:eu-central-1:123456789012:function:gust-1"]
                .map(|name| name.parse().expect("a name"))
                .to_vec(),
            region: Some("eu-central-1".to_owned()),
            endpoint: Some("https://lambda.example".to_owned()),
            memory_mb: Some(2048),
        },
        cost: CostConfig {
            region: Some("eu-central-1".to_owned()),
            prices: Some("lake/prices.toml".into()),
            max: Some(Money::from_nano_dollars(50_000_000)),
            coordinator_hour: Some("0.17".parse().expect("a price")),
            coordinator_outside: Some(true),
        },
        history: HistoryConfig {
            enabled: false,
            path: Some("lake/history.db".into()),
            statement: StatementKept::Hash,
            retention_days: 30,
            bytes_max: 16 << 20,
            user: Some("ada".to_owned()),
            labels: [("team", "ads"), ("env", "prod")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        },
        iceberg: IcebergConfig { trust_bounds: false },
        server: ServerConfig {
            reach: ["s3://lake/open/", "lake/open"].map(str::to_owned).to_vec(),
            hosts: vec!["gust.example".to_owned()],
            tokens: Some("lake/tokens.toml".into()),
            jwt: Some(JwtConfig {
                issuer: "https://idp.example".to_owned(),
                audience: "gust".to_owned(),
                jwks: "https://idp.example/keys".to_owned(),
                algorithms: vec!["ES256".to_owned()],
                groups_claim: Some("groups".to_owned()),
            }),
            tls: Some(TlsConfig { certificate: "lake/cert.pem".into(), key: "/etc/gust/key.pem".into() }),
            queries_max: 6,
            queued_max: 60,
            connections_max: 200,
            drain: Duration::from_secs(60),
            journal: false,
            journal_after: Duration::from_secs(2),
            statements_max: 20,
            keep: Duration::from_secs(60),
            results_bytes_max: 1 << 30,
            links_bytes_max: 2 << 30,
            links: LinksKind::Proxied,
            budgets: vec![
                BudgetConfig {
                    holder: BudgetHolder::User("ada".to_owned()),
                    period: BudgetPeriod::Day,
                    limit: Money::from_nano_dollars(500_000_000),
                },
                BudgetConfig {
                    holder: BudgetHolder::Group("analysts".to_owned()),
                    period: BudgetPeriod::Month,
                    limit: Money::from_nano_dollars(100_000_000_000),
                },
            ],
            budgets_file: Some("lake/budgets.json".into()),
            grants: vec![GrantConfig {
                users: vec!["ada".to_owned()],
                groups: vec!["analysts".to_owned()],
                tables: ["lake.sales.*", "trips"].map(grants::pattern).to_vec(),
                paths: ["s3://lake/web/", "lake/web"].map(str::to_owned).to_vec(),
            }],
            otlp: Some("http://127.0.0.1:4318".to_owned()),
        },
        time_model: Some("lake/model.toml".into()),
        file: Some("lake/gust.toml".into()),
    };
    assert_eq!(load(file, &[]).expect("a valid file"), expect);
    assert!(!format!("{expect:?}").contains("\"key\""), "the secret shows");
}

#[test]
fn later_layers_win() {
    let file = "on = 'local'\nfunctions_max = 2\ntimeout_seconds = 1\n[s3]\nregion = 'a'\npath_style = true";
    let environment = [
        ("GUST_FUNCTIONS_MAX", "3"),
        ("GUST_TIMEOUT_SECONDS", "2"),
        ("GUST_ALLOW_FALLBACK", "true"),
        ("GUST_MEMORY_BYTES_MAX", "3GiB"),
        ("GUST_EXCHANGE", "relative"),
        ("GUST_S3__REGION", "7"),
        ("GUST_LAMBDA__FUNCTIONS", "a:live, b"),
        ("GUST_CATALOGS__DEV__TYPE", "sqlite"),
        ("GUST_CATALOGS__DEV__PATH", "dev.db"),
        ("GUST_CATALOGS__DEV__WAREHOUSE", "s3://dev"),
    ];
    let overrides =
        Overrides { timeout: Some(Duration::from_secs(3)), allow_fallback: Some(false), ..Overrides::default() };
    let file = ConfigFile { path: "gust.toml".into(), text: file.to_owned() };
    let environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let config = Config::load(Some(&file), environment, &overrides).expect("three valid layers");
    assert_eq!(config.on, Target::Local, "the file");
    assert!(config.s3.path_style, "the file, beside a variable of the same table");
    assert_eq!(config.functions_max, 3, "the environment");
    assert_eq!(config.memory_bytes_max, 3 << 30);
    assert_eq!(config.exchange.as_deref(), Some("relative"), "a variable's path is relative to the working folder");
    assert_eq!(config.s3.region.as_deref(), Some("7"), "text stays text");
    let functions: Vec<String> = config.lambda.functions.iter().map(ToString::to_string).collect();
    assert_eq!(functions, ["a:live", "b"], "a list in a variable");
    assert_eq!(config.catalogs["dev"], CatalogConfig::sqlite("dev.db", "s3://dev"));
    assert_eq!(config.timeout, Duration::from_secs(3), "the flags");
    assert!(!config.allow_fallback, "the flags");
}

#[test]
fn an_error_in_a_file_names_key_value_and_line() {
    #[track_caller]
    fn check(file: &str, expect: &str) {
        let error = told(load(file, &[]).expect_err("a bad file"));
        assert_eq!(error, expect, "for {file:?}");
    }
    check(
        "on = 'local'\n\nfunctons_max = 4",
        "unknown key `functons_max` in lake/gust.toml line 3\nhint: did you mean `functions_max`?",
    );
    check("timeout = 4", "unknown key `timeout` in lake/gust.toml line 1\nhint: did you mean `timeout_seconds`?");
    check(
        "[process]\ncores = 129",
        "invalid value 129 for `process.cores` in lake/gust.toml line 2: expected a whole number from 1 to 128",
    );
    check(
        "[s3]\nregion = 'a'\nendpont = ''",
        "unknown key `s3.endpont` in lake/gust.toml line 3\nhint: did you mean `s3.endpoint`?",
    );
    check(
        "[process]\ncommand = ''",
        "unknown key `process.command` in lake/gust.toml line 2\nhint: valid keys are `process.program`, `process.cores`",
    );
    check(
        "[catalogs.lake]\ntype = 'sqlite'\npath = 'a'\nwarehose = 'b'",
        "unknown key `catalogs.lake.warehose` in lake/gust.toml line 4\nhint: did you mean `catalogs.lake.warehouse`?",
    );
    check(
        "\n[catalogs.lake]\ntype = 'sqlite'\npath = 'a'",
        "missing key `catalogs.lake.warehouse`; its table stands in lake/gust.toml line 2",
    );
    check(
        "[catalogs.lake]\ntype = 'sqlit'\npath = 'a'\nwarehouse = 'b'",
        "invalid value \"sqlit\" for `catalogs.lake.type` in lake/gust.toml line 2: expected one of \"sqlite\", \"rest\", \"glue\", \"s3tables\"\nhint: did you mean \"sqlite\"?",
    );
    check(
        "read_ahead_requests_max = 1025",
        "invalid value 1025 for `read_ahead_requests_max` in lake/gust.toml line 1: expected a whole number from 0 to 1024",
    );
    check(
        "read_ahead_bytes_max = -1",
        "invalid value -1 for `read_ahead_bytes_max` in lake/gust.toml line 1: expected bytes, such as 536870912, \"512MiB\" or \"2GB\"",
    );
    check(
        "[history]\nretention_days = 0",
        "invalid value 0 for `history.retention_days` in lake/gust.toml line 2: expected a whole number from 1 to 3650",
    );
    check(
        "[history.labels]\nteam = 'ads'\n'a team' = 'x'",
        "invalid value \"x\" for `history.labels.a team` in lake/gust.toml line 3: expected a key of 1 to 64 letters, digits, dots, dashes or underscores",
    );
    check(
        "[history.labels]\nteam = ''",
        "invalid value \"\" for `history.labels.team` in lake/gust.toml line 2: expected a value of 1 to 256 characters, none of them a control character",
    );
    check(
        "[[server.budget]]\nuser = 'ada'\ndollars_per_week = 1",
        "unknown key `server.budget.dollars_per_week` in lake/gust.toml line 3\nhint: did you mean `server.budget.dollars_per_day`?",
    );
    for (file, expected) in [
        ("dollars_per_day = 1", "either `user` or `group`"),
        ("user = 'ada'\ngroup = 'a'\ndollars_per_day = 1", "either `user` or `group`"),
        ("user = 'ada'", "either `dollars_per_day` or `dollars_per_month`"),
        ("user = 'ada'\ndollars_per_day = 1\ndollars_per_month = 2", "either `dollars_per_day` or `dollars_per_month`"),
    ] {
        check(
            &format!("\n[[server.budget]]\n{file}"),
            &format!("invalid value [table] for `server.budget` in lake/gust.toml line 2: expected {expected}"),
        );
    }
    check(
        "[[server.budget]]\nuser = 'ada'\ndollars_per_day = -1",
        "invalid value -1 for `server.budget.dollars_per_day` in lake/gust.toml line 3: expected dollars that are not negative, such as \"0.05\"",
    );
    let many: String = (0..17).map(|n| format!("k{n} = 'v'\n")).collect();
    check(
        &format!("[history.labels]\n{many}"),
        "invalid value 17 labels for `history.labels` in lake/gust.toml line 1: expected at most 16 labels including the configuration's, not 17",
    );
    check(
        "on = 'everywhere'",
        "invalid value \"everywhere\" for `on` in lake/gust.toml line 1: expected one of \"auto\", \"local\", \"in-process\", \"processes\", \"lambda\"",
    );
    check(
        "prefer = 'cheap'",
        "invalid value \"cheap\" for `prefer` in lake/gust.toml line 1: expected one of \"cost\", \"latency\", \"balanced\"",
    );
    check(
        "on = 1",
        "invalid value 1 for `on` in lake/gust.toml line 1: expected one of \"auto\", \"local\", \"in-process\", \"processes\", \"lambda\"",
    );
    for count in ["0", "-1", "10001", "'4'", "4.0", "[4]", "true", "99999999999999999999"] {
        let shown = count.replace('\'', "\"").replace("[4]", "[list]").replace("4.0", "4");
        check(
            &format!("functions_max = {count}"),
            &format!(
                "invalid value {shown} for `functions_max` in lake/gust.toml line 1: expected a whole number from 1 to 10000"
            ),
        );
    }
    let config = load("timeout_seconds = '1m 30s'\ndeadline_seconds = \"500ms\"", &[]).expect("times");
    assert_eq!(config.timeout, Duration::from_secs(90));
    assert_eq!(config.deadline, Some(Duration::from_millis(500)));
    for seconds in ["0", "-1", "86401", "nan", "1e300", "-0.5", "'0s'", "'25h'", "'x'"] {
        for key in ["timeout_seconds", "deadline_seconds"] {
            let error = told(load(&format!("{key} = {seconds}"), &[]).expect_err("not a time"));
            assert!(error.ends_with("expected seconds above zero, at most 86400, such as 30 or \"30s\""), "{error}");
        }
    }
    check(
        "memory_bytes_max = '2 gigs'",
        "invalid value \"2 gigs\" for `memory_bytes_max` in lake/gust.toml line 1: expected bytes above zero, such as 536870912, \"512MiB\" or \"2GB\"",
    );
    check(
        "allow_fallback = 'yes'",
        "invalid value \"yes\" for `allow_fallback` in lake/gust.toml line 1: expected a boolean",
    );
    check(
        "temp_folder = 's3://bucket'",
        "invalid value \"s3://bucket\" for `temp_folder` in lake/gust.toml line 1: expected a path on this machine",
    );
    check(
        "exchange = 'gs://bucket'",
        "invalid value \"gs://bucket\" for `exchange` in lake/gust.toml line 1: expected a folder, or a URL that starts with file:// or s3://",
    );
    check(
        "exchange = 1979-05-27",
        "invalid value 1979-05-27 for `exchange` in lake/gust.toml line 1: expected a folder, or a URL that starts with file:// or s3://",
    );
    check(
        "[lambda]\nfunctions = ['gust:live',\n 'arn:aws:s3:::lake']",
        "invalid value \"arn:aws:s3:::lake\" for `lambda.functions` in lake/gust.toml line 3: expected NAME:ALIAS, or arn:aws:lambda:REGION:ACCOUNT:function:NAME:ALIAS",
    );
    check("s3 = true", "invalid value true for `s3` in lake/gust.toml line 1: expected a table");
    check(
        "[on]\nx = 1",
        "invalid value [table] for `on` in lake/gust.toml line 1: expected one of \"auto\", \"local\", \"in-process\", \"processes\", \"lambda\"",
    );
    check(
        "[functions_max]",
        "invalid value [table] for `functions_max` in lake/gust.toml line 1: expected a whole number from 1 to 10000",
    );
    check("[s3]\nregion = 1", "invalid value 1 for `s3.region` in lake/gust.toml line 2: expected a string");
    check(
        "[s3]\nsecret_access_key = 12345",
        "invalid value (hidden) for `s3.secret_access_key` in lake/gust.toml line 2: expected a string",
    );
    check(
        "[s3]\nendpoint = 'localhost:9000'",
        "invalid value \"localhost:9000\" for `s3.endpoint` in lake/gust.toml line 2: expected an http:// or https:// URL",
    );
    check(
        "[s3]\nendpoint = 'http://localhost:9000'",
        "`s3.endpoint` in lake/gust.toml line 2 does not fit the other settings: it is not encrypted\nhint: set `s3.allow_http = true` if that is meant",
    );
    check(
        "[s3]\nsecret_access_key = 'x'",
        "`s3.secret_access_key` in lake/gust.toml line 2 does not fit the other settings: no key id is set\nhint: set both `s3.access_key_id` and `s3.secret_access_key`, or neither to use the AWS_* environment",
    );
}

#[test]
fn the_history_has_its_place_and_user_from_the_environment() {
    #[track_caller]
    fn check(file: &str, environment: &[(&str, &str)], path: Option<&str>, user: Option<&str>) {
        let history = load(file, environment).expect("valid settings").history;
        assert_eq!((history.path.as_deref(), history.user.as_deref()), (path.map(Path::new), user), "{environment:?}");
    }
    check("", &[], None, None);
    let home = ("HOME", "/home/ada");
    check("", &[home, ("USER", "ada")], Some("/home/ada/.local/state/gust/history.db"), Some("ada"));
    check("", &[home, ("XDG_STATE_HOME", "/state"), ("LOGNAME", "ada")], Some("/state/gust/history.db"), Some("ada"));
    check("", &[("XDG_STATE_HOME", "state"), ("USERNAME", "ada")], None, Some("ada"));
    check("", &[("HOME", ""), ("USER", ""), ("LOGNAME", "ada")], None, Some("ada"));
    let file = "[history]\npath = 'h.db'\nuser = 'team'";
    check(file, &[home, ("USER", "ada")], Some("lake/h.db"), Some("team"));
    check(file, &[("GUST_HISTORY__PATH", "/x.db"), ("GUST_HISTORY__USER", "7")], Some("/x.db"), Some("7"));
}

#[test]
fn broken_toml_names_the_line() {
    #[track_caller]
    fn check(file: &str, expect: &str) {
        let error = told(load(file, &[]).expect_err("no TOML"));
        assert!(error.starts_with(expect), "for {file:?}: {error}");
    }
    check("on = 'local'\nfunctions_max 4", "lake/gust.toml line 2 is not valid TOML: ");
    check("on = 'local'\non = 'auto'", "lake/gust.toml line 2 is not valid TOML: duplicate key");
    check("\n\non = 'local", "lake/gust.toml line 3 is not valid TOML: ");
}

#[test]
fn an_error_in_a_variable_names_it() {
    #[track_caller]
    fn check(variable: &str, value: &str, expect: &str) {
        let error = told(load("[s3]\nregion = 'a'", &[(variable, value)]).expect_err("a bad variable"));
        assert_eq!(error, expect, "for {variable}={value}");
    }
    check(
        "GUST_FUNCTONS_MAX",
        "4",
        "unknown environment variable `GUST_FUNCTONS_MAX`\nhint: did you mean `GUST_FUNCTIONS_MAX`?",
    );
    check(
        "GUST_S3__ENDPONT",
        "x",
        "unknown environment variable `GUST_S3__ENDPONT`\nhint: did you mean `GUST_S3__ENDPOINT`?",
    );
    check(
        "GUST_S3_ENDPOINT",
        "x",
        "unknown environment variable `GUST_S3_ENDPOINT`\nhint: did you mean `GUST_S3__ENDPOINT`?",
    );
    check(
        "GUST_PROCESS__COMMAND",
        "x",
        "unknown environment variable `GUST_PROCESS__COMMAND`\nhint: valid variables are `GUST_PROCESS__PROGRAM`, `GUST_PROCESS__CORES`",
    );
    check(
        "GUST_FUNCTIONS_MAX",
        "four",
        "invalid value \"four\" for `functions_max` in the environment variable `GUST_FUNCTIONS_MAX`: expected a whole number from 1 to 10000",
    );
    check(
        "GUST_ON",
        "process",
        "invalid value \"process\" for `on` in the environment variable `GUST_ON`: expected one of \"auto\", \"local\", \"in-process\", \"processes\", \"lambda\"\nhint: did you mean \"processes\"?",
    );
    check(
        "GUST_ALLOW_FALLBACK",
        "yes",
        "invalid value \"yes\" for `allow_fallback` in the environment variable `GUST_ALLOW_FALLBACK`: expected a boolean",
    );
    check("GUST_S3", "x", "invalid value \"x\" for `s3` in the environment variable `GUST_S3`: expected a table");
    check(
        "GUST_ON__NOW",
        "x",
        "invalid value [table] for `on` in the environment variable `GUST_ON__NOW`: expected one of \"auto\", \"local\", \"in-process\", \"processes\", \"lambda\"",
    );
    check(
        "GUST_S3__SECRET_ACCESS_KEY",
        "x",
        "`s3.secret_access_key` in the environment variable `GUST_S3__SECRET_ACCESS_KEY` does not fit the other settings: no key id is set\nhint: set both `s3.access_key_id` and `s3.secret_access_key`, or neither to use the AWS_* environment",
    );
}

#[test]
fn a_named_file_must_exist_and_the_default_need_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gust.toml");
    assert_eq!(ConfigFile::find(None, folder.path()).expect("no file is no error"), None);
    let error = told(ConfigFile::find(Some(&path), folder.path()).expect_err("a named file must exist"));
    assert!(error.starts_with(&format!("cannot read the configuration file {}: ", path.display())), "{error}");
    std::fs::write(&path, "on = 'local'").expect("a writable folder");
    let file = ConfigFile { path: path.clone(), text: "on = 'local'".to_owned() };
    assert_eq!(ConfigFile::find(None, folder.path()).expect("readable"), Some(file.clone()));
    assert_eq!(ConfigFile::find(Some(&path), Path::new("elsewhere")).expect("readable"), Some(file));
}

#[test]
fn flags_and_settings_use_the_same_names() {
    fn check<T: serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: T, name: &str) {
        assert_eq!(serde_json::from_value::<T>(name.into()).expect("a setting"), value);
    }
    Target::ALL.into_iter().for_each(|target| check(target, target.name()));
    Prefer::ALL.into_iter().for_each(|prefer| check(prefer, prefer.name()));
}

#[test]
fn estimates_pick_where_something_is_open() {
    let second = Some(Duration::from_secs(1));
    for (on, prefer, deadline, expect) in [
        (Target::Auto, None, None, true),
        (Target::Processes, None, None, false),
        (Target::Processes, Some(Prefer::Latency), None, true),
        (Target::Lambda, None, second, true),
        (Target::Local, None, None, false),
        // One place and no functions: a preference has nothing to pick.
        (Target::Local, Some(Prefer::Cost), second, false),
    ] {
        let config = Config { on, prefer, deadline, ..Config::default() };
        assert_eq!(config.picks_by_estimate(), expect, "{on:?} {prefer:?} {deadline:?}");
    }
}
