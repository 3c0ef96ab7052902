"""Patches: image files and HDF5, labelled data sets, scoring, and resuming a prediction."""
