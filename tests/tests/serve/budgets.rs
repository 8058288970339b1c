//! Budgets of users and groups, as curl and psql see them. The coordinator's machine costs a dollar a second here.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Instant;

use chrono::{Days, Utc};
use serde_json::{Value, json};

use super::Served;
use super::identity::with_users;
use super::postgres::has_psql;
use crate::bad_input::{ENDLESS, Place, check, fails, wait_until};

const DOLLAR_A_SECOND: &str = "on = 'local'\n[cost]\ncoordinator_hour = 3600\n[server]\ntokens = 'tokens.toml'\n";

const OF_ADA: &str = "[[server.budget]]\nuser = 'ada'\ndollars_per_day = 2\n";

impl Served<'_> {
    /// Returns the budgets of a user.
    fn budgets(&self, secret: &str) -> Vec<Value> {
        let told = self.ask(secret, "/v1/budgets", &[]).json();
        told["budgets"].as_array().expect("a list").clone()
    }
}

fn dollars(budget: &Value, member: &str) -> f64 {
    budget[member].as_str().and_then(|amount| amount.parse().ok()).unwrap_or_else(|| panic!("no {member}: {budget}"))
}

#[test]
fn two_queries_at_once_do_not_pass_a_budget() {
    // A busy machine looks at the clock late, but not by half of the budget.
    let of_ada = OF_ADA.replace("dollars_per_day = 2", "dollars_per_day = 4");
    let (place, [ada, bob]) = with_users(&format!("{DOLLAR_A_SECOND}{of_ada}"), [&["ada"], &["bob"]]);
    let server = Served::start(&place, &["--postgres", "127.0.0.1:0"]);
    let before = server.budgets(&ada)[0].clone();
    let tomorrow = (Utc::now().date_naive() + Days::new(1)).format("%Y-%m-%dT00:00:00Z").to_string();
    assert_eq!((&before["of"], &before["name"], &before["period"]), (&json!("user"), &json!("ada"), &json!("day")));
    assert_eq!((dollars(&before, "dollars_left"), before["ends"].as_str()), (4.0, Some(tomorrow.as_str())), "{before}");
    let endless = ENDLESS.replace('\n', " ");
    let started = Instant::now();
    let refused = std::thread::scope(|scope| {
        let asking = [(); 2].map(|()| scope.spawn(|| server.sql_of(&ada, &endless)));
        wait_until("both spend", || dollars(&server.budgets(&ada)[0], "dollars_spent") > 0.2);
        asking.map(|asking| asking.join().expect("no panic"))
    });
    assert!(started.elapsed().as_secs_f64() > 0.5, "they have run");
    for refused in refused {
        let problem = refused.json();
        assert_eq!((refused.status, &problem["kind"], &problem["code"]), (402, &json!("cap-reached"), &json!("53400")));
        let detail = problem["detail"].as_str().expect("words");
        assert!(detail.starts_with("the budget of user `ada` does not suffice: $"), "{detail}");
        assert!(detail.ends_with(&format!("it begins anew at {tomorrow}")), "{detail}");
        assert_eq!(problem["budget"]["ends"], json!(tomorrow), "{problem}");
    }
    let after = &server.budgets(&ada)[0];
    let spent = dollars(after, "dollars_spent");
    // Each alone would have had four dollars. The clock is looked at every 10 ms, later on a busy machine.
    assert!((4.0..8.0).contains(&spent), "{after}");
    assert_eq!((dollars(after, "dollars_held"), dollars(after, "dollars_left")), (0.0, 0.0), "{after}");
    // Nothing more is begun, whatever it would cost, and others have their own.
    let one_more = server.sql_of(&ada, "SELECT 1");
    assert_eq!(
        (one_more.status, &one_more.json()["budget"]["dollars_left"]),
        (402, &json!("0.000000000")),
        "{one_more:?}"
    );
    let submitted = ["-H", "Content-Type: application/sql", "--data-binary", "SELECT 1 AS one"];
    let told = server.ask(&ada, "/v1/statements", &submitted).json();
    assert_eq!((&told["state"], &told["error"]["budget"]["name"]), (&json!("FAILED"), &json!("ada")), "{told}");
    assert_eq!(server.sql_of(&bob, "SELECT 1 AS one").json(), json!([{ "one": 1 }]));
    assert_eq!(server.budgets(&bob), Vec::<Value>::new());
    // A refused statement has taken its time, too.
    let spent = dollars(&server.budgets(&ada)[0], "dollars_spent");
    let metrics = server.ask(&ada, "/metrics", &[]).text();
    let label = "{of=\"user\",name=\"ada\",period=\"day\"}";
    assert!(metrics.contains(&format!("gust_budget_dollars{label} 4.0")), "{metrics}");
    assert!(metrics.contains(&format!("gust_budget_spent_dollars{label} {spent}")), "{metrics}");
    assert!(!server.ask(&bob, "/metrics", &[]).text().contains("ada"), "others do not see it");
    if has_psql() {
        let mut psql = server.psql(&["-w", "-c", "SELECT 1"]);
        super::postgres::failed(
            &psql.env("PGPASSWORD", &ada).output().expect("psql"),
            &["FATAL:  the budget of user `ada` does not suffice: $0 of $4.00 a day is left", &tomorrow],
        );
    }
}

