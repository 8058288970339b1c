//! Deployment: Terraform's code and LocalStack's own checks, the rights in the policies, and a stack from apply to destroy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use gust::demo::queries;
use gust_tests::compare::{Rule, compare};
use gust_tests::localstack::{self, LocalStack, REGION};
use gust_tests::tpch;
use tempfile::TempDir;

use crate::tpch::judged;

const GUST: &str = env!("CARGO_BIN_EXE_gust_under_test");
const FUNCTION: &str = env!("CARGO_BIN_EXE_bootstrap_under_test");

/// Bytes of the stack's package: as many as a release's has (17.7 MB, docs/measurements.md).
const PACKAGE_BYTES: usize = 18_000_000;

/// Runs a script of the project, and repeats on stderr the lines that it skips. With `CI=true` the script fails instead.
fn script(path: &str, arguments: &[&str]) -> Output {
    let output = Command::new(localstack::root().join(path)).args(arguments).output().expect("a script");
    let told = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success(), "{path} failed:\n{told}");
    told.lines()
        .filter(|line| line.starts_with("skipped"))
        .for_each(|line| localstack::say_skipped(&format!("{path}: {line}")));
    output
}

#[test]
fn terraform_is_formatted_valid_tested_and_scanned() {
    script("infra/check", &[]);
}

#[test]
fn localstack_runs_any_function_as_lambda_does() {
    script("localstack/check", &[]);
}

/// Right that a policy grants, with the source file and the call that need it.
struct Right {
    action: &'static str,
    file: &'static str,
    call: &'static str,
}

const fn right(action: &'static str, file: &'static str, call: &'static str) -> Right {
    Right { action, file, call }
}

const DEPLOYMENT: &str = "coordinator/engine/src/fleet/lambda/deployment.rs";

const REST: &str = "coordinator/catalog/src/rest/mod.rs";
const GRANTS: &str = "coordinator/engine/src/tables/catalogs.rs";

/// Rights of the coordinator. Those on Glue and S3 Tables are those that AWS documents for their Iceberg REST endpoints.
const COORDINATOR: [Right; 23] = [
    right("lambda:GetAlias", DEPLOYMENT, ".get_alias()"),
    right("lambda:InvokeFunction", "coordinator/engine/src/fleet/lambda/mod.rs", ".invoke()"),
    right("lambda:GetFunctionConfiguration", DEPLOYMENT, ".get_function_configuration()"),
    right("lambda:GetAccountSettings", DEPLOYMENT, ".get_account_settings()"),
    right("s3:GetBucketLocation", "coordinator/engine/src/session/doctor.rs", ".get_bucket_location()"),
    right("s3:ListBucket", "coordinator/engine/src/exchange/mod.rs", "store.list("),
    right("s3:DeleteObject", "coordinator/engine/src/exchange/mod.rs", "store.delete("),
    right("s3:PutObject", "coordinator/engine/src/exec/publish.rs", "store.put("),
    right("s3:GetObject", "fragment-fn/protocol/src/exchange.rs", "store.get("),
    right("glue:GetCatalog", REST, "fnserved("),
    right("glue:GetDatabases", REST, "fnnamespaces_in("),
    right("glue:GetDatabase", REST, "fnhas_namespace("),
    right("glue:GetTables", REST, "fntables_in("),
    right("glue:GetTable", REST, "fnload("),
    right("glue:GetTable", REST, "fncredentials("),
    right("s3tables:GetTable", REST, "fncredentials("),
    right("s3tables:GetTableBucket", REST, "fnserved("),
    right("s3tables:ListNamespaces", REST, "fnnamespaces_in("),
    right("s3tables:GetNamespace", REST, "fnhas_namespace("),
    right("s3tables:ListTables", REST, "fntables_in("),
    right("s3tables:GetTable", REST, "fnload("),
    right("s3tables:GetTableMetadataLocation", REST, "fnload("),
    right("s3tables:GetTableData", GRANTS, "S3_TABLES:&str"),
];
/// Rights of the function.
const FUNCTION_RIGHTS: [Right; 4] = [
    right("s3:GetObject", "fragment-fn/src/stage_objects.rs", "exchange.get("),
    right("s3:PutObject", "fragment-fn/protocol/src/exchange.rs", "writer.put("),
    right("s3:AbortMultipartUpload", "fragment-fn/src/output.rs", "writer.abort()"),
    right("s3tables:GetTableData", "fragment-fn/src/environment.rs", "AmazonS3Builder::from_env()"),
];
/// Rights that the Lambda service itself uses with the function's role, to write its log.
const BY_LAMBDA: [&str; 2] = ["logs:CreateLogStream", "logs:PutLogEvents"];

