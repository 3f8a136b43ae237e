"""The event store and everything else that is kept in PostgreSQL."""
