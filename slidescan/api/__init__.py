"""The public Python API, a module a subject; `slidescan` exports its names."""
