"""Bytes and SQL: the store file, and nothing of rows, steps or policies."""
