"""Small helpers that know nothing about pathology."""
