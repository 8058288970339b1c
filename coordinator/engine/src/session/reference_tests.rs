//! `docs/reference.md`, made from the program: keys of `gust.toml` from the docs of their fields, settings and functions as a session
//! lists them. `REFERENCE_WRITE=1 cargo test` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use arrow::array::AsArray;
use regex::Regex;

use super::*;

const CONFIG: &str = concat!(
    include_str!("../config/mod.rs"),
    include_str!("../config/history.rs"),
    include_str!("../config/server.rs")
);

const CATALOGS: &str = include_str!("../config/catalogs.rs");

/// Tables of `gust.toml`, with their structs.
const TABLES: [(&str, &str); 10] = [
    ("", "Config"),
    ("s3", "S3Config"),
    ("process", "ProcessConfig"),
    ("lambda", "LambdaConfig"),
    ("cost", "CostConfig"),
    ("history", "HistoryConfig"),
    ("iceberg", "IcebergConfig"),
    ("server", "ServerConfig"),
    ("server.jwt", "JwtConfig"),
    ("server.tls", "TlsConfig"),
];

/// Returns the words for a field's type; None for a table of its own.
fn kind(of: &str) -> Option<&'static str> {
    let of = of.strip_prefix("Option<").and_then(|inner| inner.strip_suffix('>')).unwrap_or(of);
    Some(match of {
        "Target" => "`auto`, `local`, `in-process`, `processes`, `lambda`",
        "InvokerKind" => "`processes`, `lambda`",
        "Prefer" => "`cost`, `latency`, `balanced`",
        "JoinPlace" => "`auto`, `broadcast`, `local`",
        "AlignedPlace" => "`functions`, `local`",
        "ShufflePlace" => "`auto`, `hash`, `local`",
        "BuildFirst" => "`always`, `auto`, `never`",
        "SortPlace" => "`auto`, `local`, `ranges`",
        "StatementKept" => "`text`, `hash`",
        "LinksKind" => "`presigned`, `proxied`",
        "u32" | "u64" => "number",
        "bool" => "`true`, `false`",
        "Duration" => "seconds, or a text such as `\"30s\"`",
        "PathBuf" => "path",
        "String" => "text",
        "Secret" => "secret text",
        "Money" | "Price" => "dollars",
        "Vec<FunctionName>" | "Vec<String>" => "list of texts",
        "Vec<BudgetConfig>" | "Vec<GrantConfig>" => "list of tables",
        "BTreeMap<String, String>" => "table of texts",
        _ if of.ends_with("Config") || of.ends_with("CatalogConfig>") => return None,
        other => panic!("no words for {other}"),
    })
}

/// Writes links of Rust's documentation as code, and constants as their values.
fn plain(doc: &str) -> String {
    use crate::config::{CORES_MAX, FUNCTIONS_MAX, QUERIES_MAX, RETENTION_DAYS_MAX};
    let link = Regex::new(r"\[`(?:[A-Za-z_]+::)*([A-Za-z_]+)`\]").expect("a pattern");
    let constants = [
        ("CORES_MAX", CORES_MAX),
        ("FUNCTIONS_MAX", FUNCTIONS_MAX),
        ("QUERIES_MAX", QUERIES_MAX),
        ("RETENTION_DAYS_MAX", RETENTION_DAYS_MAX),
    ];
    let doc = link.replace_all(doc, "`$1`").replace('|', "\\|");
    let doc = constants.iter().fold(doc, |doc, (name, value)| doc.replace(&format!("`{name}`"), &value.to_string()));
    assert!(!doc.contains("_MAX`"), "no value for a constant: {doc}");
    doc
}

fn keys() -> String {
    let mut text = String::new();
    for (table, of) in TABLES {
        let place = if table.is_empty() { "At the top".to_owned() } else { format!("`[{table}]`") };
        let _ = write!(text, "\n### {place}\n\n| key | value | meaning |\n|---|---|---|\n");
        let (_, body) = CONFIG.split_once(&format!("pub struct {of} {{\n")).expect("the struct");
        let (body, _) = body.split_once("\n}\n").expect("its end");
        let (mut doc, mut renamed, mut is_key) = (String::new(), None, true);
        for line in body.lines().map(str::trim) {
            if let Some(more) = line.strip_prefix("///") {
                doc = format!("{doc} {}", more.trim());
            } else if let Some(attribute) = line.strip_prefix("#[serde(") {
                let name = attribute.split_once("rename = \"").and_then(|(_, rest)| rest.split_once('"'));
                renamed = name.map(|(name, _)| name.to_owned()).or(renamed);
                is_key &= attribute != "skip)]";
            } else if let Some((name, of)) = line.strip_prefix("pub ").and_then(|field| field.split_once(": ")) {
                let name = renamed.take().unwrap_or_else(|| name.to_owned());
                let doc = plain(std::mem::take(&mut doc).trim());
                if !std::mem::replace(&mut is_key, true) {
                    continue;
                }
                let Some(kind) = kind(of.trim_end_matches(',')) else {
                    assert!(
                        of.contains("CatalogConfig") || TABLES[1..].iter().any(|(_, known)| of.contains(known)),
                        "the table {name} is not listed"
                    );
                    continue;
                };
                assert!(!doc.is_empty(), "{table}.{name} has no documentation");
                let _ = writeln!(text, "| `{name}` | {kind} | {doc} |");
            }
        }
    }
    text
}

