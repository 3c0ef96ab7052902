"""Labelled patches on disk."""

from labelled_patches import few, kaggle

__all__ = ["few", "kaggle"]
