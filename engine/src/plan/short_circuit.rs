//! `AND` and `OR` decided row by row. Stock evaluation runs the right side on all rows of a batch unless all rows are decided
//! by the left one, so that `b <> 0 AND a / b > 2` fails or not by what else is in the batch. Here the right side sees exactly
//! the rows that the left one leaves open, which is what each row gets alone.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::kernels::boolean::{and_kleene, not, or_kleene};
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

/// Replaces the `AND`s and `OR`s of an expression whose right side can fail.
pub(super) fn decide_by_row(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let decided = expr.transform_up(|expr| match expr.downcast_ref::<BinaryExpr>() {
        Some(binary)
            if matches!(binary.op(), Operator::And | Operator::Or) && !is_infallible(binary.right(), schema, &[]) =>
        {
            let is_and = *binary.op() == Operator::And;
            let decided = ByRow::new(Arc::clone(binary.left()), Arc::clone(binary.right()), is_and)?;
            Ok(Transformed::yes(Arc::new(decided) as Arc<dyn PhysicalExpr>))
        }
        _ => Ok(Transformed::no(expr)),
    })?;
    Ok(decided.data)
}

/// Whether no row can make it fail, where calls of `functions` cannot. Says no when in doubt.
pub(super) fn is_infallible(expr: &Arc<dyn PhysicalExpr>, schema: &Schema, functions: &[String]) -> bool {
    let type_of = |expr: &Arc<dyn PhysicalExpr>| expr.data_type(schema).unwrap_or(DataType::Null);
    let node = if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        let left = type_of(binary.left());
        match binary.op() {
            // Integers wrap around, floats saturate.
            Operator::Plus | Operator::Minus | Operator::Multiply => left.is_integer() || left.is_floating(),
            Operator::Divide | Operator::Modulo => left.is_floating(),
            Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
            | Operator::And
            | Operator::Or => true,
            _ => false,
        }
    } else if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let (from, to) = (type_of(cast.expr()), cast.cast_type());
        from == *to || (from.is_integer() && to.is_floating()) || (from == DataType::Int32 && *to == DataType::Int64)
    } else if let Some(like) = expr.downcast_ref::<LikeExpr>() {
        like.pattern().is::<Literal>()
    } else if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() {
        functions.iter().any(|function| function == call.fun().name())
    } else {
        expr.is::<Column>()
            || expr.is::<Literal>()
            || expr.is::<NotExpr>()
            || expr.is::<IsNullExpr>()
            || expr.is::<IsNotNullExpr>()
            || expr.is::<CaseExpr>()
            || expr.is::<InListExpr>()
            || expr.is::<ByRow>()
    };
    node && expr.children().into_iter().all(|child| is_infallible(child, schema, functions))
}

#[derive(Debug)]
struct ByRow {
    left: Arc<dyn PhysicalExpr>,
    right: Arc<dyn PhysicalExpr>,
    is_and: bool,
    /// The columns that the right side reads, and it over a batch of those alone: fewer columns are copied.
    columns: Vec<usize>,
    narrow: Arc<dyn PhysicalExpr>,
}

impl ByRow {
    fn new(left: Arc<dyn PhysicalExpr>, right: Arc<dyn PhysicalExpr>, is_and: bool) -> Result<ByRow> {
        let mut columns: Vec<usize> = collect_columns(&right).iter().map(Column::index).collect();
        columns.sort_unstable();
        columns.dedup();
        let narrow = Arc::clone(&right).transform_up(|expr| match expr.downcast_ref::<Column>() {
            Some(column) => {
                let index = columns.partition_point(|index| *index < column.index());
                Ok(Transformed::yes(Arc::new(Column::new(column.name(), index)) as Arc<dyn PhysicalExpr>))
            }
            None => Ok(Transformed::no(expr)),
        })?;
        Ok(ByRow { left, right, is_and, columns, narrow: narrow.data })
    }
}

impl PhysicalExpr for ByRow {
    fn data_type(&self, _schema: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        Ok(self.left.nullable(schema)? || self.right.nullable(schema)?)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let left = self.left.evaluate(batch)?.into_array(batch.num_rows())?;
        let Some(left) = left.as_boolean_opt() else {
            return internal_err!("a condition is not boolean");
        };
        // False decides an AND, true an OR; null leaves both open.
        let decided = if self.is_and { not(left)? } else { left.clone() };
        let open = match decided.null_count() {
            0 => not(&decided)?,
            _ => not(&prep_null_mask_filter(&decided))?,
        };
        if !open.has_true() {
            return Ok(ColumnarValue::Array(Arc::new(left.clone())));
        }
        let right = if open.has_false() {
            let rows = filter_record_batch(&batch.project(&self.columns)?, &open)?;
            spread(self.narrow.evaluate(&rows)?, &open)?
        } else {
            self.right.evaluate(batch)?.into_array(batch.num_rows())?.as_boolean().clone()
        };
        let both = if self.is_and { and_kleene(left, &right)? } else { or_kleene(left, &right)? };
        Ok(ColumnarValue::Array(Arc::new(both)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match <[Arc<dyn PhysicalExpr>; 2]>::try_from(children) {
            Ok([left, right]) => Ok(Arc::new(ByRow::new(left, right, self.is_and)?)),
            Err(_) => internal_err!("a condition has two sides"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.left.fmt_sql(f)?;
        f.write_str(if self.is_and { " AND " } else { " OR " })?;
        self.right.fmt_sql(f)
    }
}

/// The results of the open rows at their places; the others are null, and the left side decides them.
fn spread(values: ColumnarValue, open: &BooleanArray) -> Result<BooleanArray> {
    let array = match values {
        ColumnarValue::Scalar(ScalarValue::Boolean(value)) => {
            return Ok(open.iter().map(|open| value.filter(|_| open == Some(true))).collect());
        }
        ColumnarValue::Scalar(_) => return internal_err!("a condition is not boolean"),
        ColumnarValue::Array(array) => array,
    };
    let Some(values) = array.as_boolean_opt() else {
        return internal_err!("a condition is not boolean");
    };
    let mut values = values.iter();
    Ok(open.iter().map(|open| if open == Some(true) { values.next().flatten() } else { None }).collect())
}

impl fmt::Display for ByRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} BY ROW {}", self.left, if self.is_and { "AND" } else { "OR" }, self.right)
    }
}

impl PartialEq for ByRow {
    fn eq(&self, other: &ByRow) -> bool {
        self.is_and == other.is_and && self.left.eq(&other.left) && self.right.eq(&other.right)
    }
}

impl Eq for ByRow {}

impl Hash for ByRow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.is_and.hash(state);
        self.left.hash(state);
        self.right.hash(state);
    }
}
