"""Evaluation: predictions against labels, maps against annotations."""
