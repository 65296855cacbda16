"""Data frames, tables and data sets as rows and as results. Knows no step, no SQL, no store."""
