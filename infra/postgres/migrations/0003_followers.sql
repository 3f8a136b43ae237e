-- What followers of the log keep in this database: where they are, what they owe, what they could not digest.

CREATE TABLE follower_positions (
    follower text PRIMARY KEY,
    epoch text NOT NULL,
    log_offset bigint NOT NULL CHECK (log_offset >= 0),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Commands that sagas decided to send and that have no final answer yet. A row is written with the fact that caused
-- it and removed when the answer came, so a crash in between sends it again under the same id.
CREATE TABLE saga_outbox (
    id bigserial PRIMARY KEY,              -- The order of sending.
    saga_key text NOT NULL,
    tenant_id text NOT NULL,
    app_id text NOT NULL,
    command_id text NOT NULL,
    command_type text NOT NULL,
    payload jsonb NOT NULL,
    actor text NOT NULL,
    correlation_id text NOT NULL,
    causation_id text,
    traceparent text,
    attempts integer NOT NULL DEFAULT 0,
    last_error text,
    created_offset bigint NOT NULL,        -- The fact that caused it.
    UNIQUE (command_id, tenant_id, app_id)
);

-- What is due when, by the business time of its realm.
CREATE TABLE timers (
    tenant_id text NOT NULL,
    app_id text NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, app_id, kind, key)
);

-- "What is due in this realm, earliest first" and "the earliest of each realm" are both prefixes of this.
CREATE INDEX timers_due_idx ON timers (tenant_id, app_id, due_at, kind, key);

-- Events that a follower gave up on after bounded retries, and those of the same stream that wait behind them.
CREATE TABLE parked_events (
    follower text NOT NULL,
    stream text NOT NULL,
    version bigint NOT NULL,
    log_offset bigint NOT NULL,
    reason text NOT NULL,
    attempts integer NOT NULL,             -- 0: never tried, it waits behind an earlier one.
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    requeued_at timestamptz,               -- An operator wants it tried again.
    PRIMARY KEY (follower, stream, version)
);

CREATE INDEX parked_events_requeued_idx ON parked_events (follower, log_offset) WHERE requeued_at IS NOT NULL;
