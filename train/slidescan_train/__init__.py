"""Training of slidescan's patch classifier."""