/// Lists the keys of a catalog by its type.
fn catalogs() -> String {
    let (_, keys) = CATALOGS.split_once("const fn keys(self)").expect("the keys");
    let (keys, _) = keys.split_once("\n    }\n").expect("their end");
    let of_type = Regex::new(r"(?s)Self::(\w+) => &\[(.*?)\]").expect("a pattern");
    let mut text = "\n### `[catalogs.NAME]`\n\n| `type` | other keys |\n|---|---|\n".to_owned();
    for found in of_type.captures_iter(keys) {
        let names: Vec<_> = found[2].split('"').skip(1).step_by(2).map(|name| format!("`{name}`")).collect();
        assert!(!names.is_empty(), "{} has no keys", &found[1]);
        let _ = writeln!(text, "| `{}` | {} |", found[1].to_lowercase(), names.join(", "));
    }
    text
}

/// Returns the rows of a query whose columns are texts. A NULL is an empty text.
async fn rows(session: &Session, sql: &str) -> Vec<Vec<String>> {
    let statement = session.parse(sql).expect("SQL").remove(0);
    let mut running = session.run(statement).await.expect("it runs");
    let mut rows = Vec::new();
    while let Some(batch) = running.next().await.expect("rows") {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| {
                let texts = arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).expect("texts");
                texts.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect::<Vec<_>>()
            })
            .collect();
        rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()));
    }
    running.finish().await;
    rows
}

/// Returns the first sentence of a description, on one line.
fn first_sentence(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let end = line.find(". ").map_or(line.len(), |dot| dot + 1);
    line[..end].to_owned()
}

async fn settings(session: &Session) -> String {
    let sql = "SELECT name, description FROM information_schema.df_settings \
               WHERE name NOT LIKE 'datafusion.runtime.%' ORDER BY name";
    let mut text = "| setting | meaning |\n|---|---|\n".to_owned();
    for row in rows(session, sql).await {
        let _ = writeln!(text, "| `{}` | {} |", row[0], first_sentence(&row[1]));
    }
    text
}

async fn functions(session: &Session) -> String {
    let sql = "SELECT routine_name, lower(min(function_type)), min(syntax_example), min(description) \
               FROM information_schema.routines WHERE routine_name NOT LIKE 'gust\\_%' GROUP BY routine_name ORDER BY 1";
    let mut text = "| function | kind | call | meaning |\n|---|---|---|---|\n".to_owned();
    let of_lambdas = gust_protocol::functions::higher_order();
    let of_lambdas = of_lambdas.iter().map(|function| {
        let (call, meaning) =
            function.documentation().map_or(("", ""), |of| (of.syntax_example.as_str(), of.description.as_str()));
        [function.name(), "scalar", call, meaning].map(str::to_owned).to_vec()
    });
    let mut all = rows(session, sql).await;
    all.extend(of_lambdas);
    all.sort();
    for row in all {
        let call = row[2].split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let call = if call.is_empty() { String::new() } else { format!("`{call}`") };
        let _ =
            writeln!(text, "| `{}` | {} | {call} | {} |", row[0].replace('|', "\\|"), row[1], first_sentence(&row[3]));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_is_of_this_program() {
    let session = Session::new(Config { on: Target::Local, ..Config::default() }).expect("a session");
    let (settings, functions) = (settings(&session).await, functions(&session).await);
    let keys = keys() + &catalogs();
    session.close().await;
    let page = format!(
        "# Reference\n\n\
         Made from the program: `REFERENCE_WRITE=1 cargo inner -p gust-engine --lib the_reference` writes it anew, and a test holds it.\n\n\
         ## Keys of gust.toml\n\n\
         `gust.toml` in the current folder is read, or the file that `--config` names. A variable `GUST_KEY`, or `GUST_TABLE__KEY` for a key of a table, wins over the \
         file, and a flag over both. Relative paths start from the file's folder. Bytes are numbers or texts such as `\"512MiB\"`.\n{keys}\n\
         ## Settings of a session\n\n\
         `SET name = value` changes one, `RESET name` takes it back, `SHOW ALL` has all values. Those of `datafusion.runtime` are the process's.\n\n{settings}\n\
         ## Functions\n\n\
         `SHOW FUNCTIONS LIKE 'a%'` lists them, too. [docs/dialect.md](dialect.md) has the names of other engines that are written as these.\n\n{functions}"
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference.md");
    if std::env::var_os("REFERENCE_WRITE").is_some() {
        std::fs::write(&path, &page).expect("written");
        return;
    }
    let written = std::fs::read_to_string(&path).expect("the page");
    let differs = written.lines().zip(page.lines()).find(|(written, made)| written != made);
    assert!(written == page, "docs/reference.md is of another program: {differs:?}");
}
