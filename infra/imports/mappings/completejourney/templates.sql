-- One template per coupon of a campaign. What it takes off is not in the data: one cent, the least that terms accept;
-- nothing is ever priced with it, because every redemption is external. Stock and limit are what was mailed.

SELECT 't' || campaign_id || '-' || coupon_upc AS row_key,
       opens_at AS occurred_at,
       'create_template' AS command,
       {
           'template_id': 't' || campaign_id || '-' || coupon_upc,
           'terms': {
               'name': 'Coupon ' || coupon_upc || ' of campaign ' || campaign_id,
               'campaign_id': CAST(campaign_id AS VARCHAR),
               'currency': 'USD',
               'zone': 'America/New_York',
               'discount': {'kind': 'amount_off', 'amount_minor': 1},
               'stock': coalesce(mailed, 0),
               'claims_per_user_max': 1,
               'claim_from': instant(opens_at),
               'claim_until': instant(closes_at),
               'validity': {'kind': 'fixed', 'valid_from': instant(opens_at), 'valid_until': instant(closes_at)}
           }
       } AS fields
FROM coupons
JOIN windows USING (campaign_id)
LEFT JOIN (SELECT campaign_id, coupon_upc, count(*) AS mailed FROM issues GROUP BY ALL) USING (campaign_id, coupon_upc)
