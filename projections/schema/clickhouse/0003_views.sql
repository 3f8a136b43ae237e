-- What analysts ask first. Every view reads FINAL: a redelivered fact counts once.

-- Per template: how many there are, were claimed, refused, used and given back; amounts are of redeemed discounts.
CREATE OR REPLACE VIEW coupon_funnel AS
SELECT
    tenant_id,
    app_id,
    template_id,
    max(name) AS name,
    max(campaign_id) AS campaign_id,
    max(shop_id) AS shop_id,
    max(currency) AS currency,
    max(stock) AS stock, -- NULL: unlimited.
    sum(claimed) AS claimed,
    sum(refused) AS refused,
    sumMap(refused_by_code) AS refused_by_code,
    sum(locked) AS locked,
    sum(redeemed) AS redeemed,
    sum(released) AS released,
    sum(returned) AS returned,
    sum(expired) AS expired,
    sum(revoked) AS revoked,
    sum(redeemed_minor) AS redeemed_minor,
    sum(returned_minor) AS returned_minor
FROM
(
    SELECT
        tenant_id,
        app_id,
        template_id,
        argMaxIf(name, version, tells_terms = 1) AS name,
        argMaxIf(campaign_id, version, tells_terms = 1) AS campaign_id,
        argMaxIf(shop_id, version, tells_terms = 1) AS shop_id,
        argMaxIf(currency, version, tells_terms = 1) AS currency,
        tupleElement(argMaxIf(tuple(stock), version, tells_stock = 1), 1) AS stock, -- The tuple keeps NULL in the race.
        0 AS claimed,
        0 AS refused,
        CAST(map(), 'Map(String, Int64)') AS refused_by_code,
        0 AS locked,
        0 AS redeemed,
        0 AS released,
        0 AS returned,
        0 AS expired,
        0 AS revoked,
        0 AS redeemed_minor,
        0 AS returned_minor
    FROM template_facts FINAL
    GROUP BY tenant_id, app_id, template_id
    UNION ALL
    SELECT
        tenant_id,
        app_id,
        template_id,
        '' AS name,
        '' AS campaign_id,
        '' AS shop_id,
        '' AS currency,
        NULL AS stock,
        countIf(kind = 'claimed') AS claimed,
        0 AS refused,
        CAST(map(), 'Map(String, Int64)') AS refused_by_code,
        countIf(kind = 'locked') AS locked,
        countIf(kind = 'redeemed') AS redeemed,
        countIf(kind = 'released') AS released,
        countIf(kind = 'returned') AS returned,
        countIf(kind = 'expired') AS expired,
        countIf(kind = 'revoked') AS revoked,
        sumIf(discount_minor, kind = 'redeemed') AS redeemed_minor,
        sumIf(discount_minor, kind = 'returned') AS returned_minor
    FROM coupon_facts FINAL
    GROUP BY tenant_id, app_id, template_id
    UNION ALL
    SELECT
        tenant_id,
        app_id,
        template_id,
        '' AS name,
        '' AS campaign_id,
        '' AS shop_id,
        '' AS currency,
        NULL AS stock,
        0 AS claimed,
        sum(refusals) AS refused,
        CAST(sumMap(map(toString(code), refusals)), 'Map(String, Int64)') AS refused_by_code,
        0 AS locked,
        0 AS redeemed,
        0 AS released,
        0 AS returned,
        0 AS expired,
        0 AS revoked,
        0 AS redeemed_minor,
        0 AS returned_minor
    FROM
    (
        SELECT tenant_id, app_id, template_id, code, sum(refused) AS refusals
        FROM refusal_facts FINAL
        WHERE command = 'claim_coupon'
        GROUP BY tenant_id, app_id, template_id, code
    )
    GROUP BY tenant_id, app_id, template_id
)
GROUP BY tenant_id, app_id, template_id;

-- Money given away, per day (UTC): redeemed and reversed from the settlement ledger, net of both. external_minor is what
-- upstreams with a checkout of their own say they took off; it has no settlement and is in none of the others.
CREATE OR REPLACE VIEW spend AS
SELECT
    tenant_id,
    app_id,
    campaign_id,
    template_id,
    shop_id,
    source,
    currency,
    day,
    sum(redeemed) AS redeemed_minor,
    sum(reversed) AS reversed_minor,
    redeemed_minor - reversed_minor AS net_minor,
    sum(external) AS external_minor
FROM
(
    SELECT
        tenant_id,
        app_id,
        campaign_id,
        template_id,
        shop_id,
        source,
        currency,
        toDate(occurred_at, 'UTC') AS day,
        if(kind = 'recorded', discount_minor, 0) AS redeemed,
        if(kind = 'reversed', -discount_minor, 0) AS reversed,
        toInt64(0) AS external
    FROM settlement_facts FINAL
    UNION ALL
    SELECT
        tenant_id,
        app_id,
        campaign_id,
        template_id,
        shop_id,
        source,
        currency,
        toDate(occurred_at, 'UTC') AS day,
        toInt64(0) AS redeemed,
        toInt64(0) AS reversed,
        discount_minor AS external
    FROM coupon_facts FINAL
    WHERE kind = 'redeemed' AND coupon_facts.external = 1
)
GROUP BY tenant_id, app_id, campaign_id, template_id, shop_id, source, currency, day;

