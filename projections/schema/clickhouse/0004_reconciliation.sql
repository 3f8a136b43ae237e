-- Reconciliation: three ledgers and the money, as of any instant of recording.
--
-- Every view takes `as_of`: it sees only what was recorded by then, so yesterday's question has yesterday's answer for ever.
--   SELECT * FROM ledgers(as_of = now64(6))
--   SELECT * FROM break_payment_mismatch(as_of = toDateTime64('2031-05-01 00:00:00', 6, 'UTC'))
--
-- Each ledger has its own source, or a mismatch could never show: coupons from coupon events, settlement from settlement
-- events, payments and refunds from what the upstream told us, promises (what was frozen at placement) from checkouts.

-- What was told of each order: whether it stands, and what it cost before discounts.
CREATE OR REPLACE VIEW ledger_orders AS
SELECT
    tenant_id,
    app_id,
    order_id,
    countIf(kind = 'placed' AND row_no = 0) > 0 AS is_placed,
    argMaxIf(toString(kind), version, kind IN ('placed', 'cancelled', 'reopened')) = 'cancelled' AS is_cancelled,
    sumIf(total_minor, kind = 'placed') AS total_minor,
    maxIf(currency, kind = 'placed') AS currency,
    groupUniqArrayIf(10)(event_id, kind IN ('placed', 'cancelled', 'reopened')) AS event_ids,
    max(recorded_at) AS since
FROM order_facts FINAL
WHERE recorded_at <= {as_of:DateTime64(6, 'UTC')}
GROUP BY tenant_id, app_id, order_id;

-- What was promised and what became of it: the latest decision, and the amounts of the latest promise.
CREATE OR REPLACE VIEW ledger_checkouts AS
SELECT
    tenant_id,
    app_id,
    order_id,
    argMaxIf(toString(kind), version, kind != 'refunded') AS decision,
    countIf(kind = 'completed') > 0 AS is_completed,
    argMaxIf(payable_minor, version, kind IN ('ready', 'completed', 'completed_unredeemed')) AS payable_minor,
    argMaxIf(discount_minor, version, kind IN ('ready', 'completed', 'completed_unredeemed')) AS discount_minor,
    groupUniqArrayIf(100)(refund_id, kind = 'refunded') AS credited_refund_ids,
    max(currency) AS currency,
    groupUniqArray(10)(event_id) AS event_ids,
    max(recorded_at) AS since
FROM checkout_facts FINAL
WHERE entry = 'decision' AND recorded_at <= {as_of:DateTime64(6, 'UTC')}
GROUP BY tenant_id, app_id, order_id;

-- Money in, per order.
CREATE OR REPLACE VIEW ledger_payments AS
SELECT
    tenant_id,
    app_id,
    order_id,
    uniqExact(payment_id) AS payments,
    sum(amount_minor) AS paid_minor,
    max(currency) AS currency,
    groupUniqArray(10)(event_id) AS event_ids,
    max(recorded_at) AS since
FROM payment_facts FINAL
WHERE kind = 'succeeded' AND recorded_at <= {as_of:DateTime64(6, 'UTC')}
GROUP BY tenant_id, app_id, order_id;

-- Money back, per order (a positive amount here).
CREATE OR REPLACE VIEW ledger_refunds AS
SELECT
    tenant_id,
    app_id,
    order_id,
    groupUniqArray(100)(refund_id) AS refund_ids,
    -sum(amount_minor) AS refunded_minor,
    max(currency) AS currency,
    groupUniqArray(10)(event_id) AS event_ids,
    max(recorded_at) AS since
FROM refund_facts FINAL
WHERE entry = 'refund' AND order_id != '' AND recorded_at <= {as_of:DateTime64(6, 'UTC')}
GROUP BY tenant_id, app_id, order_id;

