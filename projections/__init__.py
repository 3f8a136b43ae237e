"""Pure functions from events to documents and rows; infra/projections stores what they return."""
