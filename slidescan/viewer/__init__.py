"""The viewer's server: slides, maps and annotations for a page in the browser."""
