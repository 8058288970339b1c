//! The schema `gust`: the history's tables, and tables of the moment. Their rows are made when a query reads them.
//!
//! | table | rows |
//! |---|---|
//! | `running` | statements on their way in this process: all, or the user's own where the history has his own |
//! | `functions` | sizes of the functions at hand. Reading it starts none |
//! | `settings` | settings of the session, as they are now |

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::future::BoxFuture;
use futures::{FutureExt, stream};

use super::options::SettingsPolicy;
use super::running::{Running, Snapshot};
use crate::config::Config;
use crate::error::QueryError;
use crate::fleet::{Asking, Fleet};
use crate::history::{self, HistoryWriter};
use crate::model::{FleetFacts, FunctionSize};

/// Names of the tables of the moment.
const RUNNING: &str = "running";
const FUNCTIONS: &str = "functions";
const SETTINGS: &str = "settings";

const UTC: &str = "UTC";

/// Dollars are counted in nano-dollars.
const DOLLARS: DataType = DataType::Decimal128(38, 9);

/// Parts of an engine that the tables show.
pub(super) struct Shown<'a> {
    pub config: &'a Config,
    /// User whose statements are shown; None for everyone's.
    pub of_user: Option<&'a str>,
    pub running: &'a Arc<Running>,
    pub fleet: &'a Arc<Fleet>,
    pub settings: &'a SettingsPolicy,
    pub writer: &'a HistoryWriter,
}

/// Lists the names of all tables of the schema.
pub(super) fn table_names(config: &Config) -> Vec<String> {
    let of_history = config.history.path.as_ref().map(|_| history::table_names()).unwrap_or_default();
    of_history.into_iter().chain([RUNNING, FUNCTIONS, SETTINGS].map(str::to_owned)).collect()
}

/// Makes the schema of a session.
pub(super) fn schema(shown: Shown<'_>) -> EngineResult<Arc<dyn SchemaProvider>> {
    let Shown { config, of_user, running, fleet, settings, writer } = shown;
    let schema = match history::Store::of(&config.history) {
        Some(store) => history::schema(&store, of_user, writer)?,
        None => Arc::new(MemorySchemaProvider::new()),
    };
    let (running, of_user) = (Arc::clone(running), of_user.map(str::to_owned));
    let (of_running, of_functions, settings) = (Arc::clone(fleet), Arc::clone(fleet), settings.clone());
    let tables = [
        Moment::new(RUNNING, running_columns(), move |_| {
            let statements = running.snapshots(of_user.as_deref(), of_running.tariff().as_ref());
            std::future::ready(running_rows(&statements)).boxed()
        }),
        Moment::new(FUNCTIONS, functions_columns(), move |_| {
            let fleet = Arc::clone(&of_functions);
            let asked = async move { fleet.facts(Asking::WhileHealthy).await };
            asked.map(|facts: Result<FleetFacts, QueryError>| functions_rows(&facts?)).boxed()
        }),
        Moment::new(SETTINGS, settings_columns(), move |context| {
            std::future::ready(settings_rows(context, &settings)).boxed()
        }),
    ];
    for table in tables {
        let (name, columns) = (table.name.to_owned(), Arc::clone(&table.columns));
        schema.register_table(name, Arc::new(StreamingTable::try_new(columns, vec![Arc::new(table)])?))?;
    }
    Ok(schema)
}

type Rows = BoxFuture<'static, EngineResult<RecordBatch>>;

/// Table whose rows are made when they are read.
struct Moment {
    name: &'static str,
    columns: SchemaRef,
    rows: Box<dyn Fn(&TaskContext) -> Rows + Send + Sync>,
}

impl Moment {
    fn new(
        name: &'static str,
        columns: SchemaRef,
        rows: impl Fn(&TaskContext) -> Rows + Send + Sync + 'static,
    ) -> Self {
        Self { name, columns, rows: Box::new(rows) }
    }
}

impl Debug for Moment {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moment").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartitionStream for Moment {
    fn schema(&self) -> &SchemaRef {
        &self.columns
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = stream::once((self.rows)(&context));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.columns), rows))
    }
}

