-- A small batch costs the server little more than its rows (docs/decisions/0024).
--
-- Each statement of a batch has its price, whatever is in it: a partitioned command log had eight tables and sixteen
-- indexes opened for every batch, and each look-up find its partition. The log is one table now. Old answers are deleted
-- as before, in bounded steps, oldest first.
--
-- Existing answers are copied in the order in which they were given, and nothing can be appended meanwhile: migrate when
-- callers can wait, or after `command_log_days` was lowered for a while.

-- Whoever reads the log for long keeps this from beginning, and everybody else from appending: it gives up soon instead.
SET LOCAL lock_timeout = '3s';

ALTER TABLE command_log RENAME TO command_log_by_hash;
ALTER TABLE command_log_by_hash RENAME CONSTRAINT command_log_pkey TO command_log_by_hash_pkey;
ALTER INDEX command_log_answered_at_idx RENAME TO command_log_by_hash_answered_at_idx;

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
);
INSERT INTO command_log SELECT * FROM command_log_by_hash ORDER BY answered_at;
DROP TABLE command_log_by_hash;
-- Rows arrive in the order of `answered_at` and are never changed, so a block-range index finds the old ones.
CREATE INDEX command_log_answered_at_idx ON command_log USING brin (answered_at) WITH (pages_per_range = 32);
ANALYZE command_log;

-- Arrays are taken apart where their elements are wanted: as a table (FROM unnest) each row was written down once more.
CREATE OR REPLACE FUNCTION append_batch(
    wanted_shard integer, wanted_epoch text, wanted_head bigint,
    streams text[], versions bigint[], topics text[], states bytea[],
    grown_streams text[], grown_versions bigint[],  -- Streams that exist already, and their first version in here.
    tenant_ids text[], app_ids text[], command_ids text[], command_types text[], content_hashes text[],
    statuses text[], codes text[], details text[], answers text[],
    backs bigint[],                                 -- How far before the batch's last event each answer's own is.
    count_keys text[], count_values bigint[],
    snapshot_streams text[], snapshot_versions bigint[], snapshot_hashes text[], snapshot_states bytea[],
    OUT first_offset bigint, OUT last_offset bigint
)
    LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    current_epoch text;
    lonely record;
    drawn bigint;
BEGIN
    PERFORM take_append_lock(wanted_shard);
    SELECT coalesce(max(notification_id), 0) INTO head FROM stored_events;
    SELECT epoch INTO current_epoch FROM store_epoch WHERE shard = wanted_shard;
    IF head <> wanted_head OR current_epoch IS DISTINCT FROM wanted_epoch THEN
        RAISE EXCEPTION 'the log is at % of epoch %, not at % of epoch %',
            head, current_epoch, wanted_head, wanted_epoch USING ERRCODE = 'serialization_failure';
    END IF;
    IF cardinality(grown_streams) > 0 THEN
        SELECT stream, version INTO lonely FROM unnest(grown_streams, grown_versions) AS grown (stream, version)
        WHERE NOT EXISTS (
            SELECT FROM stored_events WHERE originator_id = stream AND originator_version = version - 1
        )
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION '% has no version %, so % cannot follow', lonely.stream, lonely.version - 1, lonely.version
                USING ERRCODE = 'foreign_key_violation';
        END IF;
    END IF;
    IF cardinality(streams) > 0 THEN
        NOTIFY stored_events;
        -- Rows are numbered in the order of the arrays; only the first and the last number travel back. Should somebody
        -- draw numbers without the lock, more were drawn than rows are stored: whoever sent the batch looks at that.
        SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END INTO drawn
        FROM stored_events_notification_id_seq;
        INSERT INTO stored_events (originator_id, originator_version, topic, state)
        SELECT unnest(streams), unnest(versions), unnest(topics), unnest(states);
        first_offset := drawn + 1;
        last_offset := currval('stored_events_notification_id_seq');
    END IF;
    IF cardinality(command_ids) > 0 THEN
        INSERT INTO command_log (tenant_id, app_id, command_id, command_type, content_hash, status, code, detail, data,
                                 log_offset, answered_at)
        SELECT unnest(tenant_ids), unnest(app_ids), unnest(command_ids), unnest(command_types), unnest(content_hashes),
               unnest(statuses), unnest(codes), unnest(details), unnest(answers)::jsonb,
               coalesce(last_offset, head) - unnest(backs), clock_timestamp();
    END IF;
    IF cardinality(count_keys) > 0 THEN
        INSERT INTO guard_counts (key, value) SELECT * FROM unnest(count_keys, count_values)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value;
    END IF;
    IF cardinality(snapshot_streams) > 0 THEN
        DELETE FROM stored_snapshots WHERE originator_id = ANY (snapshot_streams);
        INSERT INTO stored_snapshots (originator_id, originator_version, topic, state)
        SELECT * FROM unnest(snapshot_streams, snapshot_versions, snapshot_hashes, snapshot_states);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION append_batch_counting(
    wanted_shard integer, wanted_epoch text, wanted_head bigint,
    streams text[], versions bigint[], topics text[], states bytea[],
    grown_streams text[], grown_versions bigint[],
    tenant_ids text[], app_ids text[], command_ids text[], command_types text[], content_hashes text[],
    statuses text[], codes text[], details text[], answers text[],
    backs bigint[],
    count_keys text[], count_values bigint[],
    snapshot_streams text[], snapshot_versions bigint[], snapshot_hashes text[], snapshot_states bytea[],
    new_count_keys text[], new_count_values bigint[],  -- All else is as `append_batch` takes it.
    OUT first_offset bigint, OUT last_offset bigint
)
    LANGUAGE plpgsql AS $$
BEGIN
    SELECT stored.first_offset, stored.last_offset INTO first_offset, last_offset
    FROM append_batch(
        wanted_shard, wanted_epoch, wanted_head, streams, versions, topics, states, grown_streams, grown_versions,
        tenant_ids, app_ids, command_ids, command_types, content_hashes, statuses, codes, details, answers, backs,
        count_keys, count_values, snapshot_streams, snapshot_versions, snapshot_hashes, snapshot_states
    ) AS stored;
    IF cardinality(new_count_keys) > 0 THEN
        INSERT INTO guard_counts (key, value) SELECT unnest(new_count_keys), unnest(new_count_values);
    END IF;
END
$$;
