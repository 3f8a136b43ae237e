-- The append path as one call: lock, condition and rows of a batch in a single statement, which is its own transaction
-- where the caller has none. A batch that was decided before its lock was taken costs one exchange with the server, and
-- a process that is stopped in the middle of it holds up nobody: by the time the lock is taken, the server has it all.
--
-- PL/pgSQL on purpose: each of its statements takes a snapshot of its own, so that what is read after the lock sees what
-- others committed while we waited for it. (The library's own insert function takes no lock; that is why it is not here.)

-- The append lock of a shard. 20817 is infra.postgres.recorder.APPEND_LOCK_CLASS. Whoever holds it has 3.5 seconds for
-- all the rest, where the server can see to that (from version 17 on): a holder that stopped must not stop the others.
CREATE FUNCTION take_append_lock(wanted_shard integer) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(20817, wanted_shard);
    IF current_setting('transaction_timeout', true) = '0' THEN
        PERFORM set_config('transaction_timeout', '3500ms', true);
    END IF;
END
$$;

-- Store a batch after `wanted_head`, which must still be the log's last offset in the same epoch. Returns the first and
-- the last offset of its events, nulls when it has none.
CREATE FUNCTION append_batch(
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
        -- Rows are numbered in the order of the arrays; only the first and the last number travel back.
        WITH stored AS (
            INSERT INTO stored_events (originator_id, originator_version, topic, state)
            SELECT * FROM unnest(streams, versions, topics, states)
            RETURNING notification_id
        )
        SELECT min(notification_id), max(notification_id) INTO first_offset, last_offset FROM stored;
    END IF;
    IF cardinality(command_ids) > 0 THEN
        INSERT INTO command_log (tenant_id, app_id, command_id, command_type, content_hash, status, code, detail, data,
                                 log_offset, answered_at)
        SELECT a.tenant_id, a.app_id, a.command_id, a.command_type, a.content_hash, a.status, a.code, a.detail,
               a.data::jsonb, coalesce(last_offset, head) - a.back, clock_timestamp()
        FROM unnest(tenant_ids, app_ids, command_ids, command_types, content_hashes, statuses, codes, details,
                    answers, backs)
            AS a (tenant_id, app_id, command_id, command_type, content_hash, status, code, detail, data, back);
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
