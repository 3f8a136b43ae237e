-- Records of Kafka that no client can take apart, and that an operator wants the intake to step over. Kept, because
-- whoever misses a record has to find out who gave it up and why.
CREATE TABLE intake_skips (
    topic text NOT NULL,
    partition integer NOT NULL,
    first_offset bigint NOT NULL,
    last_offset bigint NOT NULL,
    reason text NOT NULL,
    asked_by text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (topic, partition, first_offset),
    CHECK (last_offset >= first_offset)
);
