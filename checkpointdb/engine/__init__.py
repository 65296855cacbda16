"""A run without its loop: rows to slots, calls, commits, counts. Knows rows, policy and store."""