/// A server that is killed has spent what its statements held, and no clock that goes back gives money twice.
#[test]
fn a_budget_survives_a_kill_and_a_clock_that_jumps() {
    // The statement runs on while other servers start and end.
    const LIMIT: f64 = 100.0;
    let of_ada = OF_ADA.replace("dollars_per_day = 2", &format!("dollars_per_day = {LIMIT}"));
    let (place, [ada]) = with_users(&format!("{DOLLAR_A_SECOND}budgets_file = 'spent.json'\n{of_ada}"), [&["ada"]]);
    let spent_in = |file: &Value| file["budgets"][0]["nano_dollars"].as_u64().expect("an amount");
    let read = || serde_json::from_slice::<Value>(&std::fs::read(place.path("spent.json")).expect("the file"));
    let server = Served::start(&place, &[]);
    let mut asking = server
        .command(
            "/v1/query",
            &[
                "-H",
                &format!("Authorization: Bearer {ada}"),
                "-H",
                "Content-Type: application/sql",
                "--data-binary",
                ENDLESS,
            ],
        )
        .stdout(Stdio::null())
        .spawn()
        .expect("curl");
    wait_until("it has spent something", || {
        place.path("spent.json").exists() && spent_in(&read().expect("whole")) > 300_000_000
    });
    // Another server must not write over the file.
    let refused = |words: &[&str]| {
        let serve = ["serve", "--listen", "127.0.0.1:0"];
        check(&place.gust(&serve).output().expect("it starts"), 2, words);
    };
    refused(&["another server keeps its budgets there", "server.budgets_file"]);
    // A check beside the server looks, and writes nothing.
    let checked = place.gust(&["serve", "--listen", "127.0.0.1:0", "--check"]).output().expect("it starts");
    check(&checked, 0, &["the server can start"]);
    drop(server);
    asking.wait().expect("it ends");
    let left_behind = read().expect("whole");
    let begins =
        left_behind["budgets"][0]["begins"].as_str().expect("a day").parse::<chrono::NaiveDate>().expect("a day");
    let left = |file: &Value| {
        std::fs::write(place.path("spent.json"), file.to_string()).expect("written");
        let server = Served::start(&place, &[]);
        dollars(&server.budgets(&ada)[0], "dollars_left")
    };
    let expect = LIMIT - spent_in(&left_behind) as f64 / 1e9;
    assert!((left(&left_behind) - expect).abs() < 1e-9 && expect > 0.0 && expect < LIMIT - 0.3, "{left_behind}");
    let on = |day: chrono::NaiveDate| {
        let mut file = left_behind.clone();
        file["budgets"][0]["begins"] = json!(day.to_string());
        file
    };
    assert_eq!(left(&on(begins - Days::new(1))), LIMIT, "that day is over");
    assert!((left(&on(begins + Days::new(1))) - expect).abs() < 1e-9, "the clock went back");
    std::fs::write(place.path("spent.json"), "{").expect("written");
    refused(&["spent.json: it is no file of budgets", "hint: restore the file"]);
}

