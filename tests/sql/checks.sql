-- case comparison
a BETWEEN 1 AND 10
-- case function
length(id) = 3 AND x > 0
-- case mixed case
"userId" > 0
-- case unknown column
amount > 0
-- case not a condition
a + 1
-- case two conditions
a > 0, b > 0
-- case a statement
SELECT 1
-- case score
score('m', a) > 0.5
-- case aggregate
sum(a) > 3
-- case now
time < now()
-- case subquery
id IN (SELECT id FROM others)
-- case window
lag(a) OVER () > 3
-- case syntax
a >
-- case hidden
__tm_offset > 3
-- case types
flag > time
