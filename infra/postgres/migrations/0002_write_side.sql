-- What the write side keeps beside the log, in the same transactions.

-- Every final answer, by command id.
--
-- Partitioned by hash of the command id, not by month. The look-up runs under the append lock, for every command of
-- every batch, and nearly always for ids that are new; by hash it is one index probe in one partition, by month it
-- would be one probe per live month. By hash, too, the primary key is the command's own key, so that the database
-- itself refuses a second answer; partitions by time would have to add the time to the key and lose that fence.
-- The price: old answers cannot be dropped by dropping a table. They are deleted in bounded steps, outside the append
-- lock, one partition at a time. Rows arrive in the order of `answered_at` and are never changed, so a block-range
-- index (a few kilobytes) finds the old ones without reading the rest, and vacuum gives whole pages at the front back
-- to new rows. CommandLog.drop_before does it.
CREATE TABLE command_log (
    tenant_id text NOT NULL,
    app_id text NOT NULL,
    command_id text NOT NULL,
    command_type text NOT NULL,
    content_hash text NOT NULL,
    status text NOT NULL CHECK (status IN ('accepted', 'refused')),
    code text NOT NULL,
    detail text NOT NULL,
    data jsonb NOT NULL,
    log_offset bigint NOT NULL,
    answered_at timestamptz NOT NULL,
    PRIMARY KEY (command_id, tenant_id, app_id)  -- The most selective column first: what probes compare.
) PARTITION BY HASH (command_id);

CREATE TABLE command_log_0 PARTITION OF command_log FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE command_log_1 PARTITION OF command_log FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE command_log_2 PARTITION OF command_log FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE command_log_3 PARTITION OF command_log FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE command_log_4 PARTITION OF command_log FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE command_log_5 PARTITION OF command_log FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE command_log_6 PARTITION OF command_log FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE command_log_7 PARTITION OF command_log FOR VALUES WITH (MODULUS 8, REMAINDER 7);

CREATE INDEX command_log_answered_at_idx ON command_log USING brin (answered_at) WITH (pages_per_range = 32);

-- Counters that guard limits (how many coupons of one template a user has claimed). They hold absolute values, are
-- rows of the append transaction, and could be counted again from the log.
CREATE TABLE guard_counts (
    key text PRIMARY KEY,
    value bigint NOT NULL
) WITH (fillfactor = 80);  -- Room for updates in place.
