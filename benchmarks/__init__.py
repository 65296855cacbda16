"""What saving costs, what a crash can lose, and what others cost: `python -m benchmarks`."""
