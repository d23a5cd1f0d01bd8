-- What goes on at the merchant: how busy it is, with whom, and at what prices, against what was usual there before. It reads the rows
-- of fraud_features.sql behind a topic that is keyed by merchant. Every number is as of the transaction itself.
WITH priced AS (
    SELECT
        *,
        ln(amount_usd) AS log_usd,
        round(amount * 100) % 1000 = 0 AS is_round,
        amount_usd < 2.2 AS is_micro
    FROM features
),
compared AS (
    SELECT
        *,
        -- Logarithms: a price is usual or not by its ratio to others. What is usual is what was so until three days ago:
        -- a merchant that begins to cheat does not become its own measure.
        avg(log_usd) OVER before AS merchant_log_price,
        log_usd - coalesce(avg(log_usd) OVER before, avg(log_usd) OVER last_20) AS above_usual_price,
        stddev(log_usd) OVER before AS merchant_log_spread,
        count(*) OVER (
            PARTITION BY merchant, location ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND CURRENT ROW
        ) AS merchant_from_here_31d
    FROM priced
    WINDOW
        before AS (PARTITION BY merchant ORDER BY "timestamp" RANGE BETWEEN INTERVAL '60 days' PRECEDING AND INTERVAL '3 days' PRECEDING),
        last_20 AS (PARTITION BY merchant ORDER BY "timestamp" ROWS BETWEEN 20 PRECEDING AND 1 PRECEDING)
),
suspected AS (
    -- Somebody who was never here before pays much; and a round amount.
    SELECT
        *,
        visit_of_merchant = 1 AND above_usual_price > 0.4 AS is_dear_by_new_user,
        is_round AND visit_of_merchant = 1 AND above_usual_price > 0.4 AS is_dear_round_by_new_user
    FROM compared
),
counted AS (
    SELECT
        *,
        count(*) FILTER (WHERE is_micro) OVER minutes_10 AS merchant_micro_10m,
        count(*) OVER hour_1 AS merchant_activity_1h,
        count(DISTINCT user_id) OVER hour_1 AS merchant_users_1h,
        -- A card that is tested is tested twice or three times.
        count(*) FILTER (WHERE is_micro AND visit_of_merchant <= 3) OVER hour_1 AS merchant_micro_by_new_users_1h,
        count(*) FILTER (WHERE is_dear_round_by_new_user) OVER hours_6 AS merchant_dear_round_by_new_users_6h,
        count(*) OVER day_1 AS merchant_activity_24h,
        count(*) FILTER (WHERE visit_of_merchant = 1) OVER day_1 AS merchant_new_users_24h,
        count(*) FILTER (WHERE is_round) OVER day_1 AS merchant_round_24h,
        count(*) FILTER (WHERE is_round AND visit_of_merchant = 1) OVER day_1 AS merchant_round_by_new_users_24h,
        count(*) FILTER (WHERE above_usual_price > 0.6) OVER day_1 AS merchant_dear_24h,
        count(*) FILTER (WHERE is_dear_round_by_new_user) OVER day_1 AS merchant_dear_round_by_new_users_24h,
        count(*) FILTER (WHERE is_dear_by_new_user) OVER day_1 AS merchant_dear_by_new_users_24h,
        avg(above_usual_price) OVER day_1 AS merchant_above_usual_price_24h,
        count(*) OVER day_3 AS merchant_activity_3d,
        count(*) FILTER (WHERE visit_of_merchant = 1) OVER day_3 AS merchant_new_users_3d,
        count(*) FILTER (WHERE is_round) OVER day_3 AS merchant_round_3d,
        count(*) FILTER (WHERE is_dear_round_by_new_user) OVER day_3 AS merchant_dear_round_by_new_users_3d,
        count(*) FILTER (WHERE is_dear_by_new_user) OVER day_3 AS merchant_dear_by_new_users_3d,
        count(*) OVER before AS merchant_activity_before,
        count(*) FILTER (WHERE visit_of_merchant = 1) OVER before AS merchant_new_users_before,
        count(*) FILTER (WHERE is_round) OVER before AS merchant_round_before,
        count(*) FILTER (WHERE is_dear_by_new_user) OVER before AS merchant_dear_by_new_users_before,
        count(*) FILTER (WHERE is_dear_round_by_new_user) OVER before AS merchant_dear_round_by_new_users_before,
        count(*) OVER day_31 AS merchant_activity_31d,
        count(DISTINCT location) OVER day_31 AS merchant_countries_31d,
        stddev(amount) OVER (
            PARTITION BY merchant ORDER BY "timestamp" ROWS BETWEEN 4 PRECEDING AND CURRENT ROW
        ) AS merchant_spread_last_5
    FROM suspected
    WINDOW
        minutes_10 AS (PARTITION BY merchant ORDER BY "timestamp" RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW),
        hour_1 AS (PARTITION BY merchant ORDER BY "timestamp" RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
        hours_6 AS (PARTITION BY merchant ORDER BY "timestamp" RANGE BETWEEN INTERVAL '6 hours' PRECEDING AND CURRENT ROW),
        day_1 AS (PARTITION BY merchant ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
        day_3 AS (PARTITION BY merchant ORDER BY "timestamp" RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW),
        day_31 AS (PARTITION BY merchant ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND CURRENT ROW),
        -- Two weeks, until three days ago.
        before AS (PARTITION BY merchant ORDER BY "timestamp" RANGE BETWEEN INTERVAL '17 days' PRECEDING AND INTERVAL '3 days' PRECEDING)
)
SELECT
    * EXCLUDE (log_usd, is_dear_by_new_user, is_dear_round_by_new_user),
    above_usual_price / nullif(merchant_log_spread, 0.0) AS price_z_score,
    CASE WHEN is_round THEN 1.0 ELSE 0.0 END AS is_round_amount,
    merchant_from_here_31d / CAST(merchant_activity_31d AS DOUBLE) AS merchant_share_from_here,
    -- 1 where it is as busy as it was, on average.
    merchant_activity_1h * 336.0 / (merchant_activity_before + 1) AS merchant_burst_1h,
    merchant_activity_24h * 14.0 / (merchant_activity_before + 1) AS merchant_burst_24h,
    merchant_activity_3d * 14.0 / 3.0 / (merchant_activity_before + 1) AS merchant_burst_3d,
    merchant_new_users_24h * 14.0 / (merchant_new_users_before + 1) AS merchant_new_users_burst_24h,
    merchant_dear_by_new_users_3d * 14.0 / 3.0 / (merchant_dear_by_new_users_before + 1) AS merchant_dear_by_new_users_burst_3d,
    merchant_dear_round_by_new_users_3d * 14.0 / 3.0 / (merchant_dear_round_by_new_users_before + 1) AS merchant_dear_round_burst_3d,
    merchant_new_users_24h / CAST(merchant_activity_24h AS DOUBLE) AS merchant_new_share_24h,
    merchant_new_users_3d / CAST(merchant_activity_3d AS DOUBLE) AS merchant_new_share_3d,
    merchant_new_users_before / CAST(nullif(merchant_activity_before, 0) AS DOUBLE) AS merchant_new_share_before,
    merchant_round_24h / CAST(merchant_activity_24h AS DOUBLE) AS merchant_round_share_24h,
    merchant_round_3d / CAST(merchant_activity_3d AS DOUBLE) AS merchant_round_share_3d,
    merchant_round_before / CAST(nullif(merchant_activity_before, 0) AS DOUBLE) AS merchant_round_share_before
FROM counted
