"""From a slide to its map, and the proof that the map is right."""