fn columns<const N: usize>(columns: [(&str, DataType); N]) -> SchemaRef {
    Arc::new(Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
}

fn batch(columns: SchemaRef, arrays: Vec<ArrayRef>) -> EngineResult<RecordBatch> {
    RecordBatch::try_new(columns, arrays).map_err(|error: ArrowError| DataFusionError::from(error))
}

fn running_columns() -> SchemaRef {
    columns([
        ("id", DataType::Utf8),
        ("user_name", DataType::Utf8),
        ("started", DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))),
        ("seconds", DataType::Float64),
        ("statement", DataType::Utf8),
        ("state", DataType::Utf8),
        ("memory_bytes_foreseen", DataType::Int64),
        ("place", DataType::Utf8),
        ("fragments", DataType::Int64),
        ("fragments_done", DataType::Int64),
        ("attempts", DataType::Int64),
        ("dollars", DOLLARS),
    ])
}

fn running_rows(statements: &[Snapshot]) -> EngineResult<RecordBatch> {
    let texts =
        |of: fn(&Snapshot) -> Option<&str>| Arc::new(statements.iter().map(of).collect::<StringArray>()) as ArrayRef;
    let counts = |of: fn(&Snapshot) -> u64| {
        Arc::new(statements.iter().map(|it| i64::try_from(of(it)).ok()).collect::<Int64Array>()) as ArrayRef
    };
    let started = statements.iter().map(|it| Some(it.started.timestamp_micros()));
    let foreseen = statements.iter().map(|it| it.memory_bytes_foreseen.and_then(|bytes| i64::try_from(bytes).ok()));
    let dollars = statements.iter().map(|it| it.dollars.map(|dollars| i128::from(dollars.nano_dollars())));
    batch(
        running_columns(),
        vec![
            texts(|it| Some(&it.id)),
            texts(|it| it.user.as_deref()),
            Arc::new(started.collect::<TimestampMicrosecondArray>().with_timezone(UTC)),
            Arc::new(statements.iter().map(|it| Some(it.elapsed.as_secs_f64())).collect::<Float64Array>()),
            texts(|it| it.statement.as_deref()),
            texts(|it| Some(it.state)),
            Arc::new(foreseen.collect::<Int64Array>()),
            texts(|it| it.place),
            counts(|it| it.fragments),
            counts(|it| it.fragments_done),
            counts(|it| it.attempts),
            Arc::new(dollars.collect::<Decimal128Array>().with_data_type(DOLLARS)),
        ],
    )
}

fn functions_columns() -> SchemaRef {
    columns([
        ("platform", DataType::Utf8),
        ("memory_mb", DataType::Int64),
        ("architecture", DataType::Utf8),
        ("lanes", DataType::Int64),
        ("functions_max", DataType::Int64),
        ("environments_up", DataType::Int64),
        ("is_healthy", DataType::Boolean),
    ])
}

fn functions_rows(facts: &FleetFacts) -> EngineResult<RecordBatch> {
    let FleetFacts { traits, sizes, is_healthy, .. } = facts;
    let counts = |of: &dyn Fn(&FunctionSize) -> usize| {
        Arc::new(sizes.iter().map(|size| i64::try_from(of(size)).ok()).collect::<Int64Array>()) as ArrayRef
    };
    let architectures = sizes.iter().map(|size| size.architecture.map(|architecture| architecture.name()));
    batch(
        functions_columns(),
        vec![
            Arc::new(sizes.iter().map(|_| Some(traits.name)).collect::<StringArray>()),
            counts(&|size| size.memory_mb as usize),
            Arc::new(architectures.collect::<StringArray>()),
            counts(&|size| size.lanes),
            counts(&|size| size.functions_max),
            counts(&|size| facts.environments(size)),
            Arc::new(sizes.iter().map(|_| Some(*is_healthy)).collect::<BooleanArray>()),
        ],
    )
}

fn settings_columns() -> SchemaRef {
    columns([
        ("name", DataType::Utf8),
        ("value", DataType::Utf8),
        ("may_change", DataType::Boolean),
        ("description", DataType::Utf8),
    ])
}

fn settings_rows(context: &TaskContext, policy: &SettingsPolicy) -> EngineResult<RecordBatch> {
    let mut entries = context.session_config().options().entries();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    batch(
        settings_columns(),
        vec![
            Arc::new(entries.iter().map(|entry| Some(entry.key.as_str())).collect::<StringArray>()),
            Arc::new(entries.iter().map(|entry| entry.value.as_deref()).collect::<StringArray>()),
            Arc::new(entries.iter().map(|entry| Some(policy.may_change(&entry.key))).collect::<BooleanArray>()),
            Arc::new(entries.iter().map(|entry| Some(entry.description)).collect::<StringArray>()),
        ],
    )
}
