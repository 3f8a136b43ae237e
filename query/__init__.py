"""The read side: readers over Redis and ClickHouse, and their HTTP routes."""
