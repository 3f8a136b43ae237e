-- Who was mailed what. B and C campaigns: every household every coupon, as listed. A campaigns: 16 per household, which
-- 16 was not published: those that the household redeemed, then others of the campaign in the order of a digest.

CREATE TABLE windows AS
SELECT campaign_id, campaign_type,
       start_date::TIMESTAMP AT TIME ZONE 'America/New_York' AS opens_at,
       (end_date + 1)::TIMESTAMP AT TIME ZONE 'America/New_York' AS closes_at  -- The last day is inclusive.
FROM campaigns;

CREATE TABLE redeemed AS
SELECT DISTINCT campaign_id, household_id, coupon_upc FROM redemptions;

CREATE TABLE issues AS
WITH pool AS (
    SELECT campaign_id, household_id, coupon_upc, redeemed.coupon_upc IS NOT NULL AS redeemed,
           row_number() OVER (
               PARTITION BY campaign_id, household_id
               ORDER BY redeemed.coupon_upc IS NULL, md5(concat_ws(':', campaign_id, household_id, coupon_upc))
           ) AS place
    FROM windows
    JOIN campaign_households USING (campaign_id)
    JOIN coupons USING (campaign_id)
    LEFT JOIN redeemed USING (campaign_id, household_id, coupon_upc)
    WHERE campaign_type = 'A'
), listed AS (
    SELECT campaign_id, household_id, coupon_upc, redeemed, 'sixteen-per-household' AS origin FROM pool WHERE place <= 16
    UNION ALL
    SELECT campaign_id, household_id, coupon_upc, redeemed.coupon_upc IS NOT NULL, 'issues_bc'
    FROM issues_bc LEFT JOIN redeemed USING (campaign_id, household_id, coupon_upc)
)
SELECT *, 't' || campaign_id || '-' || coupon_upc AS template_id FROM listed;
