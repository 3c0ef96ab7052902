"""Heatmaps on disk: zarr v3 in OME-NGFF 0.5."""