/// Returns all actions that a module's policies name.
fn granted(module: &str) -> BTreeSet<String> {
    let folder = localstack::root().join("infra/modules").join(module);
    let mut actions = BTreeSet::new();
    for file in std::fs::read_dir(&folder).expect("a module").flatten() {
        let text = std::fs::read_to_string(file.path()).expect("text");
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default()) {
            let words = line.split('"').skip(1).step_by(2);
            let is_action = |word: &&str| {
                let of_service = word.split_once(':').is_some_and(|(service, action)| {
                    service.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                        && action.starts_with(|c: char| c.is_ascii_uppercase() || c == '*')
                });
                of_service || (*word == "*" && line.contains("Action"))
            };
            // This action lets a service take the role. It is no right of the role.
            actions.extend(words.filter(is_action).filter(|word| *word != "sts:AssumeRole").map(str::to_owned));
        }
    }
    actions
}

#[test]
fn policies_give_what_the_code_calls_and_nothing_else() {
    let root = localstack::root();
    for (module, rights, besides) in [
        ("coordinator", COORDINATOR.as_slice(), [].as_slice()),
        ("function", FUNCTION_RIGHTS.as_slice(), BY_LAMBDA.as_slice()),
    ] {
        for Right { action, file, call } in rights {
            let source = std::fs::read_to_string(root.join(file)).expect("a source file");
            // The layout of the code does not count.
            let source: String = source.split_whitespace().collect();
            assert!(source.contains(call), "{module} has {action} for `{call}` in {file}, which is not there");
        }
        let called = rights.iter().map(|right| right.action).chain(besides.iter().copied());
        let called: BTreeSet<String> = called.map(str::to_owned).collect();
        assert_eq!(granted(module), called, "{module}: granted on the left, called on the right");
    }
}

/// Each call of an AWS service in the coordinator stands in the table of rights.
#[test]
fn every_call_of_a_service_has_a_right() {
    let verbs = ["get_", "list_", "put_", "create_", "delete_", "update_", "head_", "tag_", "describe_"];
    let known: BTreeSet<&str> = COORDINATOR
        .iter()
        .map(|right| right.call.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .collect();
    let mut found = BTreeSet::new();
    let mut folders =
        ["coordinator/src", "coordinator/engine/src"].map(|folder| localstack::root().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let source = std::fs::read_to_string(entry.path()).unwrap_or_default();
            if !source.contains("aws_sdk_") {
                continue;
            }
            // An SDK operation takes no argument itself: `.get_bucket_location()`.
            for part in source.split("()").filter_map(|part| part.rsplit_once('.')) {
                let name = part.1;
                if (name == "invoke" || verbs.iter().any(|verb| name.starts_with(verb)))
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                {
                    assert!(
                        known.contains(name),
                        "`.{name}()` in {} has no right in the table",
                        entry.path().display()
                    );
                    found.insert(name.to_owned());
                }
            }
        }
    }
    assert!(found.len() >= 4, "the search finds calls: {found:?}");
}

/// Each question to a catalog that AWS keeps stands in the table of rights, for each of its catalogs.
#[test]
fn every_question_to_a_catalog_has_its_rights() {
    let source = std::fs::read_to_string(localstack::root().join(REST)).expect("a source file");
    let mut found = Vec::new();
    for part in source.split("fn ").skip(1) {
        let asks = part.contains("http.get(") || part.contains("http.get_table(");
        let Some((name, _)) = part.split_once('(').filter(|_| asks) else { continue };
        let call = format!("fn{name}(");
        for service in ["glue:", "s3tables:"] {
            let has_right = COORDINATOR.iter().any(|right| right.call == call && right.action.starts_with(service));
            assert!(has_right, "`{name}` in {REST} asks a catalog, and no right of {service} is for it");
        }
        found.push(name);
    }
    assert_eq!(found, ["has_namespace", "served", "namespaces_in", "tables_in", "load", "credentials"]);
}

/// Copy of `infra/` in which Terraform may write.
struct Stack<'a> {
    localstack: &'a LocalStack,
    folder: TempDir,
    variables: Vec<String>,
}