-- The coupon ledger, per order and coupon; upstreams that run their own checkout settle elsewhere.
CREATE OR REPLACE VIEW ledger_coupons AS
SELECT
    tenant_id,
    app_id,
    order_id,
    coupon_id,
    argMax(toString(kind), version) AS state,
    any(template_id) AS template_id,
    max(terms_version) AS terms_version,
    max(currency) AS currency,
    sumIf(discount_minor, kind = 'redeemed') AS redeemed_minor,
    argMax(lock_until, version) AS lock_until,
    groupUniqArray(10)(event_id) AS event_ids,
    max(recorded_at) AS since
FROM coupon_facts FINAL
WHERE kind IN ('locked', 'redeemed', 'released', 'returned')
    AND external = 0
    AND recorded_at <= {as_of:DateTime64(6, 'UTC')}
GROUP BY tenant_id, app_id, order_id, coupon_id;

-- The settlement ledger, per order and coupon.
CREATE OR REPLACE VIEW ledger_settlements AS
SELECT
    tenant_id,
    app_id,
    order_id,
    coupon_id,
    any(template_id) AS template_id,
    max(terms_version) AS terms_version,
    max(currency) AS currency,
    sumIf(discount_minor, kind = 'recorded') AS recorded_minor,
    -sumIf(discount_minor, kind = 'reversed') AS reversed_minor,
    groupUniqArray(10)(event_id) AS event_ids,
    max(recorded_at) AS since
FROM settlement_facts FINAL
WHERE recorded_at <= {as_of:DateTime64(6, 'UTC')}
GROUP BY tenant_id, app_id, order_id, coupon_id;

-- Everything about each order, side by side: what an analyst opens first.
CREATE OR REPLACE VIEW ledgers AS
SELECT
    tenant_id,
    app_id,
    order_id,
    max(currency) AS currency,
    max(is_placed) AS is_placed,
    max(is_cancelled) AS is_cancelled,
    max(decision) AS decision,
    max(is_completed) AS is_completed,
    sum(total_minor) AS total_minor,
    sum(payable_minor) AS payable_minor,
    sum(promised_minor) AS promised_minor,
    sum(redeemed_minor) AS redeemed_minor,
    sum(recorded_minor) AS recorded_minor,
    sum(reversed_minor) AS reversed_minor,
    sum(payments) AS payments,
    sum(paid_minor) AS paid_minor,
    sum(refunded_minor) AS refunded_minor,
    groupArrayArray(refund_ids) AS refund_ids,
    groupArrayArray(credited_refund_ids) AS credited_refund_ids,
    arrayDistinct(groupArrayArray(event_ids)) AS event_ids,
    max(since) AS since
FROM
(
    SELECT
        tenant_id, app_id, order_id, toString(currency) AS currency, toUInt8(is_placed) AS is_placed,
        toUInt8(is_cancelled) AS is_cancelled, '' AS decision, toUInt8(0) AS is_completed, total_minor,
        toInt64(0) AS payable_minor, toInt64(0) AS promised_minor, toInt64(0) AS redeemed_minor,
        toInt64(0) AS recorded_minor, toInt64(0) AS reversed_minor, toUInt64(0) AS payments,
        toInt64(0) AS paid_minor, toInt64(0) AS refunded_minor, CAST([], 'Array(String)') AS refund_ids,
        CAST([], 'Array(String)') AS credited_refund_ids, event_ids, since
    FROM ledger_orders(as_of = {as_of:DateTime64(6, 'UTC')})
    UNION ALL
    SELECT
        tenant_id, app_id, order_id, toString(currency), 0, 0, decision, toUInt8(is_completed), 0, payable_minor,
        discount_minor, 0, 0, 0, 0, 0, 0, [], credited_refund_ids, event_ids, since
    FROM ledger_checkouts(as_of = {as_of:DateTime64(6, 'UTC')})
    UNION ALL
    SELECT
        tenant_id, app_id, order_id, toString(currency), 0, 0, '', 0, 0, 0, 0, redeemed_minor, 0, 0, 0, 0, 0, [], [],
        event_ids, since
    FROM ledger_coupons(as_of = {as_of:DateTime64(6, 'UTC')})
    UNION ALL
    SELECT
        tenant_id, app_id, order_id, toString(currency), 0, 0, '', 0, 0, 0, 0, 0, recorded_minor, reversed_minor, 0, 0,
        0, [], [], event_ids, since
    FROM ledger_settlements(as_of = {as_of:DateTime64(6, 'UTC')})
    UNION ALL
    SELECT
        tenant_id, app_id, order_id, toString(currency), 0, 0, '', 0, 0, 0, 0, 0, 0, 0, payments, paid_minor, 0, [], [],
        event_ids, since
    FROM ledger_payments(as_of = {as_of:DateTime64(6, 'UTC')})
    UNION ALL
    SELECT
        tenant_id, app_id, order_id, toString(currency), 0, 0, '', 0, 0, 0, 0, 0, 0, 0, 0, 0, refunded_minor,
        refund_ids, [], event_ids, since
    FROM ledger_refunds(as_of = {as_of:DateTime64(6, 'UTC')})
)
GROUP BY tenant_id, app_id, order_id;

