//! The server, as PostgreSQL's drivers for Java and for ODBC see it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::postgres::POSTGRES;
use super::{Served, numbers};

/// Returns false where something is missing. In CI it has to be there.
fn is_there(what: &str, is_there: bool) -> bool {
    assert!(is_there || std::env::var("CI").is_err(), "CI does not skip: {what} is missing");
    if !is_there {
        eprintln!("skipped: {what} is missing");
    }
    is_there
}

#[tokio::test(flavor = "multi_thread")]
async fn java_speaks_by_jdbc() {
    let driver = std::env::var_os("POSTGRES_JDBC").unwrap_or("/usr/share/java/postgresql.jar".into());
    let driver = Path::new(&driver);
    let has_java = Command::new("java").arg("-version").output().is_ok_and(|output| output.status.success());
    if !is_there("Java, or Debian's libpostgresql-jdbc-java", has_java && driver.exists()) {
        return;
    }
    let place = numbers().await;
    let server = Served::start(&place, &[&POSTGRES[..], &["--setup", "setup.sql"]].concat());
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("java/PostgresJdbc.java");
    let mut java = Command::new("java");
    java.arg("-cp").arg(driver).arg(program).arg(server.postgres_port().to_string());
    let output = java.output().expect("java");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).ends_with("ok\n"), "{output:?}");
    server.is_well();
}

/// Rows of a large result, and their sum.
const ROWS: u64 = 1_000_003;

/// Debian's isql, and the driver that it loads.
struct Odbc {
    isql: PathBuf,
    driver: PathBuf,
    /// Folder of their libraries.
    libraries: PathBuf,
}

impl Odbc {
    /// Finds both in the system, or where `.ci/run` has unpacked them.
    fn find() -> Option<Self> {
        let root = PathBuf::from(std::env::var_os("ODBC_ROOT").unwrap_or("/".into()));
        let isql = Some(root.join("usr/bin/isql")).filter(|path| path.exists())?;
        let folders = std::fs::read_dir(root.join("usr/lib")).ok()?.filter_map(Result::ok);
        let mut libraries = folders.map(|folder| folder.path());
        let libraries = libraries.find(|folder| folder.join("odbc/psqlodbcw.so").exists())?;
        Some(Self { isql, driver: libraries.join("odbc/psqlodbcw.so"), libraries })
    }

    /// Runs the lines of a script, each a statement or a command of isql, with cursors of so many rows (`0`: none).
    fn run(&self, server: &Served<'_>, cursor_rows: u32, script: &str) -> Output {
        let folder = tempfile::TempDir::new().expect("a folder");
        let (sources, lines) = (folder.path().join("odbc.ini"), folder.path().join("script"));
        let source = format!(
            "[gust]\nDriver={}\nServername=127.0.0.1\nPort={}\nDatabase=gust\nUseDeclareFetch={}\nFetch={cursor_rows}\n",
            self.driver.display(),
            server.postgres_port(),
            u8::from(cursor_rows > 0),
        );
        std::fs::write(&sources, source).expect("written");
        std::fs::write(&lines, script).expect("written");
        let mut isql = Command::new(&self.isql);
        // Batch, words of errors, names of columns, a sign between values.
        isql.args(["gust", "ada", "any", "-b", "-v", "-c", "-d^"])
            .env("ODBCINI", &sources)
            .env("ODBCSYSINI", folder.path());
        isql.env("LD_LIBRARY_PATH", &self.libraries).stdin(Stdio::from(std::fs::File::open(&lines).expect("written")));
        isql.output().expect("isql")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn isql_speaks_by_odbc() {
    let Some(odbc) = Odbc::find() else {
        is_there("isql, or Debian's odbc-postgresql", false);
        return;
    };
    let place = numbers().await;
    let server = Served::start(&place, &[&POSTGRES[..], &["--setup", "setup.sql"]].concat());
    // Without a cursor the driver takes all rows at once.
    for cursor_rows in [0, 1_000] {
        let script = "SELECT 6 * 7 AS answer, 'a|b' AS t, CAST(NULL AS INT) AS n, true AS b, CAST(1.50 AS DECIMAL(4, 2)) AS d, DATE '2024-02-29' AS day\n\
            SELECT count(*) AS n, max(name) AS name FROM t\n\
            SELECT * FROM nowhere\n\
            SELECT k, name FROM t WHERE k < 3 ORDER BY k\n";
        let answers = odbc.run(&server, cursor_rows, script);
        let rows = String::from_utf8_lossy(&answers.stdout);
        // The driver's own words about an error differ.
        let lines: Vec<&str> = rows.lines().filter(|line| !line.starts_with("Error while")).collect();
        let expect = "answer^t^n^b^d^day\n42^a|b^^1^1.50^2024-02-29\nn^name\n1000^n999\n[42P01]ERROR: there is no table `nowhere`;\n\
            k^name\n1^n1\n2^n2";
        assert_eq!(lines.join("\n"), expect, "{answers:?}");

        let tables = odbc.run(&server, cursor_rows, "help\nhelp t\n");
        let rows = String::from_utf8_lossy(&tables.stdout);
        for line in ["gust^public^t^TABLE^", "gust^public^t^k^-5^int8^", "gust^public^t^name^-1^text^"] {
            assert!(rows.lines().any(|row| row.starts_with(line)), "{line}: {tables:?}");
        }

        let many = odbc.run(&server, cursor_rows, &format!("SELECT value AS v FROM generate_series(1, {ROWS})\n"));
        let rows = String::from_utf8_lossy(&many.stdout);
        let values: Vec<u64> = rows.lines().skip(1).map(|row| row.parse().expect("a number")).collect();
        assert_eq!((values.len() as u64, values.iter().sum()), (ROWS, ROWS * (ROWS + 1) / 2), "{cursor_rows}");
    }
    server.is_well();
}
