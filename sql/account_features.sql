-- The user's last hours seen with what is known of the merchants: prices against those that are usual there, tests of cards,
-- places. It reads the rows of merchant_features.sql behind a topic that is keyed by user again.
WITH placed AS (
    SELECT
        *,
        -- Whoever sells to one country alone, in its currency, is a shop there: its customers were there in person.
        merchant_share_from_here > 0.98 AND is_cross_border = 0.0 AS is_present,
        date_trunc('day', "timestamp") AS today -- of UTC
    FROM at_merchant
),
known AS (
    SELECT
        *,
        -- How much dearer than others this user buys at all, how often, and how often at new places: until a day ago, so that
        -- whoever takes an account over does not become its measure.
        avg(above_usual_price) OVER before AS user_above_usual_price_before,
        stddev(above_usual_price) OVER before AS user_price_spread_before,
        count(*) OVER before AS user_activity_before,
        count(*) FILTER (WHERE visit_of_merchant = 1) OVER before AS user_new_merchants_before,
        count(*) FILTER (WHERE is_present) OVER before AS user_present_before,
        above_usual_price - coalesce(avg(above_usual_price) OVER before, 0.0) AS above_own_usual_price,
        lag(location) OVER present AS last_present_location,
        lag("timestamp") OVER present AS last_present_timestamp
    FROM placed
    WINDOW
        before AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND INTERVAL '1 day' PRECEDING),
        present AS (PARTITION BY user_id, is_present ORDER BY "timestamp")
),
judged AS (
    SELECT
        *,
        is_present AND location <> last_present_location AS is_switch_of_country,
        -- How much more a purchase looks like one of many dear ones at new places than like one of this user's own.
        CASE WHEN visit_of_merchant = 1 THEN 1.0 ELSE -2.5 END
            + (1.25 * above_own_usual_price - 0.8) / (0.3 + merchant_log_spread * merchant_log_spread) AS takeover_sign
    FROM known
),
history AS (
    SELECT
        *,
        count(*) OVER hours_6 AS activity_6h,
        avg(above_usual_price) OVER hour_1 AS user_above_usual_price_1h,
        sum(above_own_usual_price) OVER hours_6 AS sum_above_own_usual_price_6h,
        sum(above_own_usual_price) FILTER (WHERE visit_of_merchant = 1) OVER hours_6 AS sum_above_own_usual_price_at_new_merchants_6h,
        min(above_own_usual_price) FILTER (WHERE visit_of_merchant = 1) OVER hours_6 AS min_above_own_usual_price_at_new_merchants_6h,
        sum(takeover_sign) OVER hours_2 AS user_takeover_signs_2h,
        sum(takeover_sign) OVER hours_6 AS user_takeover_signs_6h,
        count(*) FILTER (WHERE visit_of_merchant = 1 AND above_usual_price > 0.6) OVER hours_6 AS user_dear_at_new_merchants_6h,
        count(*) FILTER (WHERE visit_of_merchant = 1) OVER hours_6 AS user_new_merchants_6h,
        count(*) FILTER (WHERE is_micro) OVER hours_4 AS user_micro_4h,
        max(merchant_micro_by_new_users_1h) FILTER (WHERE is_micro) OVER hours_4 AS user_tested_4h,
        count(*) FILTER (WHERE is_switch_of_country) OVER day_1 AS user_switches_of_country_24h,
        count(*) FILTER (WHERE is_present) OVER hours_6 AS present_6h,
        count(*) FILTER (WHERE is_present) OVER day_1 AS present_24h,
        count(*) FILTER (WHERE is_present) OVER here_6h AS user_present_here_6h,
        count(*) FILTER (WHERE is_present) OVER here_24h AS user_present_here_24h,
        count(*) OVER here_6h AS here_6h,
        count(*) OVER here_24h AS user_here_24h,
        count(*) OVER here_14d AS here_14d,
        count(*) OVER day_14 AS activity_14d,
        lag("timestamp") OVER here AS last_here,
        -- A journey fills whole days; whoever was at home this morning is no traveller tonight.
        count(*) OVER today AS activity_today,
        count(*) OVER here_today AS user_here_today,
        count(*) FILTER (WHERE is_present) OVER today AS present_today,
        count(*) FILTER (WHERE is_present) OVER here_today AS present_here_today,
        count(*) OVER day_3 AS activity_3d,
        count(*) OVER here_3d AS here_3d,
        first_value("timestamp") OVER here_3d AS first_here
    FROM judged
    WINDOW
        hour_1 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
        hours_2 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '2 hours' PRECEDING AND CURRENT ROW),
        hours_4 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '4 hours' PRECEDING AND CURRENT ROW),
        hours_6 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '6 hours' PRECEDING AND CURRENT ROW),
        day_1 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
        day_3 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW),
        day_14 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '14 days' PRECEDING AND CURRENT ROW),
        here AS (PARTITION BY user_id, location ORDER BY "timestamp"),
        here_6h AS (PARTITION BY user_id, location ORDER BY "timestamp" RANGE BETWEEN INTERVAL '6 hours' PRECEDING AND CURRENT ROW),
        here_24h AS (PARTITION BY user_id, location ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
        here_3d AS (PARTITION BY user_id, location ORDER BY "timestamp" RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW),
        here_14d AS (PARTITION BY user_id, location ORDER BY "timestamp" RANGE BETWEEN INTERVAL '14 days' PRECEDING AND CURRENT ROW),
        -- The bounds only say how long a day has to be remembered.
        today AS (PARTITION BY user_id, today ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
        here_today AS (
            PARTITION BY user_id, location, today ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW
        )
)
SELECT
    * EXCLUDE (
        is_round, is_micro, is_switch_of_country, takeover_sign, last_present_location, last_present_timestamp, activity_6h, present_6h,
        present_24h, here_6h, here_14d, activity_14d, user_new_merchants_before, user_present_before, last_here,
        today, activity_today, present_today, present_here_today, activity_3d, here_3d, first_here
    ),
    -- 1 where the user is as busy as usual.
    activity_6h * 120.0 / (user_activity_before + 1) AS user_burst_6h,
    user_new_merchants_before / CAST(nullif(user_activity_before, 0) AS DOUBLE) AS user_new_share_before,
    user_present_before / CAST(nullif(user_activity_before, 0) AS DOUBLE) AS user_present_share_before,
    CASE WHEN is_present THEN 1.0 ELSE 0.0 END AS is_at_local_shop,
    -- Since the user was last in a shop, where that was in another country: nobody travels in minutes.
    CASE
        WHEN is_switch_of_country THEN CAST(to_unixtime("timestamp") - to_unixtime(last_present_timestamp) AS DOUBLE)
    END AS time_since_last_country,
    present_6h - user_present_here_6h AS user_present_elsewhere_6h,
    present_24h - user_present_here_24h AS user_present_elsewhere_24h,
    activity_6h - here_6h AS user_elsewhere_6h,
    here_14d / CAST(activity_14d AS DOUBLE) AS user_share_here_14d,
    CAST(to_unixtime("timestamp") - to_unixtime(last_here) AS DOUBLE) AS time_since_last_here,
    activity_today - user_here_today AS user_elsewhere_today,
    present_today - present_here_today AS user_present_elsewhere_today,
    -- What the user would have bought by this time of a usual day, less what was bought before.
    user_activity_before / 30.0 * time_of_day / 24.0 - (activity_today - 1) AS user_missing_today,
    here_3d - user_here_today AS user_here_3d_before_today,
    activity_3d - here_3d AS user_elsewhere_3d,
    CAST(to_unixtime("timestamp") - to_unixtime(first_here) AS DOUBLE) AS time_since_first_here_3d
FROM history
