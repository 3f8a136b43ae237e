-- Where each table set stands in the log. Written after the rows: what it says was handled is there.
CREATE TABLE IF NOT EXISTS projection_positions (
    name LowCardinality(String),
    version UInt32,
    shard UInt16,
    epoch String,
    `offset` UInt64,
    serial UInt64,
    written_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(serial)
-- One row per projection is alive: the one with the highest serial. A position may go back, a serial may not.
ORDER BY name;
