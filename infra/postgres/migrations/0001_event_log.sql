-- The log. Table, composite type and index have exactly the shape that the recorders of the `eventsourcing` library
-- create for text ids, so that the library reads and writes them; only the library's insert function is missing, on
-- purpose: it appends without a lock, and followers then miss late commits.

CREATE TABLE stored_events (
    originator_id text NOT NULL,           -- The stream: tenant/app/kind/key, each part escaped.
    originator_version bigint NOT NULL,    -- 1, 2, 3 … within the stream.
    topic text,                            -- The event's stored name: coupon.redeemed.v1
    state bytea,                           -- JSON: metadata and payload.
    notification_id bigserial,             -- The offset in the log. Ordered by commit, not gapless.
    PRIMARY KEY (originator_id, originator_version)
) WITH (
    -- The library's settings: rows are only ever added, so statistics matter and dead rows do not.
    autovacuum_enabled = true,
    autovacuum_vacuum_threshold = 100000000,
    autovacuum_vacuum_scale_factor = 0.5,
    autovacuum_analyze_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.01
);

CREATE UNIQUE INDEX stored_events_notification_id_idx ON stored_events (notification_id ASC);

CREATE TYPE stored_event_text AS (originator_id text, originator_version bigint, topic text, state bytea);

-- One row per stream, the latest: a writer replaces it. `topic` is the hash of the state's schema.
CREATE TABLE stored_snapshots (
    originator_id text NOT NULL,
    originator_version bigint NOT NULL,
    topic text,
    state bytea,
    PRIMARY KEY (originator_id, originator_version)
);

-- Which history of which shard this is. The epoch changes when the store was restored to an earlier state, because
-- offsets are then given out a second time and mean something else.
CREATE TABLE store_epoch (
    shard integer PRIMARY KEY,
    epoch text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The inverse of contracts.identity.escape.
CREATE FUNCTION unescape_part(part text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN replace(replace(replace(replace(part, '%2F', '/'), '%7B', '{'), '%7D', '}'), '%25', '%');

-- The log in plain columns, for people and for counting. LATERAL with OFFSET 0 parses the JSON once per row, only of
-- rows that the other conditions let through, and not at all for queries that name no JSON column.
CREATE VIEW events AS
SELECT
    e.notification_id AS "offset",
    unescape_part(split_part(e.originator_id, '/', 1)) AS tenant_id,
    unescape_part(split_part(e.originator_id, '/', 2)) AS app_id,
    split_part(e.originator_id, '/', 3) AS kind,
    unescape_part(split_part(e.originator_id, '/', 4)) AS key,
    e.originator_id AS stream,
    e.originator_version AS version,
    e.topic AS type,
    (state.body ->> 'at')::timestamptz AS occurred_at,
    (state.body ->> 'rec')::timestamptz AS recorded_at,
    state.body ->> 'by' AS actor,
    state.body ->> 'id' AS event_id,
    state.body ->> 'cmd' AS command_id,
    state.body ->> 'corr' AS correlation_id,
    state.body ->> 'cause' AS causation_id,
    state.body ->> 'trace' AS traceparent,
    state.body -> 'data' AS data
FROM stored_events AS e
CROSS JOIN LATERAL (SELECT convert_from(e.state, 'UTF8')::jsonb AS body OFFSET 0) AS state;
