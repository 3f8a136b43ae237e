-- Appending a batch whose commands count something for the first time, as every coupon of a bulk issue does.
--
-- `append_batch` stores counters with INSERT … ON CONFLICT DO UPDATE, which looks for the key, inserts on trial and then
-- confirms: twice the work of a plain INSERT. Whoever decided the batch has looked for its counters and knows which are
-- new; under the condition of the append nobody can have made one since. Should there be one all the same, its key
-- refuses the batch, and it is decided again.

CREATE FUNCTION append_batch_counting(
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
        INSERT INTO guard_counts (key, value) SELECT * FROM unnest(new_count_keys, new_count_values);
    END IF;
END
$$;
