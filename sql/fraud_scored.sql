-- The features of the model, in its order.
SELECT
    *,
    score(
        'fraud',
        amount_usd, amount_log, amount_bucket, is_micro_amount, is_whole_amount,
        hour_of_day, time_of_day, day_of_week, is_night, is_weekend,
        is_cross_border, region, currency_group, merchant_kind, is_watched_merchant,
        user_activity_1h, user_activity_24h, user_activity_7d,
        user_spent_1h, user_spent_24h, user_spent_7d,
        user_merchants_24h, user_merchants_7d, user_countries_24h, user_countries_7d, user_micro_payments_10m,
        avg_amount_last_7, amount_to_avg_ratio, amount_to_max_ratio, num_last_7, amount_z_score,
        time_since_last_txn, is_new_country_since_last, is_new_merchant_since_last, visit_of_merchant, visit_of_country
    ) AS fraud_probability,
    model_version('fraud') AS model_version,
    model_run_id('fraud') AS model_run_id
FROM features
