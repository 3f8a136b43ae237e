"""Redis: connections and the store of read models."""
