-- A view.
SELECT a, amount FROM t WHERE amount > 1
