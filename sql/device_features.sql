-- The device of a purchase, where there is one (card-present purchases have none): is it the user's own, since when, and what was
-- bought on new ones just now? It reads the rows of account_features.sql.
WITH seen AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY user_id, device_id ORDER BY "timestamp") AS nth_on_device,
        to_unixtime("timestamp") - to_unixtime(first_value("timestamp") OVER (
            PARTITION BY user_id, device_id ORDER BY "timestamp" ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        )) AS seconds_on_device
    FROM account
),
judged AS (
    SELECT *, device_id IS NOT NULL AND seconds_on_device < 86400 AS is_on_new_device
    FROM seen
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
        count(*) OVER device_31d AS on_device_31d
    FROM judged
    WINDOW
        hours_6 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '6 hours' PRECEDING AND CURRENT ROW),
        day_1 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
        day_31 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND CURRENT ROW),
        device_31d AS (PARTITION BY user_id, device_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND CURRENT ROW)
)
SELECT
    * EXCLUDE (nth_on_device, seconds_on_device, is_on_new_device, on_devices_24h, on_devices_31d, on_device_31d),
    CASE WHEN device_id IS NULL THEN 0.0 ELSE 1.0 END AS has_device,
    CASE WHEN device_id IS NULL THEN NULL ELSE nth_on_device END AS visit_of_device,
    CASE WHEN device_id IS NULL THEN NULL ELSE CAST(seconds_on_device AS DOUBLE) END AS time_on_device,
    CASE WHEN device_id IS NULL THEN NULL ELSE on_device_31d / CAST(on_devices_31d AS DOUBLE) END AS user_share_on_device_31d,
    on_devices_24h - user_on_new_devices_6h AS user_on_known_devices_24h
FROM history
