"""Stores in buckets: segments of a log, shipped and pulled. The optional extra `cloud`.

A segment is a small store: a slice of a log, with the ids that its records have there. Pulling is
merging all of them, in an order in which no record comes before one that its log had earlier.
"""
