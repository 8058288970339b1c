//! The eight TPC-H tables: names, schemas and rows.
//!
//! Rows come from the `tpchgen` crates, which give the specification's data exactly, slice by slice. Strings are `Utf8`
//! here, not views, and every field carries its Iceberg field id. A file of these batches can thus be added to an Iceberg
//! table as it is.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchReader};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

/// Rows of a batch. A batch that is routed to seven partitions still gives each of them thousands of rows.
const BATCH_ROWS: usize = 32 * 1024;

/// A TPC-H table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TpchTable {
    Region,
    Nation,
    Supplier,
    Customer,
    Part,
    PartSupp,
    Orders,
    LineItem,
}

impl TpchTable {
    /// All tables, smallest first.
    pub const ALL: [TpchTable; 8] = [
        TpchTable::Region,
        TpchTable::Nation,
        TpchTable::Supplier,
        TpchTable::Customer,
        TpchTable::Part,
        TpchTable::PartSupp,
        TpchTable::Orders,
        TpchTable::LineItem,
    ];

    /// Returns the name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            TpchTable::Region => "region",
            TpchTable::Nation => "nation",
            TpchTable::Supplier => "supplier",
            TpchTable::Customer => "customer",
            TpchTable::Part => "part",
            TpchTable::PartSupp => "partsupp",
            TpchTable::Orders => "orders",
            TpchTable::LineItem => "lineitem",
        }
    }

    /// Returns the rows at a scale factor. They are exact for every table but lineitem, whose orders have one to seven lines
    /// (four on average).
    pub fn rows_about(self, scale: f64) -> u64 {
        let scaled = |rows: f64| (rows * scale) as u64;
        match self {
            TpchTable::Region => 5,
            TpchTable::Nation => 25,
            TpchTable::Supplier => scaled(10_000.0),
            TpchTable::Customer => scaled(150_000.0),
            TpchTable::Part => scaled(200_000.0),
            TpchTable::PartSupp => scaled(800_000.0),
            TpchTable::Orders => scaled(1_500_000.0),
            TpchTable::LineItem => scaled(6_000_000.0),
        }
    }

    /// Returns true where the table grows with the scale factor. The two others have one slice at any scale.
    pub fn is_scaled(self) -> bool {
        !matches!(self, TpchTable::Region | TpchTable::Nation)
    }

    /// Returns the schema of the files: no nulls, `Utf8` strings, and field ids 1, 2, 3 … in column order.
    pub fn schema(self) -> SchemaRef {
        let generated = match self {
            TpchTable::Region => RegionArrow::schema_ref(),
            TpchTable::Nation => NationArrow::schema_ref(),
            TpchTable::Supplier => SupplierArrow::schema_ref(),
            TpchTable::Customer => CustomerArrow::schema_ref(),
            TpchTable::Part => PartArrow::schema_ref(),
            TpchTable::PartSupp => PartSuppArrow::schema_ref(),
            TpchTable::Orders => OrderArrow::schema_ref(),
            TpchTable::LineItem => LineItemArrow::schema_ref(),
        };
        let fields = generated.fields().iter().enumerate().map(|(index, field)| {
            let data_type = match field.data_type() {
                DataType::Utf8View => DataType::Utf8,
                other => other.clone(),
            };
            let id = (PARQUET_FIELD_ID_META_KEY.to_owned(), (index + 1).to_string());
            Field::new(field.name(), data_type, field.is_nullable()).with_metadata([id].into())
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Makes the rows of slice `slice` (from 0) of `slices`, in key order, in the types of [`Self::schema`].
    pub fn batches(self, scale: f64, slice: usize, slices: usize) -> Batches {
        let part = i32::try_from(slice + 1).unwrap_or(i32::MAX);
        let parts = i32::try_from(slices).unwrap_or(i32::MAX);
        macro_rules! rows {
            ($arrow:ident, $generator:ident) => {
                Box::new($arrow::new($generator::new(scale, part, parts)).with_batch_size(BATCH_ROWS))
            };
        }
        let generated: Box<dyn RecordBatchReader> = match self {
            TpchTable::Region => rows!(RegionArrow, RegionGenerator),
            TpchTable::Nation => rows!(NationArrow, NationGenerator),
            TpchTable::Supplier => rows!(SupplierArrow, SupplierGenerator),
            TpchTable::Customer => rows!(CustomerArrow, CustomerGenerator),
            TpchTable::Part => rows!(PartArrow, PartGenerator),
            TpchTable::PartSupp => rows!(PartSuppArrow, PartSuppGenerator),
            TpchTable::Orders => rows!(OrderArrow, OrderGenerator),
            TpchTable::LineItem => rows!(LineItemArrow, LineItemGenerator),
        };
        Batches { generated, schema: self.schema() }
    }
}

/// Record batches of one slice of a table.
pub struct Batches {
    generated: Box<dyn RecordBatchReader>,
    schema: SchemaRef,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.generated.next()? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error)),
        };
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns: Result<Vec<ArrayRef>, _> =
            columns.map(|(column, field)| cast(column, field.data_type())).collect();
        Some(columns.and_then(|columns| RecordBatch::try_new(Arc::clone(&self.schema), columns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_together_hold_every_row_once() {
        for table in TpchTable::ALL {
            let rows = |slice, slices| -> usize {
                table.batches(0.001, slice, slices).map(|batch| batch.unwrap().num_rows()).sum()
            };
            let whole = rows(0, 1);
            if table != TpchTable::LineItem {
                assert_eq!(whole as u64, table.rows_about(0.001), "{}", table.name());
            }
            if table.is_scaled() {
                assert_eq!(rows(0, 3) + rows(1, 3) + rows(2, 3), whole, "{}", table.name());
            }
        }
    }
}
