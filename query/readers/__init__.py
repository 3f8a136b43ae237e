"""Readers of the read models in Redis and of the facts in ClickHouse, for the asynchronous edge."""