-- What happened to coupons, per day (UTC) and everything that reports group by.
CREATE OR REPLACE VIEW coupon_daily AS
SELECT
    tenant_id,
    app_id,
    toDate(occurred_at, 'UTC') AS day,
    template_id,
    campaign_id,
    shop_id,
    source,
    currency,
    countIf(kind = 'claimed') AS claimed,
    countIf(kind = 'locked') AS locked,
    countIf(kind = 'redeemed') AS redeemed,
    countIf(kind = 'released') AS released,
    countIf(kind = 'returned') AS returned,
    countIf(kind = 'expired') AS expired,
    countIf(kind = 'revoked') AS revoked,
    sumIf(discount_minor, kind = 'redeemed') AS redeemed_minor,
    sumIf(discount_minor, kind = 'returned') AS returned_minor
FROM coupon_facts FINAL
GROUP BY tenant_id, app_id, day, template_id, campaign_id, shop_id, source, currency;

-- Orders from placing to refund, per day (UTC) and currency, each by the day it happened.
CREATE OR REPLACE VIEW order_funnel AS
SELECT
    tenant_id,
    app_id,
    day,
    currency,
    countIf(what = 'placed') AS placed,
    countIf(what = 'cancelled') AS cancelled,
    countIf(what = 'ready') AS ready,
    countIf(what = 'refused') AS refused,
    countIf(what = 'completed') AS completed,
    countIf(what = 'completed_unredeemed') AS completed_unredeemed,
    countIf(what = 'released') AS released,
    countIf(what = 'refunded') AS refunded,
    sumIf(amount, what = 'placed') AS total_minor,
    sumIf(amount, what = 'completed') AS discount_minor,
    sumIf(amount, what = 'paid') AS paid_minor,
    -sumIf(amount, what = 'money_back') AS refunded_minor
FROM
(
    SELECT
        tenant_id, app_id, toDate(occurred_at, 'UTC') AS day, currency, toString(kind) AS what, total_minor AS amount
    FROM order_facts FINAL
    WHERE kind = 'placed' AND row_no = 0
    UNION ALL
    SELECT
        tenant_id,
        app_id,
        toDate(occurred_at, 'UTC') AS day,
        currency,
        toString(kind) AS what,
        if(kind = 'completed', discount_minor, 0) AS amount
    FROM checkout_facts FINAL
    WHERE entry = 'decision'
    UNION ALL
    SELECT tenant_id, app_id, toDate(occurred_at, 'UTC') AS day, currency, 'paid' AS what, amount_minor AS amount
    FROM payment_facts FINAL
    WHERE kind = 'succeeded'
    UNION ALL
    SELECT tenant_id, app_id, toDate(occurred_at, 'UTC') AS day, currency, 'money_back' AS what, amount_minor AS amount
    FROM refund_facts FINAL
    WHERE entry = 'refund'
    UNION ALL
    -- A cancellation does not say its currency: its order does.
    SELECT
        cancelled.tenant_id AS tenant_id,
        cancelled.app_id AS app_id,
        toDate(cancelled.occurred_at, 'UTC') AS day,
        placed.currency AS currency,
        'cancelled' AS what,
        toInt64(0) AS amount
    FROM (SELECT * FROM order_facts FINAL WHERE kind = 'cancelled') AS cancelled
    LEFT JOIN
    (
        SELECT tenant_id, app_id, order_id, any(currency) AS currency
        FROM order_facts FINAL
        WHERE kind = 'placed' AND row_no = 0
        GROUP BY tenant_id, app_id, order_id
    ) AS placed USING (tenant_id, app_id, order_id)
)
GROUP BY tenant_id, app_id, day, currency;

-- Every break with its present state; closed ones keep what they were about.
CREATE OR REPLACE VIEW breaks AS
SELECT
    tenant_id,
    app_id,
    break_id,
    if(argMax(break_facts.status, version) = 'closed', 'closed', 'open') AS status,
    argMaxIf(break_facts.kind, version, break_facts.status = 'opened') AS kind,
    argMaxIf(break_facts.severity, version, break_facts.status = 'opened') AS severity,
    argMaxIf(break_facts.subject, version, break_facts.status = 'opened') AS subject,
    argMaxIf(break_facts.currency, version, break_facts.status = 'opened') AS currency,
    argMaxIf(break_facts.amount_minor, version, break_facts.status = 'opened') AS amount_minor,
    argMaxIf(break_facts.detail, version, break_facts.status = 'opened') AS detail,
    argMaxIf(break_facts.event_ids, version, break_facts.status = 'opened') AS event_ids,
    argMaxIf(break_facts.since, version, break_facts.status = 'opened') AS since,
    maxIf(occurred_at, break_facts.status = 'opened') AS opened_at,
    if(status = 'closed', maxIf(occurred_at, break_facts.status = 'closed'), NULL) AS closed_at,
    if(status = 'closed', argMaxIf(break_facts.reason, version, break_facts.status = 'closed'), '') AS reason
FROM break_facts FINAL
GROUP BY tenant_id, app_id, break_id;
