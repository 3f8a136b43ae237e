-- Everything is mailed on the campaign's first day.

SELECT template_id || ':' || household_id AS row_key,
       opens_at AS occurred_at,
       'claim_coupon' AS command,
       {
           'template_id': template_id,
           'user_id': CAST(household_id AS VARCHAR),
           'channel': 'import',
           'reference': origin
       } AS fields
FROM issues JOIN windows USING (campaign_id)
