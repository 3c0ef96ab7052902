"""Slides: opening them, the scan plane at the model's resolution, and tissue."""