-- Typed breaks. Each view has the same columns: kind, severity, subject, currency, amount_minor, detail, event_ids, since.

-- Somebody paid (and has not got it back), but the promised discount was never redeemed.
CREATE OR REPLACE VIEW break_paid_not_redeemed AS
SELECT
    tenant_id, app_id, 'paid_not_redeemed' AS kind, 'critical' AS severity, order_id AS subject, currency,
    promised_minor AS amount_minor,
    concat('order ', order_id, ' is paid, its checkout is ', decision) AS detail,
    event_ids, since
FROM ledgers(as_of = {as_of:DateTime64(6, 'UTC')})
WHERE is_placed AND NOT is_cancelled AND NOT is_completed AND paid_minor > refunded_minor
    AND decision IN ('ready', 'released', 'completed_unredeemed');

-- A discount was given away although nobody paid what was left to pay.
CREATE OR REPLACE VIEW break_redeemed_not_paid AS
SELECT
    tenant_id, app_id, 'redeemed_not_paid' AS kind, 'critical' AS severity, order_id AS subject, currency,
    redeemed_minor AS amount_minor,
    concat('order ', order_id, ' redeemed coupons, but was never paid') AS detail,
    event_ids, since
FROM ledgers(as_of = {as_of:DateTime64(6, 'UTC')})
WHERE paid_minor = 0
    AND ((is_completed AND payable_minor > 0) OR (NOT is_completed AND redeemed_minor > 0));

-- The coupon ledger and the settlement ledger tell different discounts.
CREATE OR REPLACE VIEW break_discount_mismatch AS
SELECT
    tenant_id, app_id, 'discount_mismatch' AS kind, 'critical' AS severity,
    concat(order_id, ':', coupon_id) AS subject, max(currency) AS currency,
    sum(redeemed_minor) - sum(recorded_minor) AS amount_minor,
    concat('coupon ', coupon_id, ' of order ', order_id, ': the coupon says ', toString(sum(redeemed_minor)),
        ', the settlement ', toString(sum(recorded_minor))) AS detail,
    arrayDistinct(groupArrayArray(event_ids)) AS event_ids, max(since) AS since
FROM
(
    SELECT
        tenant_id, app_id, order_id, coupon_id, toString(currency) AS currency, redeemed_minor,
        toInt64(0) AS recorded_minor, event_ids, since
    FROM ledger_coupons(as_of = {as_of:DateTime64(6, 'UTC')})
    UNION ALL
    SELECT tenant_id, app_id, order_id, coupon_id, toString(currency), 0, recorded_minor, event_ids, since
    FROM ledger_settlements(as_of = {as_of:DateTime64(6, 'UTC')})
)
GROUP BY tenant_id, app_id, order_id, coupon_id
HAVING amount_minor != 0;

-- What was paid is not what was payable; of a cancelled order nothing is. A full refund settles it.
CREATE OR REPLACE VIEW break_payment_mismatch AS
SELECT
    tenant_id, app_id, 'payment_mismatch' AS kind, 'warning' AS severity, order_id AS subject, currency,
    if(is_cancelled AND NOT is_completed, paid_minor - refunded_minor, paid_minor - payable_minor) AS amount_minor,
    concat('order ', order_id, ': paid ', toString(paid_minor), ', payable ',
        if(is_cancelled AND NOT is_completed, '0 (cancelled)', toString(payable_minor))) AS detail,
    event_ids, since
