-- Not recorded: made five minutes before each redemption, for an order of our own naming. No source row of its own.

SELECT redemption_id AS row_key,
       (redemption_date + INTERVAL 11 HOUR + INTERVAL 55 MINUTE + (use_no - 1) * INTERVAL 1 HOUR)
           AT TIME ZONE 'America/New_York' AS occurred_at,
       'lock_coupon' AS command,
       {
           'coupon_id': coupon_id('t' || campaign_id || '-' || coupon_upc, household_id, 1),
           'order_id': 'r' || redemption_id,
           'discount_minor': 0,
           'lock_seconds': 3600
       } AS fields,
       0 AS source_rows
FROM redemptions
