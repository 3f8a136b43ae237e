-- Facts: one row (or a few) per event, written by projections/facts.
--
-- All tables share the same origin columns and the same engine:
--   * (event_id, row_no) ends every key: it names a row for ever, so a redelivered row replaces itself. Keyed by the
--     event alone, an order with two lines would keep one.
--   * The partition is the month of occurred_at, a value stored in the event: a row that is delivered again after the end
--     of a month falls into the same partition and is replaced there. The month of arrival would keep it twice.
--   * Until parts are merged both copies are there: sums read FINAL.
-- Absent texts are '', absent amounts 0. Amounts are minor units of `currency`; exact_amount is in major units with
-- every digit the upstream told; rounding_amount is the exact amount less the minor units.

-- The coupon ledger. redeemed_minor is signed (redeemed +, returned -); discount_minor is what the event says.
CREATE TABLE IF NOT EXISTS coupon_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    kind LowCardinality(String),
    coupon_id String,
    template_id String,
    terms_version UInt32,
    campaign_id LowCardinality(String),
    shop_id LowCardinality(String),
    source LowCardinality(String),
    user_id String,
    currency LowCardinality(String),
    channel LowCardinality(String),
    reference String,
    nth UInt32,
    order_id String,
    refund_id String,
    discount_minor Int64,
    redeemed_minor Int64,
    external UInt8,
    honoured UInt8,
    cause LowCardinality(String),
    reason String,
    valid_from Nullable(DateTime64(6, 'UTC')),
    valid_until Nullable(DateTime64(6, 'UTC')),
    lock_until Nullable(DateTime64(6, 'UTC')),
    effective_at Nullable(DateTime64(6, 'UTC')),
    INDEX by_coupon_id coupon_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_order_id order_id TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- Funnels and daily reports ask for a realm, then a template, then a span of time; orders and coupons are looked up
-- by the indexes.
ORDER BY (tenant_id, app_id, template_id, occurred_at, event_id, row_no);

-- The settlement ledger, one row per coupon and line: recorded +, reversed -. event_discount_minor is on row 0 only.
CREATE TABLE IF NOT EXISTS settlement_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    kind LowCardinality(String),
    order_id String,
    refund_id String,
    coupon_id String,
    template_id String,
    terms_version UInt32,
    campaign_id LowCardinality(String),
    shop_id LowCardinality(String),
    source LowCardinality(String),
    user_id String,
    currency LowCardinality(String),
    line_id String,
    discount_minor Int64,
    event_discount_minor Int64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- Reconciliation walks the ledgers order by order; spend reads whole months, which the partitions give.
ORDER BY (tenant_id, app_id, order_id, event_id, row_no);

