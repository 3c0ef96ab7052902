"""slidescan beside other programs that do the same job."""
