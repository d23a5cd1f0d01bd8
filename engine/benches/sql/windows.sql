-- Five windows over what a row says by itself (the pipeline's features without its windows): what most scores of fraud begin with.
SELECT
    *,
    count(*) OVER day_1 AS user_activity_24h,
    sum(amount_usd) OVER day_1 AS user_spent_24h,
    max(amount_usd) OVER day_1 AS user_largest_24h,
    avg(amount_usd) OVER last_6 AS avg_amount_last_6,
    lag(amount_usd) OVER in_order AS last_amount
FROM by_itself
WINDOW
    in_order AS (PARTITION BY user_id ORDER BY "timestamp"),
    day_1 AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
    last_6 AS (PARTITION BY user_id ORDER BY "timestamp" ROWS BETWEEN 5 PRECEDING AND CURRENT ROW)