FROM ledgers(as_of = {as_of:DateTime64(6, 'UTC')})
WHERE is_placed AND paid_minor > refunded_minor
    AND ((is_cancelled AND NOT is_completed)
        OR (decision IN ('completed', 'completed_unredeemed')
            AND (paid_minor < payable_minor OR (paid_minor > payable_minor AND payments = 1))));

-- More than one payment, and together more than was payable; settled when the excess went back.
CREATE OR REPLACE VIEW break_duplicate_payment AS
SELECT
    tenant_id, app_id, 'duplicate_payment' AS kind, 'warning' AS severity, order_id AS subject, currency,
    paid_minor - payable_minor AS amount_minor,
    concat('order ', order_id, ': ', toString(payments), ' payments, together ', toString(paid_minor), ' for ',
        toString(payable_minor)) AS detail,
    event_ids, since
FROM ledgers(as_of = {as_of:DateTime64(6, 'UTC')})
WHERE is_placed AND payments > 1 AND paid_minor > payable_minor AND refunded_minor < paid_minor - payable_minor
    AND decision IN ('completed', 'completed_unredeemed');

-- More money went back than came in.
CREATE OR REPLACE VIEW break_refund_exceeds_payment AS
SELECT
    tenant_id, app_id, 'refund_exceeds_payment' AS kind, 'warning' AS severity, order_id AS subject, currency,
    refunded_minor - paid_minor AS amount_minor,
    concat('order ', order_id, ': refunded ', toString(refunded_minor), ', paid ', toString(paid_minor)) AS detail,
    event_ids, since
FROM ledgers(as_of = {as_of:DateTime64(6, 'UTC')})
WHERE is_placed AND refunded_minor > paid_minor;

-- Refunded, but not credited; or refunded in full, but a coupon that is to be returned was not.
CREATE OR REPLACE VIEW break_refund_not_returned AS
SELECT
    tenant_id, app_id, 'refund_not_returned' AS kind, 'warning' AS severity, order_id AS subject, currency,
    recorded_minor - reversed_minor AS amount_minor,
    if(length(uncredited) > 0,
        concat('order ', order_id, ': refund ', uncredited[1], ' was not credited'),
        concat('order ', order_id, ' is refunded in full, coupon ', toString(kept[1]), ' was not returned')) AS detail,
    event_ids, since
FROM
(
    SELECT
        l.tenant_id AS tenant_id, l.app_id AS app_id, l.order_id AS order_id, l.currency AS currency,
        l.recorded_minor AS recorded_minor, l.reversed_minor AS reversed_minor, l.event_ids AS event_ids,
        l.since AS since,
        arrayFilter(refund -> NOT has(l.credited_refund_ids, refund), l.refund_ids) AS uncredited,
        if(l.refunded_minor > 0 AND l.refunded_minor >= l.payable_minor, k.kept, []) AS kept
    FROM ledgers(as_of = {as_of:DateTime64(6, 'UTC')}) AS l
    LEFT JOIN
    (
        SELECT c.tenant_id AS tenant_id, c.app_id AS app_id, c.order_id AS order_id, groupArray(c.coupon_id) AS kept
        FROM ledger_coupons(as_of = {as_of:DateTime64(6, 'UTC')}) AS c
        INNER JOIN
        (
            SELECT tenant_id, app_id, template_id, terms_version, any(terms) AS terms
            FROM template_facts FINAL
            WHERE tells_terms = 1
            GROUP BY tenant_id, app_id, template_id, terms_version
        ) AS t USING (tenant_id, app_id, template_id, terms_version)
        WHERE c.state = 'redeemed' AND JSONExtractString(t.terms, 'on_full_refund') != 'keep'
        GROUP BY c.tenant_id, c.app_id, c.order_id
    ) AS k USING (tenant_id, app_id, order_id)
    WHERE l.is_completed
)
WHERE length(uncredited) > 0 OR length(kept) > 0;

