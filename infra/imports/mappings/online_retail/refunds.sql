-- Credit notes name no invoice: refunds without an order. Quantities and amounts are negative in the source.

WITH told AS (
    SELECT invoice_no, list({
               'line_id': CAST(line_id AS VARCHAR),
               'quantity': -quantity,
               'amount_minor': -amount_minor
           } ORDER BY line_id) AS lines
    FROM retail_lines GROUP BY invoice_no
)
SELECT invoice_no AS row_key,
       occurred_at,
       'report_refund' AS command,
       {
           'refund_id': invoice_no,
           'amount_minor': -total_minor,
           'currency': 'GBP',
           'exact_amount': CAST(-total_exact AS VARCHAR),
           'lines': lines
       } AS fields,
       total_exact AS amount,
       total_minor AS booked_minor,
       n_lines AS source_rows
FROM invoices JOIN told USING (invoice_no)
WHERE kind = 'credit'
