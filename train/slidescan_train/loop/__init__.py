"""The training loop and what it runs on: batches, steps, validation, range test."""