-- One row per line of a placed order; orders, shipping_minor and total_minor are on row 0 only, so that they add up.
CREATE TABLE IF NOT EXISTS order_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    kind LowCardinality(String),
    order_id String,
    user_id String,
    currency LowCardinality(String),
    orders UInt8,
    line_id String,
    sku String,
    category LowCardinality(String),
    shop_id LowCardinality(String),
    quantity Int64,
    unit_price_minor Int64,
    amount_minor Int64,
    exact_amount Decimal(38, 9),
    rounding_amount Decimal(38, 9),
    shipping_minor Int64,
    total_minor Int64,
    coupon_ids Array(String),
    attempt UInt32,
    cause LowCardinality(String),
    reason String,
    status LowCardinality(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- Reconciliation walks the ledgers order by order; drill-down asks for one order.
ORDER BY (tenant_id, app_id, order_id, event_id, row_no);

-- What became of an order's coupons. Totals are on entry = 'decision'; 'line', 'coupon', 'refusal', 'returned' have their own.
CREATE TABLE IF NOT EXISTS checkout_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    kind LowCardinality(String),
    entry LowCardinality(String),
    order_id String,
    attempt UInt32,
    user_id String,
    currency LowCardinality(String),
    payment_id String,
    refund_id String,
    total_minor Int64,
    shipping_minor Int64,
    discount_minor Int64,
    payable_minor Int64,
    refunded_minor Int64,
    credited_minor Int64,
    excess_minor Int64,
    is_full UInt8,
    honoured UInt8,
    cause LowCardinality(String),
    lock_until Nullable(DateTime64(6, 'UTC')),
    effective_at Nullable(DateTime64(6, 'UTC')),
    line_id String,
    quantity Int64,
    line_amount_minor Int64,
    line_discount_minor Int64,
    coupon_id String,
    template_id String,
    campaign_id LowCardinality(String),
    coupon_discount_minor Int64,
    code LowCardinality(String),
    detail String,
    missing_minor Nullable(Int64)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- Reconciliation walks the ledgers order by order; drill-down asks for one order.
ORDER BY (tenant_id, app_id, order_id, event_id, row_no);

-- Money in, as the upstream told it, and its signed corrections (kind = 'adjusted'). Failed and noted ones carry no amount.
CREATE TABLE IF NOT EXISTS payment_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    kind LowCardinality(String),
    payment_id String,
    adjustment_id String,
    order_id String,
    currency LowCardinality(String),
    amount_minor Int64,
    exact_amount Decimal(38, 9),
    rounding_amount Decimal(38, 9),
    reason String,
    status LowCardinality(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- Reconciliation walks the ledgers order by order; drill-down asks for one order.
ORDER BY (tenant_id, app_id, order_id, event_id, row_no);

-- Money out: amounts are negative. entry = 'refund' holds them once; entry = 'line' says what came back of which line.
CREATE TABLE IF NOT EXISTS refund_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    entry LowCardinality(String),
    refund_id String,
    order_id String,
    currency LowCardinality(String),
    amount_minor Int64,
    exact_amount Decimal(38, 9),
    rounding_amount Decimal(38, 9),
    line_id String,
    quantity Nullable(Int64),
    line_amount_minor Nullable(Int64)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- Reconciliation walks the ledgers order by order; those without an order ('') lie together at the front.
ORDER BY (tenant_id, app_id, order_id, event_id, row_no);

-- The budget ledger: sums of the deltas are the budget. limit_delta_minor counts for every period, the others for theirs.
CREATE TABLE IF NOT EXISTS budget_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    kind LowCardinality(String),
    budget_id String,
    name String,
    currency LowCardinality(String),
    recurs LowCardinality(String),
    zone LowCardinality(String),
    period LowCardinality(String),
    order_id String,
    coupon_id String,
    refund_id String,
    amount_minor Int64,
    limit_delta_minor Int64,
    reserved_delta_minor Int64,
    committed_delta_minor Int64,
    credited_delta_minor Int64,
    honoured UInt8,
    threshold_percent UInt32,
    used_minor Int64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- A budget is summed per period.
ORDER BY (tenant_id, app_id, budget_id, period, event_id, row_no);

-- Templates: life cycle, terms and stock. tells_terms, tells_stock: this row states them; the latest version holds.
CREATE TABLE IF NOT EXISTS template_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    kind LowCardinality(String),
    template_id String,
    terms_version UInt32,
    tells_terms UInt8,
    name String,
    campaign_id LowCardinality(String),
    shop_id LowCardinality(String),
    source LowCardinality(String),
    category LowCardinality(String),
    currency LowCardinality(String),
    terms String,
    tells_stock UInt8,
    stock Nullable(Int64),
    coupon_id String,
    user_id String,
    reservation_id String,
    quantity Int64,
    claimed Nullable(Int64),
    reserved Nullable(Int64),
    cause LowCardinality(String),
    reason String,
    claim_from Nullable(DateTime64(6, 'UTC')),
    claim_until Nullable(DateTime64(6, 'UTC')),
    effective_at Nullable(DateTime64(6, 'UTC'))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- A template is read in the order of its stream.
ORDER BY (tenant_id, app_id, template_id, version, event_id, row_no);

-- Refusals, counted per batch of commands: sum(refused).
CREATE TABLE IF NOT EXISTS refusal_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    template_id String,
    command LowCardinality(String),
    code LowCardinality(String),
    refused Int64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- The funnel sums them per template and code.
ORDER BY (tenant_id, app_id, template_id, code, event_id, row_no);

-- Reconciliation breaks, opened and closed.
CREATE TABLE IF NOT EXISTS break_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    status LowCardinality(String),
    break_id String,
    kind LowCardinality(String),
    severity LowCardinality(String),
    subject String,
    currency LowCardinality(String),
    amount_minor Int64,
    detail String,
    event_ids Array(String),
    since Nullable(DateTime64(6, 'UTC')),
    reason String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- A break is read in the order of its stream.
ORDER BY (tenant_id, app_id, break_id, version, event_id, row_no);

-- Rows of imports that were refused or parked: with the applied ones they are all rows.
CREATE TABLE IF NOT EXISTS import_facts (
    tenant_id LowCardinality(String),
    app_id LowCardinality(String),
    event_id String,
    row_no UInt32,
    stream String,
    version UInt64,
    `offset` UInt64,
    type LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    actor LowCardinality(String),
    command_id String,
    import_id String,
    statement LowCardinality(String),
    source_row String,
    outcome LowCardinality(String),
    code LowCardinality(String),
    detail String,
    amount Nullable(Decimal(38, 9))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
-- An import is accounted for per statement and outcome.
ORDER BY (tenant_id, app_id, import_id, statement, outcome, event_id, row_no);
