-- The features of the model, in its order.
SELECT
    *,
    score(
        'fraud',
        amount_usd, time_of_day, day_of_week, region, merchant_kind, is_round_amount,
        user_activity_1h, user_activity_24h, user_activity_7d, user_spent_1h, user_spent_24h, user_spent_7d,
        user_merchants_24h, user_merchants_7d, user_countries_24h, user_micro_payments_10m,
        avg_amount_last_7, amount_to_avg_ratio, amount_to_max_ratio, amount_z_score,
        time_since_last_txn, is_new_country_since_last, is_new_merchant_since_last, visit_of_merchant, visit_of_country,
        merchant_log_price, merchant_log_spread, above_usual_price, price_z_score,
        merchant_micro_10m, merchant_micro_by_new_users_1h, merchant_activity_1h, merchant_users_1h, merchant_burst_1h,
        merchant_dear_round_by_new_users_6h, merchant_activity_24h, merchant_new_users_24h, merchant_round_by_new_users_24h,
        merchant_dear_24h, merchant_dear_by_new_users_24h, merchant_dear_round_by_new_users_24h, merchant_above_usual_price_24h, merchant_burst_24h,
        merchant_new_users_burst_24h, merchant_new_share_24h, merchant_round_share_24h,
        merchant_dear_by_new_users_burst_3d, merchant_dear_round_by_new_users_3d, merchant_dear_round_burst_3d, merchant_burst_3d, merchant_new_share_3d, merchant_round_share_3d,
        merchant_activity_before, merchant_new_share_before, merchant_round_share_before, merchant_countries_31d, merchant_spread_last_5,
        above_own_usual_price, user_above_usual_price_1h, sum_above_own_usual_price_6h, sum_above_own_usual_price_at_new_merchants_6h,
        min_above_own_usual_price_at_new_merchants_6h, user_takeover_signs_2h, user_takeover_signs_6h,
        user_above_usual_price_before, user_price_spread_before, user_activity_before, user_burst_6h,
        user_dear_at_new_merchants_6h, user_new_merchants_6h, user_new_share_before, user_present_share_before,
        user_micro_4h, user_tested_4h, is_at_local_shop, time_since_last_country, user_switches_of_country_24h,
        user_present_here_6h, user_present_here_24h, user_present_elsewhere_6h, user_present_elsewhere_24h,
        user_here_24h, user_elsewhere_6h, user_share_here_14d, time_since_last_here,
        user_here_today, user_elsewhere_today, user_present_elsewhere_today, user_missing_today,
        user_here_3d_before_today, user_elsewhere_3d, time_since_first_here_3d,
        has_device, visit_of_device, time_on_device, user_share_on_device_31d, user_devices_24h, user_devices_31d,
        user_on_new_devices_6h, user_dearer_on_new_devices_6h, user_on_known_devices_24h,
        user_in_shops_here_today, user_in_shops_elsewhere_today, user_on_devices_here_today,
        user_in_shops_here_3d_before_today, user_in_shops_elsewhere_3d, user_share_of_shops_here_before, time_since_shop_elsewhere
    ) AS fraud_probability,
    model_version('fraud') AS model_version,
    model_run_id('fraud') AS model_run_id
FROM devices
