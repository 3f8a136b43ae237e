-- What operators need to understand what a follower gave up on, what was given up for good, and which restores there were.

-- Columns have defaults: a binary from before them goes on writing beside this one.
ALTER TABLE parked_events
    ADD COLUMN event_type text NOT NULL DEFAULT '',
    ADD COLUMN detail text NOT NULL DEFAULT '',        -- Where it failed: the end of the traceback.
    ADD COLUMN first_failed_at timestamptz,            -- NULL: never tried, it waits behind an earlier one.
    ADD COLUMN last_failed_at timestamptz;

-- Events that an operator took from a follower for good. Kept, because whoever follows has to know that the hole in the
-- stream is wanted, and everybody else who made it and why.
CREATE TABLE dropped_events (
    follower text NOT NULL,
    stream text NOT NULL,
    version bigint NOT NULL,
    log_offset bigint NOT NULL,
    event_type text NOT NULL,
    failure text NOT NULL,                 -- Why it was parked.
    attempts integer NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    dropped_by text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (follower, stream, version)
);

-- When the store was said to be restored, and to which state. The same restore, told again, changes nothing.
CREATE TABLE store_restores (
    shard integer NOT NULL,
    restore_id text NOT NULL,
    epoch_before text NOT NULL,
    epoch text NOT NULL,                   -- The one that began with it.
    head bigint NOT NULL,                  -- Where the restored log ended.
    told_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    told_by text NOT NULL,
    PRIMARY KEY (shard, restore_id)
);
