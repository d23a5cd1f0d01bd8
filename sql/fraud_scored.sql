-- The features of the model, in its order.
SELECT
    *,
    score(
        'fraud',
        amount_usd, amount_log, amount_bucket, is_micro_amount, is_whole_amount,
        hour_of_day, time_of_day, day_of_week, is_night, is_weekend,
        is_cross_border, region, currency_group, merchant_kind, is_watched_merchant
    ) AS fraud_probability,
    model_version('fraud') AS model_version
FROM features
