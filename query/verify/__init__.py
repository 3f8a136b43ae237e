"""Folds the raw log with small code of its own and holds every store against it: the invariants I1 to I12."""
