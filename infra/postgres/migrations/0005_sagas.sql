-- What the saga worker needs beyond positions, outbox and timers: retries, what was refused, where each saga stands,
-- and what each realm's own clock shows.

ALTER TABLE saga_outbox
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN retry_at timestamptz,       -- Not before; NULL: at once.
    ADD COLUMN refused_code text,          -- The final answer was a refusal: kept for an operator, not sent again.
    ADD COLUMN refused_detail text;

-- A saga's commands are sent one after the other: the question is always whether an earlier one still waits.
CREATE INDEX saga_outbox_pending_idx ON saga_outbox (tenant_id, app_id, saga_key, id) WHERE refused_code IS NULL;

ALTER TABLE timers
    ADD COLUMN set_by bigint NOT NULL,     -- The version, in its stream, of the event that set it.
    ADD COLUMN data jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN retry_at timestamptz,
    ADD COLUMN last_error text;

-- Where each saga stands, written with its memory: for lists and metrics, never for decisions.
CREATE TABLE sagas (
    tenant_id text NOT NULL,
    app_id text NOT NULL,
    process text NOT NULL,
    key text NOT NULL,
    process_version integer NOT NULL,
    step text NOT NULL,
    because text NOT NULL,                 -- The type of the fact that led there.
    version bigint NOT NULL,               -- Of its own stream.
    since timestamptz NOT NULL,            -- Business time of the fact that brought it to this step.
    PRIMARY KEY (tenant_id, app_id, process, key)
) WITH (fillfactor = 80);  -- Rows are replaced four times in an order's life.

CREATE INDEX sagas_step_idx ON sagas (tenant_id, app_id, step, since);

-- Realms on a business clock, and what it shows. All others live by the store's clock.
CREATE TABLE realm_clocks (
    tenant_id text NOT NULL,
    app_id text NOT NULL,
    shows timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, app_id)
);
