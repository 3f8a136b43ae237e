-- The secrets that codes are sealed with. They are nowhere else: not in events, not in the command log, not in logs.
-- A deleted key's row stays without its secret, so that no later key takes its name.

CREATE TABLE code_keys (
    tenant_id text NOT NULL,
    app_id text NOT NULL,
    number integer NOT NULL CHECK (number > 0),   -- Events name the key "k<number>".
    secret bytea CHECK (octet_length(secret) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at timestamptz,
    CHECK ((secret IS NULL) = (deleted_at IS NOT NULL)),
    PRIMARY KEY (tenant_id, app_id, number)
);
