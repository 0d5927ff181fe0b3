"""Which images there are, and their way into batches."""
