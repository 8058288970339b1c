//! Lists that are empty, because tables have no keys, and the types that ODBC and JDBC ask about.

use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType};

/// Columns of a table's primary keys, as Flight SQL has them.
static PRIMARY_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    columns(&[
        ("catalog_name", DataType::Utf8, true),
        ("db_schema_name", DataType::Utf8, true),
        ("table_name", DataType::Utf8, false),
        ("column_name", DataType::Utf8, false),
        ("key_name", DataType::Utf8, true),
        ("key_sequence", DataType::Int32, false),
    ])
});

/// Columns of references between tables.
static FOREIGN_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    columns(&[
        ("pk_catalog_name", DataType::Utf8, true),
        ("pk_db_schema_name", DataType::Utf8, true),
        ("pk_table_name", DataType::Utf8, false),
        ("pk_column_name", DataType::Utf8, false),
        ("fk_catalog_name", DataType::Utf8, true),
        ("fk_db_schema_name", DataType::Utf8, true),
        ("fk_table_name", DataType::Utf8, false),
        ("fk_column_name", DataType::Utf8, false),
        ("key_sequence", DataType::Int32, false),
        ("fk_key_name", DataType::Utf8, true),
        ("pk_key_name", DataType::Utf8, true),
        ("update_rule", DataType::UInt8, false),
        ("delete_rule", DataType::UInt8, false),
    ])
});

static TYPES: LazyLock<XdbcTypeInfoData> = LazyLock::new(|| {
    let quoted = Some("'");
    let mut types = XdbcTypeInfoDataBuilder::new();
    for (name, kind, size, quote, params) in [
        ("BOOLEAN", XdbcDataType::XdbcBit, 1, None, None),
        ("TINYINT", XdbcDataType::XdbcTinyint, 3, None, None),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 5, None, None),
        ("INTEGER", XdbcDataType::XdbcInteger, 10, None, None),
        ("BIGINT", XdbcDataType::XdbcBigint, 19, None, None),
        ("REAL", XdbcDataType::XdbcReal, 7, None, None),
        ("DOUBLE", XdbcDataType::XdbcDouble, 15, None, None),
        ("DECIMAL", XdbcDataType::XdbcDecimal, 38, None, Some(["precision", "scale"])),
        ("VARCHAR", XdbcDataType::XdbcVarchar, i32::MAX, quoted, None),
        ("BYTEA", XdbcDataType::XdbcVarbinary, i32::MAX, quoted, None),
        ("DATE", XdbcDataType::XdbcDate, 10, quoted, None),
        ("TIME", XdbcDataType::XdbcTime, 15, quoted, None),
        ("TIMESTAMP", XdbcDataType::XdbcTimestamp, 29, quoted, None),
    ] {
        let is_number = quote.is_none() && name != "BOOLEAN";
        types.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type: kind,
            column_size: Some(size),
            literal_prefix: quote.map(str::to_owned),
            literal_suffix: quote.map(str::to_owned),
            create_params: params.map(|names: [&str; 2]| names.map(str::to_owned).to_vec()),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: name == "VARCHAR",
            searchable: Searchable::Full,
            unsigned_attribute: is_number.then_some(false),
            auto_increment: is_number.then_some(false),
            local_type_name: Some(name.to_owned()),
            sql_data_type: kind,
            num_prec_radix: is_number.then_some(10),
            ..XdbcTypeInfo::default()
        });
    }
    types.build().expect("the list is well formed")
});

/// List without a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    Primary,
    Foreign,
}

impl Keys {
    pub(super) fn rows(self) -> RecordBatch {
        let schema = match self {
            Self::Primary => &PRIMARY_KEYS,
            Self::Foreign => &FOREIGN_KEYS,
        };
        RecordBatch::new_empty(Arc::clone(schema))
    }
}

pub(super) fn types() -> &'static XdbcTypeInfoData {
    &TYPES
}

fn columns(columns: &[(&str, DataType, bool)]) -> SchemaRef {
    let fields = columns.iter().map(|(name, kind, nullable)| Field::new(*name, kind.clone(), *nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
