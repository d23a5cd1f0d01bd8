//! The SQL of `pipelines/fraud.yaml` on DataFusion as it comes: any DataFusion can run it. Tests only; planning for streams is
//! the business of `plan`.

use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::prelude::SessionContext;

use super::settings::Pipeline;

const TRANSACTIONS: &str = "CREATE VIEW transactions AS SELECT
    column1 AS transaction_id, CAST(column2 AS BIGINT) AS user_id, CAST(column3 AS DOUBLE) AS amount, column4 AS currency,
    column5 AS merchant, CAST(column6 AS TIMESTAMP) AS \"timestamp\", column7 AS location, CAST(column8 AS INT) AS is_fraud
    FROM (VALUES
        ('a', 1, 100.0, 'EUR', 'Amber Bay Coffee', '2026-03-07T23:30:00', 'DE', 0),
        ('b', 2, 1.5, 'USD', 'QuickCash', '2026-03-09T12:15:00', 'FR', 1),
        ('c', 3, 9999.99, 'XXX', NULL, '2026-03-08T05:59:59', NULL, 0),
        ('d', 4, 0.01, 'JPY', 'Pine Gate Travel', '2026-03-09T06:00:00', 'JP', 0),
        ('e', 1, 50.0, 'EUR', 'Amber Bay Coffee', '2026-03-07T23:40:00', 'FR', 0))";

fn fraud() -> Pipeline {
    Pipeline::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/fraud.yaml"), &|_| None).unwrap()
}

/// The columns that the score is called with.
fn arguments() -> Vec<String> {
    let sql = fraud().views[1].query.sql.clone();
    let call = sql.split("score(").nth(1).unwrap().split(')').next().unwrap().to_string();
    call.split(',').skip(1).map(|argument| argument.trim().to_string()).collect()
}

async fn features() -> RecordBatch {
    let ctx = SessionContext::new();
    ctx.sql(TRANSACTIONS).await.unwrap();
    let sql = format!("SELECT * FROM ({}) ORDER BY transaction_id", fraud().views[0].query.sql);
    let batches = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn column(batch: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    let array = cast(batch.column_by_name(name).unwrap(), &DataType::Float64).unwrap();
    array.as_primitive::<Float64Type>().iter().collect()
}

#[tokio::test]
async fn every_argument_of_the_score_is_a_number_that_stock_datafusion_computes() {
    let batch = features().await;
    let arguments = arguments();
    assert_eq!(arguments.len(), 36);
    // Where the place or the merchant is not known, and where there is nothing yet to compare with.
    let may_be_null = [
        "is_cross_border",
        "region",
        "merchant_kind",
        "is_watched_merchant",
        "avg_amount_last_7",
        "amount_to_avg_ratio",
        "amount_to_max_ratio",
        "amount_z_score",
        "time_since_last_txn",
        "is_new_country_since_last",
        "is_new_merchant_since_last",
    ];
    for name in &arguments {
        let array = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
        assert!(array.data_type().is_numeric(), "{name} is {}", array.data_type());
        assert_eq!(array.null_count() == 0, !may_be_null.contains(&name.as_str()), "{name}");
    }
    assert!(!arguments.iter().any(|name| name == "is_fraud"));
}

#[tokio::test]
async fn features_say_what_their_names_say() {
    let batch = features().await;
    let is = |name: &str, expected: [Option<f64>; 5]| assert_eq!(column(&batch, name), expected, "{name}");
    is("amount_usd", [Some(100.0 / 0.92), Some(1.5), Some(9999.99), Some(0.01), Some(50.0 / 0.92)]);
    is("amount_bucket", [Some(3.0), Some(0.0), Some(5.0), Some(0.0), Some(3.0)]);
    is("is_micro_amount", [Some(0.0), Some(1.0), Some(0.0), Some(1.0), Some(0.0)]);
    is("is_whole_amount", [Some(1.0), Some(0.0), Some(0.0), Some(0.0), Some(1.0)]);
    is("hour_of_day", [Some(23.0), Some(12.0), Some(5.0), Some(6.0), Some(23.0)]);
    is("time_of_day", [Some(23.5), Some(12.25), Some(5.0 + 59.0 / 60.0), Some(6.0), Some(23.0 + 40.0 / 60.0)]);
    is("day_of_week", [Some(6.0), Some(1.0), Some(0.0), Some(1.0), Some(6.0)]);
    is("is_night", [Some(1.0), Some(0.0), Some(1.0), Some(0.0), Some(1.0)]);
    is("is_weekend", [Some(1.0), Some(0.0), Some(1.0), Some(0.0), Some(1.0)]);
    is("is_cross_border", [Some(0.0), Some(1.0), None, None, Some(0.0)]);
    is("region", [Some(2.0), Some(2.0), None, Some(5.0), Some(2.0)]);
    is("currency_group", [Some(1.0), Some(0.0), Some(3.0), Some(3.0), Some(1.0)]);
    is("merchant_kind", [Some(5.0), Some(0.0), None, Some(2.0), Some(5.0)]);
    is("is_watched_merchant", [Some(0.0), Some(1.0), None, Some(0.0), Some(0.0)]);
    let first = |fifth: Option<f64>| [None, None, None, None, fifth];
    let ones = |fifth: f64| [Some(1.0), Some(1.0), Some(1.0), Some(1.0), Some(fifth)];
    for name in ["user_activity_1h", "user_activity_24h", "user_activity_7d", "visit_of_merchant"] {
        is(name, ones(2.0));
    }
    is("user_spent_24h", [Some(100.0 / 0.92), Some(1.5), Some(9999.99), Some(0.01), Some(100.0 / 0.92 + 50.0 / 0.92)]);
    is("user_merchants_24h", [Some(1.0), Some(1.0), Some(0.0), Some(1.0), Some(1.0)]);
    is("user_countries_24h", [Some(1.0), Some(1.0), Some(0.0), Some(1.0), Some(2.0)]);
    is("user_micro_payments_10m", [Some(0.0), Some(1.0), Some(0.0), Some(1.0), Some(0.0)]);
    is("visit_of_country", ones(1.0));
    is("num_last_7", [Some(0.0), Some(0.0), Some(0.0), Some(0.0), Some(1.0)]);
    is("avg_amount_last_7", first(Some(100.0 / 0.92)));
    is("amount_to_avg_ratio", first(Some((50.0 / 0.92) / (100.0 / 0.92))));
    is("time_since_last_txn", first(Some(600.0)));
    is("is_new_country_since_last", first(Some(1.0)));
    is("is_new_merchant_since_last", first(Some(0.0)));
    is("amount_z_score", first(None));
}