/// Users of a group share its budget, which pays what the history's bills say.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_pays_the_bills_of_its_users() {
    let configuration = "on = 'processes'\n[server]\ntokens = 'tokens.toml'\nreach = ['data']\n\
                         [[server.budget]]\ngroup = 'analysts'\ndollars_per_month = 0.05\n\
                         [[server.budget]]\nuser = 'bob'\ndollars_per_day = 0.000001\n";
    let users: [&[&str]; 2] = [&["ada", "--groups", "analysts"], &["bob", "--groups", "analysts,others"]];
    let (place, [ada, bob]) = with_users(configuration, users);
    for file in 0..4 {
        place.parquet(&format!("data/{file}.parquet"), "SELECT value AS k FROM generate_series(1, 1000)").await;
    }
    std::fs::write(place.path("setup.sql"), "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'")
        .expect("written");
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    let sum = "SELECT sum(k) AS s FROM t";
    let rows = std::thread::scope(|scope| {
        let asking = [(); 2].map(|()| scope.spawn(|| server.sql_of(&ada, sum).json()));
        asking.map(|asking| asking.join().expect("no panic"))
    });
    assert_eq!(rows, [json!([{ "s": 2_002_000 }]), json!([{ "s": 2_002_000 }])]);
    let bills = "SELECT sum(dollars_at_most) AS dollars, sum(fragments) AS fragments, sum(attempts_wasted) AS wasted FROM gust.queries WHERE statement LIKE '%sum(k)%'";
    let billed = server.sql_of(&ada, bills).json();
    assert!(billed[0]["fragments"].as_u64() >= Some(2), "functions have run: {billed}");
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let wasted = billed[0]["wasted"].as_u64();
    let billed = number(&billed[0]["dollars"]).expect("an amount");
    let group = server.budgets(&ada)[0].clone();
    assert_eq!((group["of"].as_str(), group["name"].as_str()), (Some("group"), Some("analysts")));
    let above = dollars(&group, "dollars_spent") - billed;
    // Requests of an attempt that was cancelled are in no bill, and are paid for.
    assert!(billed > 0.0 && above > -1e-9 && (above < 1e-9 || wasted > Some(0)), "{billed}: {group}");
    // Both of bob's have to suffice, and his own does not.
    let refused = server.sql_of(&bob, sum);
    assert_eq!((refused.status, &refused.json()["budget"]["name"]), (402, &json!("bob")), "{refused:?}");
    let names: Vec<Value> = server.budgets(&bob).iter().map(|budget| budget["name"].clone()).collect();
    assert_eq!(names, ["analysts", "bob"]);
    // One who asked for less than he has is stopped by his own cap.
    let capped = [
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        "{\"sql\": \"SELECT sum(k) AS s FROM t\", \"max_cost\": \"0.000000001\"}",
    ];
    let capped = server.ask(&ada, "/v1/query", &capped);
    assert_eq!((capped.status, capped.json().get("budget")), (402, None), "{capped:?}");
}

/// A catalog that answers nothing holds up the planning, whose time costs a dollar a second.
#[test]
fn planning_and_its_estimates_are_in_the_budget_while_they_run() {
    let catalog = TcpListener::bind("127.0.0.1:0").expect("a port");
    let lake = format!(
        "[catalogs.lake]\ntype = 'rest'\nuri = 'http://{}'\nallow_http = true\n",
        catalog.local_addr().expect("an address")
    );
    let configuration = format!("{DOLLAR_A_SECOND}budgets_file = 'spent.json'\n{OF_ADA}{lake}");
    let (place, [ada, bob]) = with_users(&configuration, [&["ada"], &["bob"]]);
    let spent_in_file = || {
        let file = serde_json::from_slice::<Value>(&std::fs::read(place.path("spent.json")).expect("the file"));
        file.expect("whole")["budgets"][0]["nano_dollars"].as_u64().expect("an amount")
    };
    for (at, sql) in ["SELECT * FROM lake.a.t", "EXPLAIN SELECT * FROM lake.a.t", "EXPLAIN COST SELECT * FROM lake.a.t"]
        .into_iter()
        .enumerate()
    {
        // Each has a budget of its own.
        let limit = configuration.replace("dollars_per_day = 2", &format!("dollars_per_day = {}", 2 + 2 * at));
        std::fs::write(place.path("gust.toml"), limit).expect("written");
        let server = Served::start(&place, &[]);
        let before = spent_in_file();
        let started = Instant::now();
        let refused = std::thread::scope(|scope| {
            let asking = scope.spawn(|| server.sql_of(&ada, sql));
            wait_until("the file knows what planning has spent", || spent_in_file() > before + 300_000_000);
            assert!(!asking.is_finished(), "{sql}: it is planned");
            asking.join().expect("no panic")
        });
        assert_eq!((refused.status, &refused.json()["budget"]["name"]), (402, &json!("ada")), "{sql}: {refused:?}");
        assert!(started.elapsed().as_secs_f64() > 0.3, "{sql}");
        assert_eq!(server.sql_of(&bob, "SELECT 1 AS one").json(), json!([{ "one": 1 }]));
    }
}

