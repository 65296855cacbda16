"""Values to bytes and back, and what makes two rows equal. Knows no SQL and no files."""
