-- What the statements share: each line with its exact amount and what is booked for it, and each invoice's sums.
-- A whole invoice counts as written off when any of its quantities is negative: those are stock movements at no price.

CREATE TABLE retail_lines AS
SELECT line_id, invoice_no, kind, line_kind, stock_code, description, quantity, invoiced_at, customer_id,
       CAST(quantity * unit_price AS DECIMAL(18, 3)) AS exact,
       half_even(unit_price * 100) AS unit_price_minor,
       half_even(CAST(quantity * unit_price AS DECIMAL(18, 3)) * 100) AS amount_minor
FROM lines;

CREATE TABLE invoices AS
SELECT invoice_no,
       any_value(kind) AS kind,
       min(invoiced_at) AT TIME ZONE 'Europe/London' AS occurred_at,  -- 43 invoices span two minutes: the first counts.
       CAST(any_value(customer_id) AS VARCHAR) AS customer_id,
       trim(any_value(description)) AS first_description,
       count(*) AS n_lines,
       sum(quantity) AS quantity,
       sum(exact) AS total_exact,
       CAST(sum(amount_minor) AS BIGINT) AS total_minor,
       bool_or(kind = 'sale' AND quantity < 0) AS written_off
FROM retail_lines GROUP BY invoice_no;
