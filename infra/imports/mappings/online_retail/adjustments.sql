-- Bad debt written off or corrected: signed, in favour of the merchant when positive.

SELECT invoice_no AS row_key,
       occurred_at,
       'report_adjustment' AS command,
       {
           'adjustment_id': invoice_no,
           'amount_minor': total_minor,
           'currency': 'GBP',
           'reason': first_description,
           'exact_amount': CAST(total_exact AS VARCHAR)
       } AS fields,
       total_exact AS amount,
       total_minor AS booked_minor,
       n_lines AS source_rows
FROM invoices
WHERE kind = 'adjustment'
