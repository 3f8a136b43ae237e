-- Distributions: who gave which list of users to which template, and the list itself until it is done.
-- What became of it is in the log only, on the stream that is named here.

CREATE TABLE distributions (
    job integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL,
    app_id text NOT NULL,
    distribution_id text NOT NULL,
    stream text NOT NULL,
    template_id text NOT NULL,
    users integer NOT NULL CHECK (users > 0),
    users_sha256 bytea NOT NULL,           -- Of the list: the same name with another list is refused.
    actor text NOT NULL,                   -- Whose coupons' events name.
    correlation_id text NOT NULL,
    traceparent text,
    staged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,               -- Completed or cancelled: the list is deleted.
    UNIQUE (tenant_id, app_id, distribution_id),
    UNIQUE (stream)
);

CREATE INDEX distributions_open_idx ON distributions (job) WHERE finished_at IS NULL;

-- One row for each chunk, so that a chunk is one look-up and a million users are a thousand rows.
CREATE TABLE distribution_chunks (
    job integer NOT NULL REFERENCES distributions ON DELETE CASCADE,
    first_row integer NOT NULL,
    user_ids text[] NOT NULL,
    PRIMARY KEY (job, first_row)
);
