//! `gust demo`: makes TPC-H tables as Iceberg tables once, and runs a few of its queries through functions.

use std::io::stdout;
use std::sync::{Arc, Mutex};

use gust_engine::config::CatalogConfig;
use gust_engine::error::QueryError;
use gust_engine::session::Recorder;
use gust_output::{OutputFormat, RowOutput};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{DemoArgs, ReportFormat};
use super::progress::Progress;
use super::{CommandError, Reports, configuration, interrupted, only_session, statements};
use crate::cli::exit::Exit;
use crate::cli::say::say;
use crate::cli::signals::Signals;
use crate::demo::queries;
use crate::demo::tables::{CATALOG, DemoTables, Step, ensure_tables};

/// Makes or finds the tables, then runs the queries one after the other.
pub(super) async fn demo(args: DemoArgs, progress: Progress) -> Result<(), CommandError> {
    let mut config = configuration(None, &args.overrides())?;
    let tables = tables(&args).await?;
    let DemoTables { database, warehouse, namespace } = tables;
    let catalog = CatalogConfig::sqlite(database, warehouse);
    config.catalogs.insert(CATALOG.to_owned(), catalog);
    let session = only_session(config, &args.labels)?;
    let recorder = Recorder::new(session.clone());
    let mut signals = Signals::listen()?;
    let ended = tokio::select! {
        ended = Box::pin(run(&recorder, &args, &namespace, &progress)) => ended,
        ended = signals.ended() => Err(ended),
    };
    session.close().await;
    interrupted(&recorder).await;
    ended
}

async fn run(recorder: &Recorder, args: &DemoArgs, namespace: &str, progress: &Progress) -> Result<(), CommandError> {
    recorder.session().use_catalog(CATALOG).await?;
    recorder.session().use_schema(CATALOG, namespace);
    for number in &args.queries {
        say!("TPC-H query {number}");
        let output = RowOutput::new(progress.clear_before_writing(stdout()), OutputFormat::Table);
        let mut reports = Reports::open(ReportFormat::Text, None)?;
        statements(recorder, queries::query(usize::from(*number)), false, &output, &mut None, progress, &mut reports)
            .await?;
    }
    say!(
        "the tables stay in {}; ask them yourself:\n  gust query --config {} --catalog {CATALOG} \"SELECT count(*) FROM {namespace}.lineitem WHERE l_quantity < 10\"",
        args.home.display(),
        args.home.join("gust.toml").display(),
    );
    Ok(())
}

/// Makes or finds the tables, with a bar while they are made.
async fn tables(args: &DemoArgs) -> Result<DemoTables, CommandError> {
    let failed = |message: String| CommandError::new(Exit::QueryFailed, message);
    let style =
        ProgressStyle::with_template("{spinner} {msg} {wide_bar} {human_pos} rows").map_err(CommandError::usage)?;
    let bar: Arc<Mutex<Option<ProgressBar>>> = Arc::default();
    let shown = Arc::clone(&bar);
    let on_step = Arc::new(move |table: crate::demo::table::TpchTable, step| {
        let mut bar = shown.lock().expect("no holder panics");
        match step {
            Step::Reused => {}
            Step::Started { rows_about } => {
                let made = ProgressBar::new(rows_about).with_style(style.clone()).with_message(table.name().to_owned());
                *bar = Some(made);
            }
            Step::Wrote { rows } => {
                if let Some(bar) = bar.as_ref() {
                    bar.inc(rows);
                }
            }
            Step::Committed { files, size_bytes } => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
                let size = humansize::format_size(size_bytes, humansize::BINARY);
                say!("made {}: {files} files, {size}", table.name());
            }
        }
    });
    let making = ensure_tables(&args.home, args.scale_factor, on_step);
    let tables = tokio::select! {
        made = making => made.map_err(|error| failed(gust_engine::error::with_causes(&error)).with_hint(error.hint()))?,
        _ = tokio::signal::ctrl_c() => return Err(QueryError::interrupted().into()),
    };
    write_configuration(args, &tables).map_err(|error| failed(format!("{}: {error}", args.home.display())))?;
    Ok(tables)
}

/// Writes a `gust.toml` beside the data, so that `gust query` finds the tables, too.
fn write_configuration(args: &DemoArgs, tables: &DemoTables) -> std::io::Result<()> {
    let path = args.home.join("gust.toml");
    if path.exists() {
        return Ok(());
    }
    let database = toml::Value::String(tables.database.display().to_string());
    let warehouse = toml::Value::String(tables.warehouse.clone());
    std::fs::write(
        path,
        format!("[catalogs.{CATALOG}]\ntype = \"sqlite\"\npath = {database}\nwarehouse = {warehouse}\n"),
    )
}
