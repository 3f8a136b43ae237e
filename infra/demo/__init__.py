"""A seeded business day against a real stack, then the same with faults planted: what happened, and what was found."""
