"""The relay: publishes the log to Kafka, one process per shard at a time."""
