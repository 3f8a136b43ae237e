"""The write side: pure deciders, and the handlers that load, decide and append."""