-- A lock whose order does not hold it any more, or whose time is over.
CREATE OR REPLACE VIEW break_lock_leaked AS
SELECT
    c.tenant_id AS tenant_id, c.app_id AS app_id, 'lock_leaked' AS kind, 'warning' AS severity,
    c.coupon_id AS subject, toString(c.currency) AS currency, toInt64(0) AS amount_minor,
    concat('coupon ', c.coupon_id, ' is locked for order ', c.order_id, ', whose checkout is ',
        if(k.decision = '', 'unknown', k.decision)) AS detail,
    c.event_ids AS event_ids, c.since AS since
FROM ledger_coupons(as_of = {as_of:DateTime64(6, 'UTC')}) AS c
LEFT JOIN ledger_checkouts(as_of = {as_of:DateTime64(6, 'UTC')}) AS k USING (tenant_id, app_id, order_id)
LEFT JOIN
(
    SELECT tenant_id, app_id, max(occurred_at) AS business_now
    FROM coupon_facts FINAL
    WHERE recorded_at <= {as_of:DateTime64(6, 'UTC')}
    GROUP BY tenant_id, app_id
) AS n USING (tenant_id, app_id)
WHERE c.state = 'locked' AND (k.decision != 'ready' OR c.lock_until < n.business_now - INTERVAL 1 MINUTE);

-- The budget's own stream and the settlement ledger tell different spending or crediting for one coupon of one order.
CREATE OR REPLACE VIEW break_budget_drift AS
SELECT
    tenant_id, app_id, 'budget_drift' AS kind, 'critical' AS severity,
    concat(budget_id, ':', order_id, ':', coupon_id) AS subject, max(currency) AS currency,
    if(spent != 0, spent, credited) AS amount_minor,
    concat('budget ', budget_id, ', coupon ', coupon_id, ' of order ', order_id, ': budget minus settlement is ',
        toString(spent), ' spent, ', toString(credited), ' credited') AS detail,
    arrayDistinct(groupArrayArray(event_ids)) AS event_ids, max(since) AS since,
    sum(spent_minor) AS spent, sum(credited_minor) AS credited
FROM
(
    SELECT
        tenant_id, app_id, budget_id, order_id, coupon_id, toString(currency) AS currency,
        committed_delta_minor AS spent_minor, credited_delta_minor AS credited_minor, [event_id] AS event_ids,
        recorded_at AS since
    FROM budget_facts FINAL
    WHERE order_id != '' AND recorded_at <= {as_of:DateTime64(6, 'UTC')}
    UNION ALL
    SELECT
        s.tenant_id, s.app_id, t.budget_id, s.order_id, s.coupon_id, toString(s.currency), -s.recorded_minor,
        -s.reversed_minor, s.event_ids, s.since
    FROM ledger_settlements(as_of = {as_of:DateTime64(6, 'UTC')}) AS s
    INNER JOIN
    (
        SELECT
            tenant_id, app_id, template_id, terms_version,
            arrayJoin(JSONExtract(any(terms), 'budget_ids', 'Array(String)')) AS budget_id
        FROM template_facts FINAL
        WHERE tells_terms = 1
        GROUP BY tenant_id, app_id, template_id, terms_version
    ) AS t USING (tenant_id, app_id, template_id, terms_version)
)
GROUP BY tenant_id, app_id, budget_id, order_id, coupon_id
HAVING spent != 0 OR credited != 0;

-- Money for an order that nobody placed.
CREATE OR REPLACE VIEW break_orphan_payment AS
SELECT
    tenant_id, app_id, 'orphan_payment' AS kind, 'warning' AS severity, order_id AS subject, currency,
    paid_minor - refunded_minor AS amount_minor,
    concat('paid ', toString(paid_minor), ' for order ', order_id, ', which was never placed') AS detail,
    event_ids, since
FROM ledgers(as_of = {as_of:DateTime64(6, 'UTC')})
WHERE NOT is_placed AND paid_minor > refunded_minor;

