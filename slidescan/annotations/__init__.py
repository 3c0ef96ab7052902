"""Regions drawn on slides: ASAP, NCRF and GeoJSON files, polygons, masks."""
