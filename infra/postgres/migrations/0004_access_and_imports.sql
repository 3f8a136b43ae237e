-- Who may call, and how far imports have come.

-- The secret itself is never stored; it has at least 128 random bits, so one round of SHA-256 is enough.
CREATE TABLE api_keys (
    prefix text PRIMARY KEY,               -- The public half: how a key is found and named in logs.
    secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
    tenant_id text NOT NULL,
    app_id text NOT NULL,
    role text NOT NULL,
    scopes text[] NOT NULL,
    label text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz
);

CREATE INDEX api_keys_realm_idx ON api_keys (tenant_id, app_id, created_at);

-- Where each statement of an import stands; the commands themselves are idempotent by id.
CREATE TABLE import_progress (
    tenant_id text NOT NULL,
    app_id text NOT NULL,
    import_id text NOT NULL,
    statement text NOT NULL,
    rows_done bigint NOT NULL CHECK (rows_done >= 0),
    state jsonb NOT NULL DEFAULT '{}',     -- Source fingerprint and tallies by outcome.
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, app_id, import_id, statement)
);