/// Tokens without the users or groups of a budget are not taken: its users would have none.
#[test]
fn no_budget_goes_with_new_tokens() {
    let groups = "[[server.budget]]\ngroup = 'analysts'\ndollars_per_month = 5\n";
    let users: [&[&str]; 2] = [&["ada", "--groups", "analysts"], &["bob"]];
    let (place, [ada, bob]) = with_users(&format!("{DOLLAR_A_SECOND}{groups}"), users);
    let server = Served::start(&place, &[]);
    let tokens = std::fs::read_to_string(place.path("tokens.toml")).expect("the file");
    let write = |text: &str| super::identity::write_private(&place.path("tokens.toml"), text);
    let (carl, lines) = super::identity::token(&place, &["carl", "--groups", "analyst"]);
    write(&format!("{}\n{lines}", tokens.replace("analysts", "analyst")));
    server.signal("HUP");
    super::pause(std::time::Duration::from_millis(500));
    assert_eq!(server.sql_of(&carl, "SELECT 1").status, 401, "no token is new");
    assert_eq!(server.budgets(&ada).len(), 1);
    // The leaked token is gone, although its group is nobody's then.
    write(&lines);
    server.signal("HUP");
    wait_until("it was taken out", || server.sql_of(&ada, "SELECT 1").status == 401);
    assert_eq!(server.sql_of(&bob, "SELECT 1").status, 401);
    // An expired token gives no group.
    let (old, expired) = super::identity::token(&place, &["bob", "--groups", "analysts", "--expires", "1ms"]);
    write(&format!("{tokens}\n{lines}\n{expired}"));
    server.signal("HUP");
    wait_until("the tokens were read anew", || server.sql_of(&carl, "SELECT 1").status == 200);
    assert_eq!((server.budgets(&bob).len(), server.sql_of(&old, "SELECT 1").status), (0, 401));
}

#[test]
fn a_budget_of_nobody_is_refused() {
    let refused = |budgets: &str, words: &[&str]| {
        let (place, _) = with_users(&format!("{DOLLAR_A_SECOND}{budgets}"), [&["ada", "--groups", "analysts"]]);
        fails(&place, &["serve", "--listen", "127.0.0.1:0"], 2, words);
    };
    refused(
        "[[server.budget]]\nuser = 'adda'\ndollars_per_day = 1\n",
        &["there is no user `adda`", "did you mean `ada`?"],
    );
    refused(
        "[[server.budget]]\ngroup = 'ada'\ndollars_per_day = 1\n",
        &["no group `ada`", "no token of server.tokens"],
    );
    refused(&format!("{OF_ADA}{OF_ADA}"), &["user `ada` has two budgets for a day", "keep one"]);
    refused(
        "[[server.budget]]\nuser = 'ada'\n",
        &["`server.budget`", "line 6", "`dollars_per_day` or `dollars_per_month`"],
    );
    let place = Place::new(OF_ADA);
    fails(&place, &["serve", "--listen", "127.0.0.1:0"], 2, &["the server has no users", "set server.tokens"]);
    let place = Place::new("[server]\nbudget = 5\n");
    fails(&place, &["serve"], 2, &["`server.budget`", "line 2"]);
}
