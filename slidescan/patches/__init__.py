"""Patches in, probabilities out: what is to be scored, scoring it, and going on after a stop."""
