"""How rows are driven: in order, in batches, in threads, in tasks, in an executor."""
