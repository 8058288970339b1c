//! The statement that would make a table, in the form in which Trino shows it. Its order of rows, its
//! comments and its other properties are left out.

use gust_catalog::{Field, PartitionField, Table, Transform, Type};

use crate::sql::quoted;

/// Writes the statement that makes a table of this name.
pub(super) fn definition(name: &[String; 3], table: &Table) -> String {
    written(
        name,
        &table.schema().fields,
        &Layout {
            format: &table.file_format(),
            format_version: table.format_version(),
            location: table.location(),
            partitioning: &table.partition_fields(),
        },
    )
}

/// Form and place of a table's files.
struct Layout<'a> {
    format: &'a str,
    format_version: u8,
    location: &'a str,
    partitioning: &'a [PartitionField],
}

fn written(name: &[String; 3], fields: &[Field], layout: &Layout<'_>) -> String {
    let name = name.each_ref().map(|part| quoted(part)).join(".");
    let column = |field: &Field| {
        let required = if field.required { " NOT NULL" } else { "" };
        format!("   {} {}{required}", quoted(&field.name), type_name(&field.ty))
    };
    let columns = fields.iter().map(column).collect::<Vec<_>>().join(",\n");
    let mut settings = vec![
        format!("format = {}", text(&layout.format.to_uppercase())),
        format!("format_version = {}", layout.format_version),
        format!("location = {}", text(layout.location)),
    ];
    let partitioning: Vec<String> = layout.partitioning.iter().filter_map(part).map(|part| text(&part)).collect();
    if !partitioning.is_empty() {
        settings.push(format!("partitioning = ARRAY[{}]", partitioning.join(",")));
    }
    let settings = settings.iter().map(|setting| format!("   {setting}")).collect::<Vec<_>>().join(",\n");
    format!("CREATE TABLE {name} (\n{columns}\n)\nWITH (\n{settings}\n)")
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Writes a field of a partition spec. None for one that no file is parted by any more.
fn part(field: &PartitionField) -> Option<String> {
    let column = quoted(&field.column);
    Some(match field.transform {
        Transform::Identity => column,
        Transform::Bucket(buckets) => format!("bucket({column}, {buckets})"),
        Transform::Truncate(width) => format!("truncate({column}, {width})"),
        transform @ (Transform::Year | Transform::Month | Transform::Day | Transform::Hour | Transform::Unknown) => {
            format!("{transform}({column})")
        }
        Transform::Void => return None,
    })
}

fn type_name(ty: &Type) -> String {
    match ty {
        Type::Boolean => "boolean".to_owned(),
        Type::Int => "integer".to_owned(),
        Type::Long => "bigint".to_owned(),
        Type::Float => "real".to_owned(),
        Type::Double => "double".to_owned(),
        Type::Decimal { precision, scale } => format!("decimal({precision}, {scale})"),
        Type::Date => "date".to_owned(),
        Type::Time => "time(6)".to_owned(),
        Type::Timestamp => "timestamp(6)".to_owned(),
        Type::Timestamptz => "timestamp(6) with time zone".to_owned(),
        Type::TimestampNs => "timestamp(9)".to_owned(),
        Type::TimestamptzNs => "timestamp(9) with time zone".to_owned(),
        Type::String => "varchar".to_owned(),
        Type::Uuid => "uuid".to_owned(),
        Type::Fixed(_) | Type::Binary => "varbinary".to_owned(),
        Type::Unknown => "unknown".to_owned(),
        Type::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{} {}", quoted(&field.name), type_name(&field.ty)));
            format!("ROW({})", fields.collect::<Vec<_>>().join(", "))
        }
        Type::List(element) => format!("ARRAY({})", type_name(&element.ty)),
        Type::Map(key, value) => format!("MAP({}, {})", type_name(&key.ty), type_name(&value.ty)),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::{DFParser, Statement};
    use datafusion::sql::sqlparser::ast::Statement as SqlStatement;

    use super::*;

    fn field(name: &str, required: bool, ty: Type) -> Field {
        Field { id: 1, name: name.to_owned(), required, ty, initial_default: None }
    }

    #[test]
    fn a_table_is_shown_as_trino_shows_it() {
        let list = Type::List(Box::new(field("element", false, Type::Decimal { precision: 9, scale: 2 })));
        let map = Type::Map(Box::new(field("key", true, Type::String)), Box::new(field("value", false, list)));
        let nested = Type::Struct(vec![field("a b", false, map), field("c", false, Type::Timestamptz)]);
        let fields = [field("id", true, Type::Long), field("Day", false, Type::Date), field("n", false, nested)];
        let part =
            |column: &str, transform| PartitionField { name: "p".to_owned(), column: column.to_owned(), transform };
        let written = written(
            &["lake", "sales.eu", "it's"].map(str::to_owned),
            &fields,
            &Layout {
                format: "orc",
                format_version: 2,
                location: "s3://b/it's",
                partitioning: &[
                    part("id", Transform::Bucket(16)),
                    part("Day", Transform::Month),
                    part("id", Transform::Void),
                    part("id", Transform::Identity),
                ],
            },
        );
        let expect = r#"CREATE TABLE lake."sales.eu"."it's" (
   id bigint NOT NULL,
   "Day" date,
   n ROW("a b" MAP(varchar, ARRAY(decimal(9, 2))), c timestamp(6) with time zone)
)
WITH (
   format = 'ORC',
   format_version = 2,
   location = 's3://b/it''s',
   partitioning = ARRAY['bucket(id, 16)','month("Day")','id']
)"#;
        assert_eq!(written, expect);
    }

    /// The parser reads no rows and no maps in a table, so that the columns here have other types.
    #[test]
    fn what_is_shown_is_read_again() {
        let names = ["order", "group", "table", "from", "end", "values", "when", "using", "current_date", "plain"];
        let fields = names.map(|name| field(name, true, Type::Timestamp));
        let layout = Layout {
            format: "parquet",
            format_version: 2,
            location: "s3://b/t",
            partitioning: &[PartitionField {
                name: "p".to_owned(),
                column: "order".to_owned(),
                transform: Transform::Day,
            }],
        };
        let text = written(&["lake", "group", "order"].map(str::to_owned), &fields, &layout);
        let read = DFParser::parse_sql(&text).expect("SQL").remove(0).expect("a statement");
        let Statement::Statement(read) = read else { panic!("{read}") };
        let SqlStatement::CreateTable(create) = *read else { panic!("{read}") };
        assert_eq!(create.name.to_string(), "lake.\"group\".\"order\"");
        assert_eq!(create.columns.iter().map(|column| column.name.value.as_str()).collect::<Vec<_>>(), names);
        assert!(text.contains("ARRAY['day(\"order\")']") && text.contains("   plain timestamp(6) NOT NULL"), "{text}");
    }
}
