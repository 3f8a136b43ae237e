-- A sale is paid when it is invoiced. What cost nothing is completed without a payment. Derived: no source row of its own.

SELECT invoice_no AS row_key,
       occurred_at,
       'report_payment' AS command,
       {
           'payment_id': 'P' || invoice_no,
           'order_id': invoice_no,
           'status': 'succeeded',
           'amount_minor': total_minor,
           'currency': 'GBP'
       } AS fields,
       0 AS source_rows
FROM invoices
WHERE kind = 'sale' AND NOT written_off AND total_minor > 0
