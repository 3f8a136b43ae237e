"""The rules, as pure functions: states, how events change them, and decisions that return events."""
