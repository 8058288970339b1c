//! Functions of PostgreSQL that clients call about the connection and its tables.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr_fn::SimpleScalarUDF;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Signature, Volatility, create_udf};
use datafusion::prelude::SessionContext;
use datafusion_pg_catalog::pg_catalog as pg;

use super::routines::Routines;

/// Function that gives each key of an index a row. Indexes are not listed.
pub(super) const KEYS_OF_INDEX: &str = "generate_subscripts";

/// Functions without a meaning here, which have no value, by the types of their arguments.
const WITHOUT_VALUE: &[(&str, &[DataType])] = &[
    ("col_description", &[DataType::Int32, DataType::Int32]),
    ("obj_description", &[DataType::Int32, DataType::Utf8]),
    ("shobj_description", &[DataType::Int32, DataType::Utf8]),
    ("pg_get_function_result", &[DataType::Int32]),
    ("pg_get_function_sqlbody", &[DataType::Int32]),
    ("pg_table_size", &[DataType::Int32]),
    ("pg_database_size", &[DataType::Utf8]),
    ("pg_size_pretty", &[DataType::Utf8]),
    ("pg_get_viewdef", &[DataType::Int32]),
];

/// Functions of any arguments over indexes and sequences, which have no rows here, with the types of their values.
fn without_rows() -> [ScalarUDF; 4] {
    [
        ("json_build_object", ScalarValue::Utf8(None)),
        ("pg_get_indexdef", ScalarValue::Utf8(None)),
        ("pg_get_serial_sequence", ScalarValue::Utf8(None)),
        (KEYS_OF_INDEX, ScalarValue::Int32(None)),
    ]
    .map(|(name, value)| {
        let data_type = value.data_type();
        let returned = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(value.clone()));
        let signature = Signature::variadic_any(Volatility::Stable);
        SimpleScalarUDF::new_with_signature(name, signature, data_type, Arc::new(returned)).into()
    })
}

/// Facts of a connection that functions tell.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) database: &'a str,
    pub(super) user: &'a str,
    pub(super) routines: &'a Routines,
}

/// Registers the functions in a connection's session.
pub(super) fn install(context: &SessionContext, of: &Facts<'_>) {
    let privileges = ["table", "schema", "database", "any_column", "column", "function"];
    let privileges =
        privileges.map(|of| pg::has_privilege_udf::create_has_privilege_udf(&format!("has_{of}_privilege")));
    let functions = [
        pg::create_current_database_udf(of.database),
        pg::create_current_schema_udf(),
        pg::create_current_schemas_udf(),
        pg::create_pg_get_userbyid_udf(),
        pg::create_pg_table_is_visible(),
        visible("pg_function_is_visible"),
        visible("pg_type_is_visible"),
        visible("pg_collation_is_visible"),
        // No type has a name that clients look for before they use it.
        constant("to_regtype", &[DataType::Utf8], ScalarValue::Int32(None)),
        pg::format_type::create_format_type_udf(),
        constant("session_user", &[], ScalarValue::from(of.user)),
        of.routines.arguments_udf(),
        pg::pg_get_expr_udf::create_pg_get_expr_udf(),
        pg::create_pg_get_partkeydef_udf(),
        pg::create_pg_relation_is_publishable_udf(),
        pg::create_pg_get_statisticsobjdef_columns_udf(),
        pg::create_pg_encoding_to_char_udf(),
        pg::create_pg_backend_pid_udf(),
        pg::create_pg_relation_size_udf(),
        pg::create_pg_total_relation_size_udf(),
        pg::create_pg_get_constraintdef(),
        pg::create_pg_get_partition_ancestors_udf(),
        pg::quote_ident_udf::create_quote_ident_udf(),
        pg::quote_ident_udf::create_parse_ident_udf(),
        pg::array_bounds_udf::create_array_upper_udf(),
        pg::array_bounds_udf::create_array_lower_udf(),
    ];
    let without = WITHOUT_VALUE.iter().map(|(name, arguments)| constant(name, arguments, ScalarValue::Utf8(None)));
    for function in functions.into_iter().chain(privileges).chain(without).chain(without_rows()) {
        context.register_udf(function);
    }
}

fn visible(name: &str) -> ScalarUDF {
    constant(name, &[DataType::Int32], ScalarValue::from(true))
}

fn constant(name: &str, arguments: &[DataType], value: ScalarValue) -> ScalarUDF {
    let data_type = value.data_type();
    let returned = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(value.clone()));
    create_udf(name, arguments.to_vec(), data_type, Volatility::Stable, Arc::new(returned))
}
