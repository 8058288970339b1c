//! LocalStack for tests. All tests of a program share one: the first that needs it starts it, and it ends with the program.
//!
//! `localstack/start` does the work. It ends when its stdin does, so a killed test leaves nothing behind. If it cannot start,
//! [`shared`] prints the reason and returns None; with `CI=true` it panics instead. Functions run there as local processes
//! and see the tests' files, so gates work as with any other invoker.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{Environment, EphemeralStorage, FunctionCode, LastUpdateStatus, Runtime, State};
use gust_engine::config::{LambdaConfig, S3Config, Secret};
use gust_engine::storage::Stores;
use object_store::ObjectStore;

/// Region of everything. Any would do.
pub const REGION: &str = "eu-central-1";

/// Running LocalStack.
#[derive(Debug)]
pub struct LocalStack {
    pub endpoint: String,
    /// Process that ends when this value is dropped, because its stdin is closed then.
    _child: Mutex<Child>,
}

/// Returns the program's LocalStack, or None where it cannot run here. The reason is then printed on stderr.
///
/// # Panics
/// With `CI=true`, instead of returning None.
pub fn shared() -> Option<&'static LocalStack> {
    static SHARED: OnceLock<Result<LocalStack, String>> = OnceLock::new();
    match SHARED.get_or_init(|| start().map_err(|error| format!("{error:#}"))) {
        Ok(localstack) => Some(localstack),
        Err(reason) => {
            let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!is_ci, "a test would be skipped, and CI does not skip: {reason}");
            say_skipped(reason);
            None
        }
    }
}

/// Prints on stderr that a test cannot run. The test harness does not capture it, unlike a passing test's other output.
pub fn say_skipped(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// Removes the user's own AWS settings from a program's environment.
pub fn without_aws(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_")) {
        command.env_remove(name);
    }
}

/// Returns the project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the project").to_owned()
}

fn start() -> anyhow::Result<LocalStack> {
    let script = root().join("localstack/start");
    let mut command = Command::new(&script);
    command.args(["--port", "0", "--until-stdin-closes"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", script.display()))?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout is a pipe")?).read_line(&mut line)?;
    let Some(endpoint) = line.trim().strip_prefix("ready ").map(str::to_owned) else {
        let mut why = String::new();
        child.stderr.take().context("stderr is a pipe")?.read_to_string(&mut why)?;
        bail!("LocalStack did not start: {}", why.trim());
    };
    // Nobody reads stderr any more. It is drained, so that later output does not block LocalStack.
    let mut stderr = child.stderr.take().context("stderr is a pipe")?;
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    Ok(LocalStack { endpoint, _child: Mutex::new(child) })
}

/// Settings of a test function.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub memory_mb: i32,
    pub timeout_seconds: i32,
    /// Reserved concurrency; None is the account's.
    pub concurrency: Option<i32>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { memory_mb: 2048, timeout_seconds: 60, concurrency: None }
    }
}

impl LocalStack {
    /// Returns the settings by which stores reach S3.
    pub fn s3(&self) -> S3Config {
        S3Config {
            endpoint: Some(self.endpoint.clone()),
            region: Some(REGION.to_owned()),
            allow_http: true,
            path_style: true,
            access_key_id: Some("test".to_owned()),
            secret_access_key: Some(Secret::new("test")),
            ..S3Config::default()
        }
    }

    /// Returns the settings of Lambda with these functions.
    pub fn lambda(&self, functions: &[String]) -> LambdaConfig {
        LambdaConfig {
            functions: functions.iter().map(|name| name.parse().expect("a function's name")).collect(),
            region: Some(REGION.to_owned()),
            endpoint: Some(self.endpoint.clone()),
            memory_mb: None,
        }
    }

    pub async fn sdk(&self) -> SdkConfig {
        gust_engine::storage::aws::sdk_config(&self.s3(), Some(REGION), Some(&self.endpoint)).await
    }

    /// Opens a bucket as a store.
    pub fn store(&self, bucket: &str) -> Arc<dyn ObjectStore> {
        let url = format!("s3://{bucket}/").parse().expect("a bucket's name");
        Stores::new(self.s3()).open(&url).expect("plain settings")
    }

    /// Makes a bucket of the test's own, and returns its name.
    pub async fn bucket(&self, name: &str) -> String {
        let bucket = unique(name);
        let config = aws_sdk_s3::config::Builder::from(&self.sdk().await).force_path_style(true).build();
        let location = aws_sdk_s3::types::BucketLocationConstraint::from(REGION);
        let location = aws_sdk_s3::types::CreateBucketConfiguration::builder().location_constraint(location).build();
        let create = aws_sdk_s3::Client::from_conf(config).create_bucket().bucket(&bucket);
        create.create_bucket_configuration(location).send().await.expect("a new bucket");
        bucket
    }