impl Stack<'_> {
    fn terraform(&self, verb: &[&str]) -> String {
        let folder = self.folder.path().join("infra/examples/localstack");
        let mut command = Command::new(localstack::root().join("infra/terraform"));
        command.arg(format!("-chdir={}", folder.display())).args(verb);
        if ["apply", "destroy"].contains(&verb[0]) {
            command
                .args(["-auto-approve", "-no-color"])
                .args(self.variables.iter().map(|variable| format!("-var={variable}")));
        }
        let output = command.output().expect("terraform");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "terraform {verb:?} against {}: {stderr}", self.localstack.endpoint);
        String::from_utf8(output.stdout).expect("text")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_answers_queries_and_its_destruction_leaves_nothing() {
    let Some(localstack) = localstack::shared() else { return };
    if Command::new("terraform").arg("version").output().is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "terraform is not installed, and CI does not skip");
        localstack::say_skipped("terraform is not installed");
        return;
    }
    let folder = TempDir::new().expect("a temporary folder");
    // The copy leaves out the state that a user of this checkout may have.
    let copy = format!("source '{}/infra/lib/terraform.sh'; infra_copy \"$1\"", localstack::root().display());
    let copied = Command::new("bash").args(["-c", &copy, "-"]).arg(folder.path().join("infra")).status();
    assert!(copied.expect("bash").success());
    let zip = folder.path().join("function.zip");
    // It runs the program from its place on this machine: a test's program is five times as large as a release's. One such is
    // deployed by `lambda::tpch_on_lambda_equals_local`, and not by Terraform.
    std::fs::write(&zip, localstack::padded_package_of(FUNCTION, &[], PACKAGE_BYTES)).expect("writable");
    let arch = std::env::consts::ARCH.replace("aarch64", "arm64");
    let name = format!("apply-{}", std::process::id());
    let variables = vec![
        format!("endpoint={}", localstack.endpoint),
        format!("region={REGION}"),
        format!("name={name}"),
        format!("table_bucket={name}-lake"),
        format!("functions=[{{ memory_mb = 2048, arch = \"{arch}\", clones = 2 }}]"),
        format!("packages={{ {arch} = \"{}\" }}", zip.display()),
    ];
    let stack = Stack { localstack, folder, variables };
    stack.terraform(&["init", "-no-color"]);
    stack.terraform(&["apply"]);
    let applied = inventory(localstack, &name);
    assert_eq!(applied["functions"].len(), 2, "{applied:?}");
    assert!(applied.values().all(|names| !names.is_empty()), "every kind of thing is there to be missed: {applied:?}");

    let config = stack.folder.path().join("gust.toml");
    std::fs::write(&config, stack.terraform(&["output", "-raw", "gust_toml"])).expect("writable");
    let tables = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
    let store = localstack.store(&format!("{name}-lake"));
    let setup = tables.upload(store.as_ref(), &format!("s3://{name}-lake")).await.expect("uploaded");
    let setup_file = stack.folder.path().join("tables.sql");
    std::fs::write(&setup_file, setup.join(";\n")).expect("writable");
    let gust = |arguments: &[&str], sql: &str| {
        let mut command = Command::new(GUST);
        // LocalStack takes any keys, as its users have them.
        localstack::without_aws(&mut command);
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").args(arguments);
        command.env("XDG_STATE_HOME", stack.folder.path());
        let sql_file = stack.folder.path().join("query.sql");
        std::fs::write(&sql_file, sql).expect("writable");
        command.arg("--config").arg(&config).stdin(std::fs::File::open(sql_file).expect("written"));
        let output = command.output().expect("gust");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    };
    let doctor = String::from_utf8(gust(&["doctor"], "").stdout).expect("text");
    for clone in 0..2 {
        assert!(doctor.contains(&format!("ok   {name}-{arch}-2048-{clone}:1")), "{doctor}");
    }
    // One program runs all queries, so that the tables are made once.
    let statements: Vec<&str> = (1..=queries::COUNT).map(queries::query).collect();
    let setup_file = setup_file.display().to_string();
    let arguments = ["query", "--on", "lambda", "--format", "arrow", "--report", "json", "--setup", &setup_file];
    let output = gust(&arguments, &statements.join(";\n"));
    // The tables of the set-up file have reports before those of the queries.
    let reports = String::from_utf8_lossy(&output.stderr).into_owned();
    let reports: Vec<&str> = reports.lines().filter(|line| line.starts_with('{')).collect();
    let reports = &reports[reports.len() - queries::COUNT..];
    let mut streams = output.stdout.as_slice();
    for (number, report) in (1..).zip(reports) {
        let report: serde_json::Value = serde_json::from_str(report).expect("a report in JSON");
        // Query 17 stops asking for rows early: no part matches at this scale.
        assert!(number == 17 || report["fragments_adopted"] == report["fragments"], "query {number}: {report}");
        assert!(report["fragments_adopted"].as_u64() > Some(0), "query {number}: {report}");
        assert!(report["fragments"].as_u64() > Some(0) && report["fell_back"].is_null(), "{report}");
        let rows = arrow_ipc::reader::StreamReader::try_new(&mut streams, None).expect("rows");
        let rows: Vec<_> = rows.collect::<Result<_, _>>().expect("rows");
        let expected = judged(queries::query(number)).await;
        compare(expected, &rows, Rule::same_engine())
            .unwrap_or_else(|difference| panic!("query {number}: {difference}"));
    }
    assert!(streams.is_empty(), "{} bytes are of no query", streams.len());

    stack.terraform(&["destroy"]);
    let left = inventory(localstack, &name);
    assert!(left.len() == 6 && left.values().all(Vec::is_empty), "left behind: {left:?}");
}

/// Returns the names of a stack's things in LocalStack, by kind. Things of other tests come and go.
fn inventory(localstack: &LocalStack, stack: &str) -> BTreeMap<String, Vec<String>> {
    let script = localstack::root().join("tests/python/inventory.py");
    let output = Command::new("python3").arg(script).args([&localstack.endpoint, REGION]).output().expect("Python 3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: BTreeMap<String, Vec<String>> = serde_json::from_slice(&output.stdout).expect("JSON");
    let own = |names: Vec<String>| names.into_iter().filter(|name| name.contains(stack)).collect();
    all.into_iter().map(|(kind, names)| (kind, own(names))).collect()
}
