"""Adapters to other tools; each imports its tool when it is imported itself."""
