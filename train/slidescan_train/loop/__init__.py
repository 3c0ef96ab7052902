"""The training loop and its parts: batches, steps, validation, range test."""
