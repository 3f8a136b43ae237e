-- At noon of its day; a second use of the same coupon an hour later. Second uses are sent like any other: the engine
-- refuses them (already_redeemed), because one coupon is redeemed for one order once.

SELECT redemption_id AS row_key,
       (redemption_date + INTERVAL 12 HOUR + (use_no - 1) * INTERVAL 1 HOUR)
           AT TIME ZONE 'America/New_York' AS occurred_at,
       'redeem_coupon' AS command,
       {
           'coupon_id': coupon_id('t' || campaign_id || '-' || coupon_upc, household_id, 1),
           'order_id': 'r' || redemption_id
       } AS fields
FROM redemptions