    /// Lists the keys under `s3://BUCKET/PREFIX`.
    pub async fn objects(&self, url: &str) -> Vec<String> {
        let (bucket, prefix) = url.trim_start_matches("s3://").split_once('/').unwrap_or((url, ""));
        let config = aws_sdk_s3::config::Builder::from(&self.sdk().await).force_path_style(true).build();
        let list = aws_sdk_s3::Client::from_conf(config).list_objects_v2().bucket(bucket).prefix(prefix);
        let listed = list.send().await.expect("a bucket");
        listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
    }

    /// Deploys a zip as a function of the test's own, published behind the alias `live`. Returns `NAME:live`.
    pub async fn deploy(&self, name: &str, zip: Vec<u8>, setup: Setup) -> String {
        let name = unique(name);
        // A zip of 90 MB takes long on a busy machine.
        let patient = TimeoutConfig::builder().operation_timeout(Duration::from_secs(180)).build();
        let config = aws_sdk_lambda::config::Builder::from(&self.sdk().await).timeout_config(patient);
        let client = Client::from_conf(config.build());
        let create =
            client.create_function().function_name(&name).handler("bootstrap").runtime(Runtime::Providedal2023);
        let create = create.role("arn:aws:iam::000000000000:role/gust-test").memory_size(setup.memory_mb);
        let temp = EphemeralStorage::builder().size(512).build().expect("a size");
        let create = create.timeout(setup.timeout_seconds).ephemeral_storage(temp);
        // Functions find S3 at the same address as the test.
        let environment = Environment::builder().variables("RUST_LOG", "warn").build();
        let code = FunctionCode::builder().zip_file(Blob::new(zip)).build();
        create.environment(environment).code(code).send().await.expect("a new function");
        ready(&client, &name).await;
        if let Some(concurrency) = setup.concurrency {
            let put = client.put_function_concurrency().function_name(&name);
            put.reserved_concurrent_executions(concurrency).send().await.expect("reserved");
        }
        let published = client.publish_version().function_name(&name).send().await.expect("a version");
        let version = published.version().expect("a number");
        let alias = client.create_alias().function_name(&name).name("live").function_version(version);
        alias.send().await.expect("an alias");
        format!("{name}:live")
    }
}

async fn ready(client: &Client, name: &str) {
    // This bounds a wait for ever: a busy machine takes long.
    for _ in 0..2_400 {
        let found = client.get_function_configuration().function_name(name).send().await.expect("it was created");
        let updated = found.last_update_status().is_none_or(|status| *status == LastUpdateStatus::Successful);
        if found.state() == Some(&State::Active) && updated {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("function {name} does not become active");
}

/// Returns a name that no other test of the program has.
fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Returns a zip whose `bootstrap` runs `program` with `arguments`, from its place on this machine.
pub fn package_of(program: &str, arguments: &[&str]) -> Vec<u8> {
    padded_package_of(program, arguments, 0)
}

/// Returns the same zip with a second file of random bytes, for a package as large as one with a whole program.
pub fn padded_package_of(program: &str, arguments: &[&str], padding_bytes: usize) -> Vec<u8> {
    let script = format!("#!/bin/sh\nexec '{program}' {}\n", arguments.join(" "));
    zip(script.as_bytes(), padding_bytes)
}

/// Returns a zip with the executable file `bootstrap`, and with a file of so many random bytes if there are to be any. Python makes it:
/// the archive format is not under test.
pub fn zip(bootstrap: &[u8], padding_bytes: usize) -> Vec<u8> {
    const SCRIPT: &str = "
import os, sys, zipfile
info = zipfile.ZipInfo('bootstrap', (1980, 1, 1, 0, 0, 0))
info.external_attr, info.create_system = 0o100755 << 16, 3
with zipfile.ZipFile(sys.stdout.buffer, 'w') as out:
    out.writestr(info, sys.stdin.buffer.read(), zipfile.ZIP_STORED)
    if padding := int(sys.argv[1]):
        out.writestr('padding', os.urandom(padding), zipfile.ZIP_STORED)
";
    let mut python = Command::new("python3")
        .args(["-c", SCRIPT, &padding_bytes.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python 3");
    let mut stdin = python.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bootstrap).expect("python reads"));
        let output = python.wait_with_output().expect("python ends");
        assert!(output.status.success(), "python failed");
        output.stdout
    })
}
