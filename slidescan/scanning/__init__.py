"""Scan slides into maps, and verify that a map equals the patch classifier."""
