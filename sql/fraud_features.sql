-- What one transaction says, and what it says beside the user's last minutes, hours and days. Every number is as of the
-- transaction itself: a row sees what came before it. The label is_fraud is carried along for training and goes into no feature.
WITH read AS (
    SELECT
        *,
        -- Rough rates are enough: the model needs the order of magnitude of an amount, not the day's price.
        amount / CASE currency
            WHEN 'EUR' THEN 0.92 WHEN 'GBP' THEN 0.80 WHEN 'CHF' THEN 0.90 WHEN 'CAD' THEN 1.36 WHEN 'AUD' THEN 1.50
            WHEN 'NZD' THEN 1.65 WHEN 'SGD' THEN 1.34 WHEN 'AED' THEN 3.67 WHEN 'PLN' THEN 4.00 WHEN 'RON' THEN 4.60
            WHEN 'BRL' THEN 5.00 WHEN 'DKK' THEN 6.90 WHEN 'CNY' THEN 7.20 WHEN 'SEK' THEN 10.4 WHEN 'NOK' THEN 10.6
            WHEN 'MXN' THEN 17.0 WHEN 'ZAR' THEN 18.5 ELSE 1.0
        END AS amount_usd,
        -- The currency that is paid with at this place.
        CASE
            WHEN location IN ('DE', 'FR', 'ES', 'IT', 'NL', 'IE', 'PT', 'AT', 'GR', 'BE', 'FI') THEN 'EUR'
            WHEN location = 'US' THEN 'USD' WHEN location = 'GB' THEN 'GBP' WHEN location = 'CA' THEN 'CAD'
            WHEN location = 'AU' THEN 'AUD' WHEN location = 'BR' THEN 'BRL' WHEN location = 'PL' THEN 'PLN'
            WHEN location = 'MX' THEN 'MXN' WHEN location = 'SE' THEN 'SEK' WHEN location = 'NO' THEN 'NOK'
            WHEN location = 'DK' THEN 'DKK' WHEN location = 'CH' THEN 'CHF' WHEN location = 'AE' THEN 'AED'
            WHEN location = 'SG' THEN 'SGD' WHEN location = 'NZ' THEN 'NZD' WHEN location = 'ZA' THEN 'ZAR'
            WHEN location = 'RO' THEN 'RON' WHEN location = 'CN' THEN 'CNY'
        END AS local_currency,
        CAST(date_part('hour', "timestamp") AS DOUBLE) AS hour_of_day,
        CAST(date_part('minute', "timestamp") AS DOUBLE) AS minute_of_hour,
        -- 0 is Sunday.
        CAST(date_part('dow', "timestamp") AS DOUBLE) AS day_of_week
    FROM transactions
),
history AS (
    SELECT
        *,
        count(*) OVER hour_1 AS user_activity_1h,
        count(*) OVER day_1 AS user_activity_24h,
        count(*) OVER day_7 AS user_activity_7d,
        sum(amount_usd) OVER hour_1 AS user_spent_1h,
        sum(amount_usd) OVER day_1 AS user_spent_24h,
        sum(amount_usd) OVER day_7 AS user_spent_7d,
        count(DISTINCT merchant) OVER day_1 AS user_merchants_24h,
        count(DISTINCT merchant) OVER day_7 AS user_merchants_7d,
        count(DISTINCT location) OVER day_1 AS user_countries_24h,
        count(DISTINCT location) OVER day_7 AS user_countries_7d,
        count(*) FILTER (WHERE amount_usd < 3) OVER (
            PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW
        ) AS user_micro_payments_10m,
        -- The seven before this one: it is not compared with itself.
        avg(amount_usd) OVER last_7 AS avg_amount_last_7,
        max(amount_usd) OVER last_7 AS max_amount_last_7,
        count(*) OVER last_7 AS num_last_7,
        avg(amount_usd) OVER before_30 AS avg_amount_before,
        stddev(amount_usd) OVER before_30 AS stddev_amount_before,
        lag(location) OVER in_order AS last_location,
        lag(merchant) OVER in_order AS last_merchant,
        lag("timestamp") OVER in_order AS last_timestamp,
        -- How often the user was here, at this merchant or in this country, before.
        row_number() OVER (PARTITION BY user_id, merchant ORDER BY "timestamp") AS visit_of_merchant,
        row_number() OVER (PARTITION BY user_id, location ORDER BY "timestamp") AS visit_of_country
    FROM read
    WINDOW
        in_order AS (PARTITION BY user_id ORDER BY "timestamp"),
        hour_1 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
        day_1 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
        day_7 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
        last_7 AS (PARTITION BY user_id ORDER BY "timestamp" ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING),
        before_30 AS (PARTITION BY user_id ORDER BY "timestamp" ROWS BETWEEN 30 PRECEDING AND 1 PRECEDING)
)
-- Whatever else the source has, such as the label or a device, passes as it is.
SELECT
    * EXCLUDE (
        local_currency, minute_of_hour, max_amount_last_7, avg_amount_before, stddev_amount_before,
        last_location, last_merchant, last_timestamp
    ),
    ln(1.0 + amount_usd) AS amount_log,
    CASE
        WHEN amount_usd < 2 THEN 0.0 WHEN amount_usd < 10 THEN 1.0 WHEN amount_usd < 50 THEN 2.0
        WHEN amount_usd < 200 THEN 3.0 WHEN amount_usd < 1000 THEN 4.0 ELSE 5.0
    END AS amount_bucket,
    CASE WHEN amount < 2 THEN 1.0 ELSE 0.0 END AS is_micro_amount,
    CASE WHEN amount = floor(amount) THEN 1.0 ELSE 0.0 END AS is_whole_amount,
    hour_of_day + minute_of_hour / 60.0 AS time_of_day,
    CASE WHEN hour_of_day < 6 OR hour_of_day >= 22 THEN 1.0 ELSE 0.0 END AS is_night,
    CASE WHEN day_of_week IN (0, 6) THEN 1.0 ELSE 0.0 END AS is_weekend,
    -- Null where the place is not known: the model has a way of its own for that.
    CASE WHEN local_currency IS NULL THEN NULL WHEN local_currency <> currency THEN 1.0 ELSE 0.0 END AS is_cross_border,
    CASE
        WHEN location IS NULL THEN NULL
        WHEN location IN ('US', 'CA', 'MX') THEN 0.0 WHEN location = 'BR' THEN 1.0
        WHEN location IN ('GB', 'IE', 'DE', 'FR', 'ES', 'IT', 'NL', 'PT', 'AT', 'GR', 'PL', 'RO', 'SE', 'NO', 'DK', 'CH') THEN 2.0
        WHEN location IN ('AU', 'NZ', 'SG', 'CN') THEN 3.0 WHEN location IN ('AE', 'ZA') THEN 4.0 ELSE 5.0
    END AS region,
    CASE currency WHEN 'USD' THEN 0.0 WHEN 'EUR' THEN 1.0 WHEN 'GBP' THEN 2.0 ELSE 3.0 END AS currency_group,
    -- What a merchant sells, as far as its name says so.
    CASE
        WHEN merchant IS NULL THEN NULL
        WHEN merchant LIKE '%Electronics%' OR merchant LIKE '%Computers%' OR merchant LIKE '%Mobile%' OR merchant LIKE '%Audio%' THEN 1.0
        WHEN merchant LIKE '%Travel%' OR merchant LIKE '%Hotels%' OR merchant LIKE '%Airways%' OR merchant LIKE '%Rentals%' THEN 2.0
        WHEN merchant LIKE '%Games%' OR merchant LIKE '%Media%' OR merchant LIKE '%Apps%' OR merchant LIKE '%Cloud%' THEN 3.0
        WHEN merchant LIKE '%Apparel%' OR merchant LIKE '%Tailors%' OR merchant LIKE '%Shoes%' OR merchant LIKE '%Outfitters%' THEN 4.0
        WHEN merchant LIKE '%Coffee%' OR merchant LIKE '%Bakery%' OR merchant LIKE '%Kiosk%' OR merchant LIKE '%Vending%' THEN 5.0
        ELSE 0.0
    END AS merchant_kind,
    CASE
        WHEN merchant IS NULL THEN NULL
        WHEN merchant IN ('QuickCash', 'GlobalDigital', 'FastMoneyX') THEN 1.0 ELSE 0.0
    END AS is_watched_merchant,
    -- Against what the user usually spends; null before there is anything to compare with.
    amount_usd / nullif(avg_amount_last_7, 0.0) AS amount_to_avg_ratio,
    amount_usd / nullif(max_amount_last_7, 0.0) AS amount_to_max_ratio,
    (amount_usd - avg_amount_before) / nullif(stddev_amount_before, 0.0) AS amount_z_score,
    CAST(to_unixtime("timestamp") - to_unixtime(last_timestamp) AS DOUBLE) AS time_since_last_txn,
    CASE WHEN last_location IS NULL OR location IS NULL THEN NULL WHEN location <> last_location THEN 1.0 ELSE 0.0 END AS is_new_country_since_last,
    CASE WHEN last_merchant IS NULL OR merchant IS NULL THEN NULL WHEN merchant <> last_merchant THEN 1.0 ELSE 0.0 END AS is_new_merchant_since_last
FROM history
