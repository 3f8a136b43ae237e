-- One order per sale invoice, a guest's where no customer is named. Amounts are booked per line, rounded half-even;
-- the exact amount travels with the line. Stock write-offs are not sales: parked.

WITH told AS (
    SELECT invoice_no, list({
               'line_id': CAST(line_id AS VARCHAR),
               'sku': stock_code,
               'category': line_kind,
               'quantity': quantity,
               'unit_price_minor': unit_price_minor,
               'amount_minor': amount_minor,
               'exact_amount': CAST(exact AS VARCHAR)
           } ORDER BY line_id) AS lines
    FROM retail_lines GROUP BY invoice_no
)
SELECT invoice_no AS row_key,
       occurred_at,
       'place_order' AS command,
       {'order_id': invoice_no, 'user_id': customer_id, 'currency': 'GBP', 'lines': lines} AS fields,
       CASE WHEN written_off THEN 'negative_quantity' END AS set_aside,
       'stock write-off at no price: quantity ' || quantity AS detail,
       total_exact AS amount,
       total_minor AS booked_minor,
       n_lines AS source_rows
FROM invoices JOIN told USING (invoice_no)
WHERE kind = 'sale'
