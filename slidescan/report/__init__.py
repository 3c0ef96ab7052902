"""Reports for people: what a map found on a slide, as one HTML file that needs nothing else."""
