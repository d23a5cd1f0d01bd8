-- The device of a purchase, where there is one (card-present purchases have none): is it the user's own, since when, and what was
-- bought on new ones just now? And where the user was in person. It reads the rows of account_features.sql.
WITH seen AS (
    SELECT
        *,
        device_id IS NULL AS is_in_person,
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
        lag(location) OVER in_person AS last_location_in_person,
        lag("timestamp") OVER in_person AS last_timestamp_in_person
    FROM seen
    WINDOW in_person AS (PARTITION BY user_id, is_in_person ORDER BY "timestamp")
),
signed AS (
    SELECT
        *,
        is_in_person AND location <> last_location_in_person AS is_in_person_elsewhere,
        takeover_sign + CASE WHEN is_in_person THEN -0.5 WHEN is_on_new_device THEN 3.0 ELSE -0.3 END AS takeover_sign_by_device
    FROM judged
),
history AS (
    SELECT
        *,
        sum(takeover_sign_by_device) OVER hours_2 AS user_takeover_signs_by_device_2h,
        sum(takeover_sign_by_device) OVER hours_6 AS user_takeover_signs_by_device_6h,
        count(*) FILTER (WHERE is_in_person_elsewhere) OVER day_1 AS user_switches_in_person_24h,
        count(device_id) OVER day_1 AS on_devices_24h,
        count(device_id) OVER day_31 AS on_devices_31d,
        count(DISTINCT device_id) OVER day_1 AS user_devices_24h,
        count(DISTINCT device_id) OVER day_31 AS user_devices_31d,
        count(*) FILTER (WHERE is_on_new_device) OVER hours_6 AS user_on_new_devices_6h,
        sum(above_own_usual_price) FILTER (WHERE is_on_new_device) OVER hours_6 AS user_dearer_on_new_devices_6h,
        count(*) OVER device_31d AS on_device_31d
    FROM signed
    WINDOW
        hours_2 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '2 hours' PRECEDING AND CURRENT ROW),
        hours_6 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '6 hours' PRECEDING AND CURRENT ROW),
        day_1 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
        day_31 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND CURRENT ROW),
        device_31d AS (PARTITION BY user_id, device_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '31 days' PRECEDING AND CURRENT ROW)
)
SELECT
    * EXCLUDE (
        is_in_person, is_in_person_elsewhere, nth_on_device, seconds_on_device, is_on_new_device, last_location_in_person, last_timestamp_in_person,
        on_devices_24h, on_devices_31d, on_device_31d
    ),
    CASE WHEN is_in_person THEN 0.0 ELSE 1.0 END AS has_device,
    CASE WHEN device_id IS NOT NULL THEN nth_on_device END AS visit_of_device,
    CASE WHEN device_id IS NOT NULL THEN CAST(seconds_on_device AS DOUBLE) END AS time_on_device,
    CASE WHEN device_id IS NOT NULL THEN on_device_31d / CAST(on_devices_31d AS DOUBLE) END AS user_share_on_device_31d,
    on_devices_24h - user_on_new_devices_6h AS user_on_known_devices_24h,
    -- Since the user was last somewhere in person, where that was in another country: nobody travels in minutes.
    CASE
        WHEN is_in_person_elsewhere THEN CAST(to_unixtime("timestamp") - to_unixtime(last_timestamp_in_person) AS DOUBLE)
    END AS time_since_elsewhere_in_person
FROM history
