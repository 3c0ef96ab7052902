"""Metrics, curves and bootstrap intervals of probabilities."""
