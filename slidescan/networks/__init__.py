"""Networks that classify patches: valid NASNet-A, a plain valid baseline, and padded ones."""
