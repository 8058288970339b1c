//! Grants: what no grant gives a user is as if it were not there, whatever names it, over HTTP, Flight and PostgreSQL.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
use gust_catalog::{Catalog, CatalogStores, DataFile, Field, Schema, Type};
use gust_tests::parquet_files;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use super::flight::speaks;
use super::identity::{token, with_users, write_private};
use super::postgres::{POSTGRES, has_psql};
use super::{Answer, Served};
use crate::bad_input::{Place, check, fails, wait_until};

const SERVER: &str = "on = 'local'\n[server]\ntokens = 'tokens.toml'\nreach = ['data']\n";

const CATALOGS: &str = "[catalogs.lake]\ntype = 'sqlite'\npath = 'lake.db'\nwarehouse = 'lake'\n\
                        [catalogs.vault]\ntype = 'sqlite'\npath = 'vault.db'\nwarehouse = 'vault'\n";

/// Ada is an analyst, and bob has his own. Eve has no grant.
const GRANTS: &str = "[[server.grant]]\ngroups = ['analysts']\ntables = ['lake.sales.orders', 't', 'v']\npaths = ['data/web', 'data/linked']\n\
                      [[server.grant]]\nusers = ['bob']\ntables = ['lake.people.*', 'vault.*.*', 'secret']\n";

/// `t` is over a path that is not granted, and `v` over a table that is not.
const SET_UP: &str = "CREATE EXTERNAL TABLE datafusion.public.t STORED AS PARQUET LOCATION 'data/staff/'; \
                      CREATE VIEW datafusion.public.v AS SELECT id FROM lake.people.basis WHERE id < 203; \
                      CREATE VIEW datafusion.public.secret AS SELECT 1 AS id";

/// Names that nothing may tell Ada.
const HIDDEN: [&str; 4] = ["staff", "invoices", "vault", "secret"];

fn ids(first: i64) -> RecordBatch {
    let id = HashMap::from([("PARQUET:field_id".to_owned(), "1".to_owned())]);
    let field = ArrowField::new("id", DataType::Int64, true).with_metadata(id);
    let column = Arc::new(Int64Array::from_iter_values(first..first + 10));
    RecordBatch::try_new(Arc::new(ArrowSchema::new(vec![field])), vec![column]).expect("rows")
}

/// Makes a catalog of tables of ten ids each, by namespace, name and first id.
async fn catalog(place: &Place, name: &str, tables: &[(&str, &str, i64)]) {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
    let stores = CatalogStores::new(move |_| Ok(Arc::clone(&store)));
    let (database, warehouse) = (place.path(&format!("{name}.db")), place.path(name).display().to_string());
    let catalog = Catalog::create_sqlite(&database, name, &warehouse, stores).await.expect("a catalog");
    let id = Field { id: 1, name: "id".to_owned(), required: false, ty: Type::Long, initial_default: None };
    let schema = Schema { fields: vec![id] };
    for (namespace, table, first) in tables {
        let made = catalog.create_table(namespace, table, &schema, &[], &[]).await.expect("a table");
        let bytes = parquet_files::file(&[ids(*first)], WriterProperties::builder().build());
        let path = place.path(&format!("{name}/{namespace}/{table}/data/a.parquet"));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, &bytes).expect("written");
        let (path, size_bytes) = (path.display().to_string(), bytes.len() as u64);
        let file = DataFile { path, size_bytes, record_count: 10, ..DataFile::default() };
        catalog.append(&made, &[file]).await.expect("appended");
    }
}

/// Makes a lake with three users, and returns their secrets.
async fn lake() -> (Place, [String; 3]) {
    let users: [&[&str]; 3] = [&["ada", "--groups", "analysts"], &["bob"], &["eve"]];
    let (place, secrets) = with_users(&format!("{SERVER}{GRANTS}{CATALOGS}"), users);
    let of_lake =
        [("sales", "orders", 0), ("sales", "invoices", 20), ("people", "staff", 100), ("people", "basis", 200)];
    catalog(&place, "lake", &of_lake).await;
    catalog(&place, "vault", &[("x", "y", 300)]).await;
    for (folder, least) in [("web", 1), ("staff", 11)] {
        let select = format!("SELECT value AS id FROM generate_series({least}, {least} + 4)");
        place.parquet(&format!("data/{folder}/a.parquet"), &select).await;
    }
    std::fs::create_dir(place.path("data/linked")).expect("made");
    for (link, to) in [("data/linked/out.parquet", "data/staff/a.parquet"), ("data/alias", "data/web")] {
        std::os::unix::fs::symlink(place.path(to), place.path(link)).expect("linked");
    }
    std::fs::write(place.path("setup.sql"), SET_UP).expect("written");
    (place, secrets)
}

