-- case all columns
SELECT * FROM events
-- case columns and conditions
SELECT id, a + b AS s, upper(id) AS u
FROM events
WHERE a > 1 AND time >= '2026-01-01T00:00:00Z'
-- case an earlier view
SELECT * FROM earlier WHERE first > 3
-- case a column in mixed case, quoted
SELECT "userId", "userId" AS user FROM events
-- case common table expressions
WITH t AS (SELECT id, a FROM events WHERE a > 1), u AS (SELECT id, a * 2 AS twice FROM t)
SELECT id, twice FROM u WHERE twice > 10
-- case subquery in from
SELECT s.id FROM (SELECT id, flag FROM events) AS s WHERE s.flag
-- case renamed columns
SELECT t.k, t.n FROM (SELECT id, a FROM events) AS t (k, n)
-- case union all
SELECT id, a FROM events UNION ALL SELECT id, b FROM others
-- case unnest
SELECT id, unnest(string_to_array(id, ',')) AS part FROM events
-- case case and coalesce
SELECT id, CASE WHEN a > 5 THEN 'big' WHEN a IS NULL THEN 'none' ELSE 'small' END AS size, coalesce(x, 0) AS x FROM events
-- case dates
SELECT id, date_part('hour', time) AS hour, extract(dow FROM time) AS day, date_trunc('day', time) AS midnight FROM events
-- case interval
SELECT id, time + INTERVAL '1 hour' AS later FROM events WHERE time > TIMESTAMP '2026-01-01 00:00:00'
-- case like and regular expressions
SELECT id FROM events WHERE id LIKE 'a%' OR regexp_like(id, '^b[0-9]+$') OR id ~ 'c'
-- case in and between
SELECT id FROM events WHERE a IN (1, 2, 3) AND b NOT IN (4) AND x BETWEEN 0.5 AND 1.5
-- case guard
SELECT id FROM events WHERE b <> 0 AND a / b > 2
-- case score over a threshold
SELECT * FROM (SELECT id, score('m', a, x) AS p FROM events) AS s WHERE p >= 0.7
-- case score twice
SELECT id, score('m', a) AS p, score('m', a) >= 0.7 AS alert FROM events WHERE score('m', a) > 0.1
-- case decimal
SELECT id, price * 2 AS twice, round(CAST(price AS DOUBLE), 1) AS r FROM events
-- case casts
SELECT id, CAST(a AS VARCHAR) AS s, x::int AS n, try_cast(id AS BIGINT) AS t FROM events
-- case metadata
SELECT topic, key, headers FROM events
-- case struct and list
SELECT id, headers[1]['name'] AS header FROM events
-- case wildcards
SELECT * EXCEPT (headers, key), a * 2 AS twice FROM events
-- case qualified wildcard
SELECT e.* FROM events AS e
-- case comment and semicolon
-- the ids
SELECT id /* all of them */ FROM events;
-- case nothing passes
SELECT id FROM events WHERE false
-- case window
SELECT id, avg(x) OVER (PARTITION BY id ORDER BY time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS m
FROM events
-- case windows of two keys and many frames
SELECT id, topic,
    count(*) FILTER (WHERE x < 2.0) OVER (PARTITION BY id ORDER BY time RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW) AS micro,
    count(DISTINCT topic) OVER (PARTITION BY id ORDER BY time RANGE INTERVAL '7 days' PRECEDING) AS topics,
    avg(x) OVER (PARTITION BY id ORDER BY time ROWS BETWEEN 6 PRECEDING AND 1 PRECEDING) AS rolling,
    time - lag(time) OVER w AS since_last,
    sum(CASE WHEN flag THEN x END) OVER (PARTITION BY id, topic ORDER BY time ROWS 3 PRECEDING) AS flagged
FROM events
WINDOW w AS (PARTITION BY id ORDER BY time)
-- case qualify
SELECT id, x FROM events QUALIFY row_number() OVER (PARTITION BY id ORDER BY time) = 1
-- case window in a condition above it
SELECT id FROM (SELECT id, sum(x) OVER (PARTITION BY id ORDER BY time) AS s FROM events WHERE a > 0) AS t WHERE s > 10
-- case window on one side of a union
SELECT id, row_number() OVER (PARTITION BY id ORDER BY time) AS n FROM events WHERE a > 0
UNION ALL
SELECT id, 0 AS n FROM events WHERE a <= 0
-- case aggregates without a kernel
SELECT id,
    median(x) OVER day AS m,
    approx_percentile_cont(x, 0.9) OVER day AS p90,
    corr(x, b) OVER day AS c,
    array_agg(topic) OVER day AS topics,
    sum(price) FILTER (WHERE a > 0) OVER day AS spent,
    sum(DISTINCT a) OVER day AS a_sum,
    avg(x) OVER day AS mean
FROM events
WINDOW day AS (PARTITION BY id ORDER BY time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)
