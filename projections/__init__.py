"""Pure functions from events to rows and keys, and the runner that stores what they return."""
