"""The only wiring: from settings to running parts, one builder for each kind of process.

Everything is a context manager: parts start in the order in which they are entered and stop in the reverse one, so
that whoever uses something is gone before what it uses.
"""
