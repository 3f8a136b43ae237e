-- Derived: templates are born as drafts. No source row of its own.

SELECT 't' || campaign_id || '-' || coupon_upc AS row_key,
       opens_at AS occurred_at,
       'activate_template' AS command,
       {'template_id': 't' || campaign_id || '-' || coupon_upc} AS fields,
       0 AS source_rows
FROM coupons JOIN windows USING (campaign_id)
