"""Networks that classify patches: NASNet-A and a baseline without padding, and padded ones."""
