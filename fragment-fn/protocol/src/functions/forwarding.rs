//! Methods that a function of ours leaves to DataFusion's of its name, which is in its field `stock`.

/// Writes the methods of `AggregateUDFImpl` for the names, the types, the state and the order of an aggregate.
macro_rules! aggregate_of_stock {
    () => {
        fn name(&self) -> &str {
            self.stock.name()
        }

        fn aliases(&self) -> &[String] {
            self.stock.aliases()
        }

        fn signature(&self) -> &datafusion::logical_expr::Signature {
            self.stock.signature()
        }

        fn return_type(
            &self,
            arg_types: &[arrow::datatypes::DataType],
        ) -> datafusion::common::Result<arrow::datatypes::DataType> {
            self.stock.return_type(arg_types)
        }

        fn coerce_types(
            &self,
            arg_types: &[arrow::datatypes::DataType],
        ) -> datafusion::common::Result<Vec<arrow::datatypes::DataType>> {
            self.stock.coerce_types(arg_types)
        }

        fn accumulator(
            &self,
            args: datafusion::logical_expr::function::AccumulatorArgs<'_>,
        ) -> datafusion::common::Result<Box<dyn datafusion::logical_expr::Accumulator>> {
            self.stock.accumulator(args)
        }

        fn state_fields(
            &self,
            args: datafusion::logical_expr::function::StateFieldsArgs<'_>,
        ) -> datafusion::common::Result<Vec<arrow::datatypes::FieldRef>> {
            self.stock.state_fields(args)
        }

        fn groups_accumulator_supported(&self, args: datafusion::logical_expr::function::AccumulatorArgs<'_>) -> bool {
            self.stock.groups_accumulator_supported(args)
        }

        fn order_sensitivity(&self) -> datafusion::logical_expr::utils::AggregateOrderSensitivity {
            self.stock.order_sensitivity()
        }

        fn reverse_expr(&self) -> datafusion::logical_expr::ReversedUDAF {
            datafusion::logical_expr::ReversedUDAF::Identical
        }

        fn documentation(&self) -> Option<&datafusion::logical_expr::Documentation> {
            self.stock.documentation()
        }
    };
}
pub(super) use aggregate_of_stock;

/// Writes the methods of `ScalarUDFImpl` for the names and the documentation of a function, and for the signature in its field.
macro_rules! named_as_stock {
    () => {
        fn name(&self) -> &str {
            self.stock.name()
        }

        fn aliases(&self) -> &[String] {
            self.stock.aliases()
        }

        fn signature(&self) -> &datafusion::logical_expr::Signature {
            &self.signature
        }

        fn documentation(&self) -> Option<&datafusion::logical_expr::Documentation> {
            self.stock.documentation()
        }
    };
}
pub(super) use named_as_stock;
