-- case group by
SELECT id, count(*) AS n
FROM events
GROUP BY id
-- case aggregate without group by
SELECT sum(a) AS total FROM events
-- case having
SELECT id FROM events HAVING a > 1
-- case distinct
SELECT DISTINCT id FROM events
-- case order by
SELECT id
FROM events
ORDER BY a DESC
-- case limit
SELECT id FROM events LIMIT 5
-- case offset
SELECT id FROM events OFFSET 5
-- case fetch
SELECT id FROM events FETCH FIRST 5 ROWS ONLY
-- case top
SELECT TOP 5 id FROM events
-- case join
SELECT e.id
FROM events AS e
JOIN others AS o ON e.id = o.id
-- case comma join
SELECT e.id FROM events AS e, others AS o
-- case union
SELECT id FROM events
UNION
SELECT id FROM others
-- case intersect
SELECT id FROM events INTERSECT SELECT id FROM others
-- case except
SELECT id FROM events EXCEPT SELECT id FROM others
-- case values
SELECT column1 AS c FROM (VALUES (1), (2)) AS t
-- case bare values
VALUES (1)
-- case without from
SELECT 1 AS one
-- case scalar subquery
SELECT id, (SELECT max(a) FROM others) AS m FROM events
-- case in subquery
SELECT id FROM events WHERE id IN (SELECT id FROM others LIMIT 3)
-- case exists
SELECT id FROM events WHERE EXISTS (SELECT 1 FROM others)
-- case window without order
SELECT id, avg(x) OVER (PARTITION BY id) AS m FROM events
-- case window ordered by another column
SELECT id, avg(x) OVER (PARTITION BY id ORDER BY a ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS m FROM events
-- case window ordered by a computed time
SELECT id, lag(x) OVER (PARTITION BY id ORDER BY later) AS l
FROM (SELECT id, x, time + INTERVAL '1 hour' AS later FROM events) AS shifted
-- case window in descending order
SELECT id, lag(x) OVER (PARTITION BY id ORDER BY time DESC) AS l FROM events
-- case window ordered by two columns
SELECT id, lag(x) OVER (PARTITION BY id ORDER BY time, a) AS l FROM events
-- case window without the partitions' key
SELECT id,
    sum(x) OVER (PARTITION BY a ORDER BY time ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS s
FROM events
-- case window over all rows
SELECT id, sum(x) OVER (ORDER BY time ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS s FROM events
-- case window by a computed key
SELECT id, lag(x) OVER (PARTITION BY upper(id) ORDER BY time) AS l FROM events
-- case following
SELECT id, sum(x) OVER (PARTITION BY id ORDER BY time ROWS BETWEEN 3 PRECEDING AND 1 FOLLOWING) AS s FROM events
-- case unbounded following
SELECT id, last_value(x) OVER (PARTITION BY id ORDER BY time RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS s
FROM events
-- case groups
SELECT id, sum(x) OVER (PARTITION BY id ORDER BY time GROUPS BETWEEN 3 PRECEDING AND CURRENT ROW) AS s FROM events
-- case months
SELECT id, sum(x) OVER (PARTITION BY id ORDER BY time RANGE BETWEEN INTERVAL '1 month' PRECEDING AND CURRENT ROW) AS s
FROM events
-- case lead
SELECT id, lead(x) OVER (PARTITION BY id ORDER BY time) AS l FROM events
-- case rank
SELECT id, rank() OVER (PARTITION BY id ORDER BY time) AS l FROM events
-- case lag without a window
SELECT id, lag(x) AS l FROM events
-- case unknown function over a window
SELECT id, summ(x) OVER (PARTITION BY id ORDER BY time) AS l FROM events
-- case ignore nulls
SELECT id, lag(x) IGNORE NULLS OVER (PARTITION BY id ORDER BY time) AS l FROM events
-- case count distinct without a bound
SELECT id, count(DISTINCT a) OVER (PARTITION BY id ORDER BY time) AS n FROM events
-- case median without a bound
SELECT id, median(x) OVER (PARTITION BY id ORDER BY time) AS m FROM events
-- case distinct that nobody heeds
SELECT id, corr(DISTINCT x, b) OVER (PARTITION BY id ORDER BY time ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS n FROM events
-- case order inside an aggregate
SELECT id, array_agg(x ORDER BY a) OVER (PARTITION BY id ORDER BY time ROWS 3 PRECEDING) AS n FROM events
-- case lag by a column
SELECT id, lag(x, a) OVER (PARTITION BY id ORDER BY time) AS l FROM events
-- case window over a source without event time
SELECT id, lag(x) OVER (PARTITION BY id ORDER BY a) AS l FROM others
-- case window over two sources
SELECT id, lag(a) OVER (PARTITION BY id ORDER BY time) AS l
FROM (SELECT id, a, time FROM events UNION ALL SELECT id, a, CAST(b AS TIMESTAMP) FROM others) AS both
-- case window over a score
SELECT id, max(s) OVER (PARTITION BY id ORDER BY time) AS m
FROM (SELECT id, time, score('fraud', x) AS s FROM events) AS scored
-- case window below a condition on a score
SELECT id, count(*) OVER (PARTITION BY id ORDER BY time) AS n
FROM (SELECT id, time FROM events WHERE score('fraud', x) > 0.5) AS scored
-- case recursive
WITH RECURSIVE t AS (SELECT 1 AS n FROM events UNION ALL SELECT n + 1 FROM t) SELECT n FROM t
-- case now
SELECT id, now() AS at FROM events
-- case current date
SELECT id FROM events WHERE time < current_date()
-- case current timestamp
SELECT id FROM events WHERE time < CURRENT_TIMESTAMP
-- case random
SELECT id FROM events WHERE random() < 0.1
-- case uuid
SELECT uuid() AS id FROM events
-- case table function
SELECT value FROM generate_series(1, 10)
-- case schema
SELECT table_name FROM information_schema.tables
-- case unknown table
SELECT id FROM evnts
-- case a later view
SELECT id FROM v
-- case unknown column
SELECT id,
       amonut,
       frist
FROM (SELECT id, a AS amount, b AS first FROM events) AS t
-- case unknown column in where
SELECT id FROM events WHERE tme > 3
-- case a column in mixed case
SELECT userId FROM events
-- case unknown qualifier
SELECT o.id FROM events AS e
-- case unknown function
SELECT id, lenght(id) AS l FROM events
-- case hidden column
SELECT id, __tm_offset FROM events
-- case hidden alias
SELECT id AS "__TM_unit" FROM events
-- case no name
SELECT id, a * 2 FROM events
-- case doubled name
SELECT id, a AS id FROM events
-- case doubled by wildcard
SELECT *, id FROM events
-- case types
SELECT id,
  flag + 1 AS f
FROM events
-- case types in where
SELECT id FROM events WHERE a
-- case types in a function
SELECT id, sqrt(time) AS s FROM events
-- case number of arguments
SELECT id, substr(id) AS s FROM events
-- case case of different types
SELECT id, CASE WHEN flag THEN time ELSE price END AS c FROM events
-- case two statements
SELECT id FROM events; SELECT id FROM others
-- case insert
INSERT INTO events VALUES (1)
-- case create table
CREATE TABLE t AS SELECT * FROM events
-- case drop
DROP TABLE events
-- case copy
COPY events TO 'x.parquet'
-- case set
SET datafusion.execution.batch_size = 1
-- case explain
EXPLAIN SELECT id FROM events
-- case empty

-- case only a comment
-- nothing here
-- case syntax
SELECT id,, a FROM events
-- case syntax at the end
SELECT id FROM events WHERE
-- case unclosed string
SELECT 'abc FROM events
-- case parameter
SELECT id FROM events WHERE a = $1
-- case sample
SELECT id FROM events TABLESAMPLE SYSTEM (10)
-- case lateral
SELECT e.id FROM events AS e, LATERAL (SELECT e.a) AS l
-- case unions of different width
SELECT id, a FROM events UNION ALL SELECT id FROM others
-- case several at once
SELECT DISTINCT id, now() AS n
FROM events
ORDER BY id
LIMIT 3
-- case a pattern that is none
SELECT id FROM events WHERE id ~ '('
-- case similar to
SELECT id FROM events WHERE id SIMILAR TO 'a%'
-- case like with escape
SELECT id FROM events WHERE id LIKE 'a#%' ESCAPE '#'
-- case a constant that cannot be converted
SELECT id FROM events WHERE a = CAST('x' AS INT)
-- case a type that is none
SELECT id, CAST(a AS money) AS m FROM events
