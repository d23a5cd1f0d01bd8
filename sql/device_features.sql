-- The device of a purchase, where there is one (card-present purchases have none): is it the user's own, since when, and what was
-- bought on new ones just now? And as a purchase without a device is one in person: was the user in a shop elsewhere today?
-- It reads the rows of account_features.sql.
WITH seen AS (
    SELECT
        *,
        device_id IS NULL AS is_in_shop,
        date_trunc('day', "timestamp") AS today, -- of UTC
        row_number() OVER (PARTITION BY user_id, device_id ORDER BY "timestamp") AS nth_on_device,
        to_unixtime("timestamp") - to_unixtime(first_value("timestamp") OVER (
            PARTITION BY user_id, device_id ORDER BY "timestamp" ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        )) AS seconds_on_device
    FROM account
),
judged AS (
    SELECT
        *,
        device_id IS NOT NULL AND seconds_on_device < 86400 AS is_on_new_device,
        lag(location) OVER shops AS last_shop_location,
        lag("timestamp") OVER shops AS last_shop_timestamp
    FROM seen
    WINDOW shops AS (PARTITION BY user_id, is_in_shop ORDER BY "timestamp")
),
history AS (
    SELECT
        *,
        count(device_id) OVER day_1 AS on_devices_24h,
        count(device_id) OVER day_31 AS on_devices_31d,
        count(DISTINCT device_id) OVER day_1 AS user_devices_24h,
        count(DISTINCT device_id) OVER day_31 AS user_devices_31d,
        count(*) FILTER (WHERE is_on_new_device) OVER hours_6 AS user_on_new_devices_6h,
        sum(above_own_usual_price) FILTER (WHERE is_on_new_device) OVER hours_6 AS user_dearer_on_new_devices_6h,
        count(*) OVER device_31d AS on_device_31d,
        count(*) FILTER (WHERE is_in_shop) OVER today AS in_shops_today,
        count(*) FILTER (WHERE is_in_shop) OVER here_today AS user_in_shops_here_today,
        count(*) FILTER (WHERE is_in_shop) OVER day_3 AS in_shops_3d,
        count(*) FILTER (WHERE is_in_shop) OVER here_3d AS in_shops_here_3d,
        count(*) FILTER (WHERE is_in_shop) OVER before AS in_shops_before,
        count(*) FILTER (WHERE is_in_shop) OVER here_before AS in_shops_here_before
    FROM judged
    WINDOW
        hours_6 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '6 hours' PRECEDING AND CURRENT ROW),
        day_1 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
        day_3 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW),
        day_31 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND CURRENT ROW),
        before AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND INTERVAL '1 day' PRECEDING),
        here_3d AS (PARTITION BY user_id, location ORDER BY "timestamp" RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW),
        here_before AS (
            PARTITION BY user_id, location ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND INTERVAL '1 day' PRECEDING
        ),
        -- The bounds only say how long a day has to be remembered.
        today AS (PARTITION BY user_id, today ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
        here_today AS (
            PARTITION BY user_id, location, today ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW
        ),
        device_31d AS (PARTITION BY user_id, device_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND CURRENT ROW)
)
SELECT
    * EXCLUDE (
        nth_on_device, seconds_on_device, is_on_new_device, on_devices_24h, on_devices_31d, on_device_31d, is_in_shop, today,
        last_shop_location, last_shop_timestamp, in_shops_today, in_shops_3d, in_shops_here_3d, in_shops_before, in_shops_here_before
    ),
    CASE WHEN device_id IS NULL THEN 0.0 ELSE 1.0 END AS has_device,
    CASE WHEN device_id IS NULL THEN NULL ELSE nth_on_device END AS visit_of_device,
    CASE WHEN device_id IS NULL THEN NULL ELSE CAST(seconds_on_device AS DOUBLE) END AS time_on_device,
    CASE WHEN device_id IS NULL THEN NULL ELSE on_device_31d / CAST(on_devices_31d AS DOUBLE) END AS user_share_on_device_31d,
    on_devices_24h - user_on_new_devices_6h AS user_on_known_devices_24h,
    in_shops_today - user_in_shops_here_today AS user_in_shops_elsewhere_today,
    user_here_today - user_in_shops_here_today AS user_on_devices_here_today,
    in_shops_here_3d - user_in_shops_here_today AS user_in_shops_here_3d_before_today,
    in_shops_3d - in_shops_here_3d AS user_in_shops_elsewhere_3d,
    in_shops_here_before / CAST(nullif(in_shops_before, 0) AS DOUBLE) AS user_share_of_shops_here_before,
    CASE
        WHEN is_in_shop AND location <> last_shop_location THEN CAST(to_unixtime("timestamp") - to_unixtime(last_shop_timestamp) AS DOUBLE)
    END AS time_since_shop_elsewhere
FROM history
