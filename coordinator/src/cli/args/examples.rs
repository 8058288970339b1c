//! Examples in `--help`.

pub(super) const QUERY_EXAMPLES: &str = "\
Examples:
  gust query \"SELECT count(*) FROM 'data/*.parquet'\"
  gust query --setup tables.sql --on processes --functions 4 \"SELECT * FROM orders LIMIT 10\"
  gust query --catalog lake --format csv --report none < query.sql > rows.csv
  gust query --format parquet --output rows.parquet \"SELECT * FROM 's3://lake/t/'\"
  gust query \"COPY (SELECT k, v FROM 's3://lake/t/') TO 'rows.csv'\"
  gust query --dry-run --setup tables.sql \"SELECT max(price) FROM orders\"
  gust query --prefer cost --deadline 10s --setup tables.sql \"SELECT max(price) FROM orders\"
  gust query --timeout 30s --report json --report-file report.json - < query.sql
  gust query --server https://gust.example:8123 --token-file ada.secret --format csv \"SELECT max(k) FROM t\"
  gust query --label team=ads --label job=nightly \"SELECT max(k) FROM 's3://lake/t/'\"
  gust query \"SELECT started, dollars, statement FROM gust.queries ORDER BY dollars DESC LIMIT 10\"";

pub(super) const EXPLAIN_EXAMPLES: &str = "\
Examples:
  gust explain \"SELECT count(*) FROM 'data/*.parquet'\"
  gust explain --catalog lake --on processes - < query.sql";

pub(super) const DEMO_EXAMPLES: &str = "\
Examples:
  gust demo
  gust demo --sf 0.1 --queries 1,6 --functions 2
  gust demo --home /data/gust-demo --sf 10 --on auto";

pub(super) const DOCTOR_EXAMPLES: &str = "\
Examples:
  gust doctor
  gust doctor --on lambda --config gust.toml

It exits with 0 where all is well, else with 3.";
pub(super) const SERVE_EXAMPLES: &str = "\
Examples:
  gust serve --catalog lake
  gust serve --listen 127.0.0.1:0 --setup tables.sql --max-cost 0.05
  gust serve --postgres 127.0.0.1:5432
  psql -h 127.0.0.1 -d gust -c 'SELECT 6 * 7 AS answer'
  curl http://127.0.0.1:8123/v1/query -H 'Content-Type: application/sql' --data-binary 'SELECT 6 * 7 AS answer'
  curl http://127.0.0.1:8123/v1/query -H 'Content-Type: application/sql' -H 'Accept: text/csv' --data-binary @query.sql > rows.csv

Queries read the warehouses of the catalogs, and the places that `reach` under [server] names. SIGTERM and Ctrl-C take no more
connections and give running queries `drain_seconds`; a second signal stops them.";

pub(super) const TOKEN_EXAMPLES: &str = "\
Examples:
  gust token new --user ada --expires 90d
  gust token new --user bi --groups analysts,finance 2> token.secret >> tokens.toml

The secret goes to stderr, and the lines for the file that `tokens` under [server] names to stdout.";

pub(super) const GC_EXAMPLES: &str = "\
Examples:
  gust exchange gc --dry-run
  gust exchange gc --older-than 1day --config gust.toml";

pub(super) const CALIBRATE_EXAMPLES: &str = "\
Examples:
  gust calibrate --dry-run
  gust calibrate --on lambda --functions 100 --config gust.toml";

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  gust completions bash > ~/.local/share/bash-completion/completions/gust
  gust completions zsh > ~/.zfunc/_gust
  gust completions fish > ~/.config/fish/completions/gust.fish";

pub(super) const PRICES_EXAMPLES: &str = "\
Examples:
  gust prices
  gust prices --region eu-central-1 --format csv";

pub(super) const COST_EXAMPLES: &str = "\
Examples:
  gust cost
  gust cost --by user --since 7d
  gust cost --label-key team --since 2026-11-01 --format csv
  gust cost --server https://gust.example:8123 --token-file ada.secret

Days are UTC's. Queries that were priced as if on Lambda have rows of their own. A query that reads several tables counts once, under
all of their names. More can be asked in SQL, of gust.queries, gust.fragments and gust.cost_lines.";