/// The place of bare names is a catalog that ada does not see.
fn start(place: &Place) -> Served<'_> {
    Served::start(place, &[&POSTGRES[..], &["--setup", "setup.sql", "--catalog", "vault"]].concat())
}

/// Returns an answer's status and body, without a word and the query's id.
fn without(answer: &Answer, word: &str) -> (u16, String) {
    let mut body = answer.json();
    if let Some(problem) = body.as_object_mut() {
        problem.remove("query_id");
    }
    (answer.status, body.to_string().replace(word, "?"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_granted_is_read_and_nothing_else_exists() {
    let (place, [ada, bob, eve]) = lake().await;
    let server = start(&place);
    let folder = place.path("data").display().to_string();
    let greatest = |from: &str| format!("SELECT max(id) AS m FROM {from}");
    for (secret, from, expect) in [
        (&ada, "lake.sales.orders".to_owned(), 9),
        (&ada, "LAKE.\"sales\".Orders".to_owned(), 9),
        (&ada, "(SELECT record_count AS id FROM lake.sales.\"orders$files\")".to_owned(), 10),
        (&ada, "t".to_owned(), 15),
        (&ada, "datafusion.public.t".to_owned(), 15),
        (&ada, "v".to_owned(), 202),
        (&ada, format!("'{folder}/web/a.parquet'"), 5),
        (&ada, format!("'file://{folder}/web/*.parquet'"), 5),
        (&ada, format!("'{folder}/alias/'"), 5),
        (&ada, format!("read_parquet('{folder}/web/')"), 5),
        (&bob, "lake.people.staff".to_owned(), 109),
        (&bob, "y".to_owned(), 309),
        (&bob, "datafusion.public.secret".to_owned(), 1),
    ] {
        let answer = server.sql_of(secret, &greatest(&from));
        assert_eq!(answer.json(), json!([{ "m": expect }]), "{from}: {answer:?}");
    }
    // One name of each pair is there for others, and one for nobody. Both have as many letters.
    let names = [
        ("lake.people.{}", "staff", "stbff"),
        ("lake.people.\"{}\"", "staff", "stbff"),
        ("LAKE.People.{}", "staff", "stbff"),
        ("lake.people.\"{}$files\"", "staff", "stbff"),
        ("lake.{}.staff", "people", "pebple"),
        ("lake.sales.{}", "invoices", "invbices"),
        ("lake.sales.\"{}$snapshots\"", "invoices", "invbices"),
        ("{}.x.y", "vault", "vabbt"),
        ("datafusion.public.{}", "secret", "sebbet"),
        ("{}", "secret", "sebbet"),
    ];
    let statements = [
        "SELECT * FROM @",
        "SELECT (SELECT max(id) FROM @) AS m",
        "WITH c AS (SELECT * FROM @ WHERE false) SELECT * FROM c",
        "EXPLAIN SELECT * FROM @",
        "EXPLAIN COST SELECT * FROM @",
        "EXPLAIN ANALYZE SELECT * FROM @",
        "DESCRIBE @",
        "SHOW COLUMNS FROM @",
        "SHOW CREATE TABLE @",
        "CREATE VIEW w AS SELECT * FROM @; SELECT * FROM w",
        "CREATE TABLE w AS SELECT * FROM @; SELECT * FROM w",
        "PREPARE p AS SELECT * FROM @; EXECUTE p",
        "SELECT * FROM @ FOR VERSION AS OF 1",
        "DROP TABLE @",
    ];
    for (at, sql) in statements.into_iter().enumerate() {
        // The first asks for every name, and the others for every third.
        let asked = if at == 0 { names.iter().step_by(1) } else { names[at % 3..].iter().step_by(3) };
        for &(name, hidden, missing) in asked {
            let [of_hidden, of_missing] = [hidden, missing]
                .map(|word| without(&server.sql_of(&ada, &sql.replace('@', &name.replace("{}", word))), word));
            assert!(of_hidden.0 >= 400, "{sql} of {name}: {of_hidden:?}");
            assert_eq!(of_hidden, of_missing, "{sql} of {name} with {hidden} and {missing}");
        }
    }
    for (sql, hidden, missing) in [
        ("SHOW TABLES IN lake.{}", "people", "pebple"),
        ("SHOW SCHEMAS IN {}", "vault", "vabbt"),
        ("USE lake.{}", "people", "pebple"),
        ("USE {}", "vault", "vabbt"),
    ] {
        let [of_hidden, of_missing] =
            [hidden, missing].map(|word| without(&server.sql_of(&ada, &sql.replace("{}", word)), word));
        assert_eq!(of_hidden, of_missing, "{sql}");
    }
    let web = format!("'{folder}/web/a.parquet'");
    for from in ["lake.sales.orders", "t", "v", "lake.people.staff", web.as_str()] {
        assert!(server.sql_of(&eve, &greatest(from)).status >= 400, "{from}: she has no grant");
    }
    // A name is in the log, and not as long as the user likes.
    let long = "x".repeat(50_000);
    assert!(server.sql_of(&ada, &format!("SELECT * FROM lake.people.\"{long}\"")).status >= 400);
    server.has_said(" … and ");
    let longest = server.said().lines().map(str::len).max().unwrap_or_default();
    assert!((8_000..9_000).contains(&longest), "a line has {longest} bytes");
    // The operator is told, and the user is not.
    for words in ["no grant gives this table", "no grant gives this path", "lake.people.staff", "ada"] {
        server.has_said(words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_to_a_path_that_is_not_granted() {
    let (place, [ada, bob, _]) = lake().await;
    let server = start(&place);
    let folder = place.path("data").display().to_string();
    let staff = place.path("lake/people/staff").display().to_string();
    let external = |format: &str, place: &str| {
        format!(
            "CREATE EXTERNAL TABLE datafusion.public.e STORED AS {format} LOCATION '{place}'; SELECT * FROM datafusion.public.e"
        )
    };
    let from = |place: &str| format!("SELECT * FROM '{place}'");
    for sql in [
        from(&format!("{folder}/staff/a.parquet")),
        from(&format!("{folder}/staff/")),
        from(&format!("{folder}/*/a.parquet")),
        from(&format!("{folder}/web/../staff/a.parquet")),
        from(&format!("{folder}/linked/out.parquet")),
        from(&format!("{folder}/linked/")),
        from(&format!("{folder}/linked/*.parquet")),
        from(&format!("{folder}/alias/../staff/")),
        from(&format!("file://{folder}/staff/a.parquet")),
        from("data/staff/a.parquet"),
        from(&format!("{staff}/data/a.parquet")),
        format!("SELECT * FROM read_parquet('{folder}/staff/a.parquet')"),
        format!("EXPLAIN SELECT * FROM '{folder}/staff/a.parquet'"),
        external("PARQUET", &format!("{folder}/staff/")),
        external("PARQUET", &format!("{folder}/linked/")),
        external("CSV", &format!("{folder}/staff/a.parquet")),
        external("ICEBERG", &staff),
    ] {
        let answer = server.sql_of(&ada, &sql);
        assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("42501")), "{sql}: {answer:?}");
    }
    // Escapes and dots lead to no other name.
    for sql in [
        from(&format!("file://{folder}/web/%2e%2e/staff/a.parquet")),
        external("ICEBERG", &format!("{folder}/web/../../lake/people/staff")),
    ] {
        let escaped = server.sql_of(&ada, &sql);
        assert!(escaped.status >= 400, "{sql}: {escaped:?}");
    }
    // Metadata of a place may name files of any other.
    let by_place = server.sql_of(&ada, &external("ICEBERG", &format!("{folder}/web")));
    assert!(by_place.text().contains("an Iceberg table has no LOCATION"), "{by_place:?}");
    // The words are the same whether something is there or not.
    let [there, missing] = ["staff", "stbff"]
        .map(|word| without(&server.sql_of(&ada, &from(&format!("{folder}/{word}/a.parquet"))), word));
    assert_eq!(there, missing);
    // A folder of the current one has a bare name, too.
    let [there, missing] =
        ["data", "dbta"].map(|word| without(&server.sql_of(&ada, &format!("SELECT * FROM {word}")), word));
    assert_eq!(there, missing);
    assert!(server.sql_of(&bob, &from(&format!("{folder}/web/a.parquet"))).status == 403, "that is ada's");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_and_hints_have_no_name_that_is_not_granted() {
    let (place, [ada, bob, eve]) = lake().await;
    let server = start(&place);
    let mut seen = String::new();
    for sql in [
        "SHOW CATALOGS",
        "SHOW SCHEMAS",
        "SHOW SCHEMAS IN lake",
        "SHOW TABLES",
        "SHOW TABLES IN lake.sales",
        "SHOW TABLES LIKE '%'",
        "SELECT * FROM information_schema.schemata WHERE catalog_name <> 'x' OR catalog_name = 'lake'",
        "SELECT * FROM information_schema.tables WHERE table_catalog = 'lake' OR true",
        "SELECT table_catalog, table_schema, table_name, column_name FROM information_schema.columns WHERE table_catalog = 'lake' OR true",
        // Hints for names that are near what others see.
        "SELECT * FROM lake.people.stafff",
        "SELECT * FROM lake.sales.invoice",
        "SELECT * FROM stafff",
        "SELECT * FROM secre",
        "SELECT * FROM vaul.x.y",
        "USE vaul",
        "USE lake.peopl",
        "SELECT * FROM invoice",
    ] {
        let answer = server.sql_of(&ada, sql);
        let asked = ["stafff", "invoice", "vaul", "secre"];
        let told = asked.iter().fold(answer.text(), |text, word| text.replace(&format!("`{word}`"), ""));
        let told =
            told.replace("`lake.people.stafff`", "").replace("`lake.sales.invoice`", "").replace("`vaul.x.y`", "");
        for hidden in HIDDEN {
            assert!(!told.contains(hidden), "{hidden} in the answer to {sql}: {answer:?}");
        }
        assert!(!sql.starts_with("SHOW SCHEMAS") || !told.contains("people"), "{sql}: {answer:?}");
        seen += &told;
        let nothing = server.sql_of(&eve, sql).text();
        assert!(!nothing.contains("orders") && !nothing.contains("\"lake\""), "{sql}: {nothing}");
    }
    for name in ["orders", "sales", "\"lake\"", "\"t\"", "\"v\""] {
        assert!(seen.contains(name), "{name}: {seen}");
    }
    let near = server.sql_of(&ada, "SELECT * FROM lake.sales.ordrs").text();
    assert!(near.contains("did you mean `lake.sales.orders`?"), "{near}");
    let near = server.sql_of(&bob, "SELECT * FROM lake.people.stafff").text();
    assert!(near.contains("did you mean `lake.people.staff`?"), "{near}");

    // The command line asks by Flight.
    let query = |secret: &str, sql: &str| {
        let query = ["query", "--server", server.url.as_str(), "--report", "none", "--format", "csv", sql];
        place.gust(&query).env("GUST_TOKEN", secret).output().expect("it starts")
    };
    let granted = query(&ada, "SELECT max(id) AS m FROM lake.sales.orders");
    assert_eq!(String::from_utf8_lossy(&granted.stdout), "m\n9\n", "{granted:?}");
    check(&query(&ada, "SELECT * FROM lake.people.staff"), 1, &["there is no table `lake.people.staff`"]);
    let uri = server.flight_uri();
    for (secret, sees, hidden, table) in [
        (&ada, "lake,sales,orders,t,v", "staff,invoices,people,vault,secret,y", "lake.people.staff"),
        (&bob, "lake,people,staff,basis,vault,x,y,secret", "sales,orders,invoices,t,v", "lake.sales.orders"),
    ] {
        speaks("flight_names.py", &[&uri, secret, sees, hidden, table], "ok");
    }

    if !has_psql() {
        return;
    }
    let psql = |user: &str, secret: &str, database: &str, command: &str| {
        let mut psql = server.psql(&["-w", "-U", user, "-d", database, "-c", command]);
        let output = psql.env("PGPASSWORD", secret).output().expect("psql");
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
    };
    // Columns that bob has asked for are kept for all connections, and ada does not see them.
    assert!(psql("bob", &bob, "lake", "\\d people.staff").contains("id|bigint"));
    for command in ["\\l", "\\dn", "\\dt", "\\dv", "\\d", "SELECT * FROM pg_class", "SELECT * FROM pg_namespace"] {
        for database in ["lake", "gust"] {
            let told = psql("ada", &ada, database, command);
            assert!(!told.is_empty() && !HIDDEN.iter().any(|hidden| told.contains(hidden)), "{command}: {told}");
        }
    }
    assert!(psql("ada", &ada, "lake", "\\dt").contains("sales|orders|table"));
    assert!(psql("ada", &ada, "lake", "\\d sales.orders").contains("id|bigint"));
    assert_eq!(psql("ada", &ada, "lake", "SELECT max(id) FROM sales.orders").trim(), "9");
    for (database, command, hidden, missing) in [
        ("lake", "\\d people.{}", "staff", "stbff"),
        ("lake", "SELECT * FROM people.{}", "staff", "stbff"),
        ("lake", "COPY people.{} TO STDOUT", "staff", "stbff"),
        ("lake", "SET search_path = people; SELECT * FROM {}", "staff", "stbff"),
        ("{}", "SELECT 1", "vault", "vabbt"),
    ] {
        let [of_hidden, of_missing] = [hidden, missing].map(|word| {
            psql("ada", &ada, &database.replace("{}", word), &command.replace("{}", word)).replace(word, "?")
        });
        assert_eq!(of_hidden, of_missing, "{command} in {database}");
    }
}

/// Grants hold over catalogs that are read anew. Catalogs without one that a grant names are not taken.
#[tokio::test(flavor = "multi_thread")]
async fn grants_hold_over_catalogs_that_are_read_anew() {
    let (place, [ada, bob, _]) = lake().await;
    let server = start(&place);
    let before = std::fs::read_to_string(place.path("gust.toml")).expect("the configuration");
    let more = format!("{before}[catalogs.more]\ntype = 'sqlite'\npath = 'vault.db'\nwarehouse = 'vault'\n");
    let gone = before.replace("[catalogs.vault]", "[catalogs.fault]");
    for (configuration, words) in
        [(gone, "server.grant: there is no catalog `vault`"), (more, "the catalogs were read anew")]
    {
        std::fs::write(place.path("gust.toml"), configuration).expect("written");
        server.signal("HUP");
        server.has_said(words);
        let greatest = |secret: &str, from: &str| server.sql_of(secret, &format!("SELECT max(id) AS m FROM {from}"));
        for (secret, from, expect) in [(&ada, "lake.sales.orders", 9), (&ada, "v", 202), (&bob, "y", 309)] {
            assert_eq!(greatest(secret, from).json(), json!([{ "m": expect }]), "{from} after {words}");
        }
        for from in ["lake.people.staff", "vault.x.y", "more.x.y", "secret"] {
            assert!(greatest(&ada, from).status >= 400, "{from} after {words}");
        }
        assert!(!server.sql_of(&ada, "SHOW CATALOGS").text().contains("more"), "after {words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_left_with_its_token() {
    let (place, [ada, ..]) = lake().await;
    let server = start(&place);
    let orders = "SELECT max(id) AS m FROM lake.sales.orders";
    assert_eq!(server.sql_of(&ada, orders).json(), json!([{ "m": 9 }]));
    let tokens = std::fs::read_to_string(place.path("tokens.toml")).expect("the file");
    write_private(&place.path("tokens.toml"), &tokens.replace("analysts", "others"));
    server.signal("HUP");
    wait_until("she is no analyst", || server.sql_of(&ada, orders).status == 400);
}

#[test]
fn bad_grants_are_refused_at_the_start() {
    let grant = |keys: &str| format!("[[server.grant]]\n{keys}\n");
    for (configuration, words) in [
        (
            format!("{SERVER}{}", grant("users = ['ada']\ntable = ['t']")),
            ["server.grant.table", "`server.grant.tables`"],
        ),
        (format!("{SERVER}{}", grant("users = []\ntables = ['t']")), ["server.grant", "a name or more"]),
        (
            format!("{SERVER}{}", grant("users = ['ada']\ntables = ['lake.sales.or*']")),
            ["lake.sales.or*", "as a whole part"],
        ),
        (
            format!("{SERVER}{}", grant("users = ['ada']\ntables = ['sales.orders']")),
            ["sales.orders", "catalog.namespace.table"],
        ),
        (grant("users = ['ada']\ntables = ['t']"), ["server.grant: the server has no users", "set server.tokens"]),
        (format!("{SERVER}{}", grant("users = ['adda']\ntables = ['t']")), ["no user `adda`", "did you mean `ada`?"]),
        (format!("{SERVER}{}", grant("groups = ['x']\ntables = ['t']")), ["no group `x`", "has this group"]),
        (format!("{SERVER}{}", grant("users = ['ada']\ntables = ['lak.a.b']")), ["no catalog `lak`", "[catalogs]"]),
        (
            format!("{SERVER}{}", grant("users = ['ada']\npaths = ['other']")),
            ["outside of what this server reads", "server.reach"],
        ),
        (
            format!("{SERVER}{}", grant("users = ['ada']\ntables = ['trip']")),
            ["--setup makes no table `trip`", "`trips`"],
        ),
    ] {
        let place = Place::new(&configuration);
        let (_, lines) = token(&place, &["ada"]);
        write_private(&place.path("tokens.toml"), &lines);
        std::fs::write(place.path("setup.sql"), "CREATE VIEW trips AS SELECT 1 AS id").expect("written");
        let serve = ["serve", "--listen", "127.0.0.1:0", "--check", "--setup", "setup.sql"];
        fails(&place, &serve, 2, &words);
    }
}