-- Money back that names no order, or one that nobody placed.
CREATE OR REPLACE VIEW break_orphan_refund AS
SELECT
    r.tenant_id AS tenant_id, r.app_id AS app_id, 'orphan_refund' AS kind, 'info' AS severity,
    r.refund_id AS subject, toString(r.currency) AS currency, -r.amount_minor AS amount_minor,
    if(r.order_id = '', concat('refund ', r.refund_id, ' names no order'),
        concat('refund ', r.refund_id, ' names order ', r.order_id, ', which was never placed')) AS detail,
    [r.event_id] AS event_ids, r.recorded_at AS since
FROM
(
    SELECT * FROM refund_facts FINAL
    WHERE entry = 'refund' AND recorded_at <= {as_of:DateTime64(6, 'UTC')}
) AS r
LEFT JOIN ledger_orders(as_of = {as_of:DateTime64(6, 'UTC')}) AS o USING (tenant_id, app_id, order_id)
WHERE r.order_id = '' OR NOT o.is_placed;

-- More coupons than stock, or more than one user may have. Stock is the latest told; limits are those claimed under.
CREATE OR REPLACE VIEW break_oversold AS
SELECT
    tenant_id, app_id, 'oversold' AS kind, 'critical' AS severity, subject, '' AS currency,
    toInt64(excess) AS amount_minor, detail, event_ids, since
FROM
(
    SELECT
        c.tenant_id AS tenant_id, c.app_id AS app_id, c.template_id AS subject,
        toInt64(c.claimed) + t.reserved - assumeNotNull(t.stock) AS excess,
        concat('template ', c.template_id, ': ', toString(c.claimed), ' claimed and ', toString(t.reserved),
            ' reserved of ', toString(t.stock)) AS detail,
        c.event_ids AS event_ids, c.since AS since
    FROM
    (
        SELECT
            tenant_id, app_id, template_id, count() AS claimed, max(recorded_at) AS since,
            groupArrayLast(5)(event_id) AS event_ids
        FROM coupon_facts FINAL
        WHERE kind = 'claimed' AND recorded_at <= {as_of:DateTime64(6, 'UTC')}
        GROUP BY tenant_id, app_id, template_id
    ) AS c
    INNER JOIN
    (
        SELECT
            tenant_id, app_id, template_id,
            tupleElement(argMaxIf(tuple(stock), version, tells_stock = 1), 1) AS stock,
            toInt64(ifNull(argMaxIf(reserved, version, isNotNull(reserved)), 0)) AS reserved
        FROM template_facts FINAL
        WHERE recorded_at <= {as_of:DateTime64(6, 'UTC')}
        GROUP BY tenant_id, app_id, template_id
    ) AS t USING (tenant_id, app_id, template_id)
    WHERE isNotNull(t.stock) AND toInt64(c.claimed) + t.reserved > t.stock
    UNION ALL
    SELECT
        c.tenant_id, c.app_id, concat(c.template_id, ':', c.user_id),
        toInt64(c.claimed) - t.claims_max,
        concat('user ', c.user_id, ' claimed ', toString(c.claimed), ' of at most ', toString(t.claims_max),
            ' coupons of template ', c.template_id),
        c.event_ids, c.since
    FROM
    (
        SELECT
            tenant_id, app_id, template_id, user_id, max(terms_version) AS terms_version, count() AS claimed,
            max(recorded_at) AS since, groupArrayLast(5)(event_id) AS event_ids
        FROM coupon_facts FINAL
        WHERE kind = 'claimed' AND recorded_at <= {as_of:DateTime64(6, 'UTC')}
        GROUP BY tenant_id, app_id, template_id, user_id
    ) AS c
    INNER JOIN
    (
        SELECT
            tenant_id, app_id, template_id, terms_version,
            toInt64(JSONExtractInt(any(terms), 'claims_per_user_max')) AS claims_max
        FROM template_facts FINAL
        WHERE tells_terms = 1
        GROUP BY tenant_id, app_id, template_id, terms_version
    ) AS t USING (tenant_id, app_id, template_id, terms_version)
    WHERE t.claims_max > 0 AND toInt64(c.claimed) > t.claims_max
);
