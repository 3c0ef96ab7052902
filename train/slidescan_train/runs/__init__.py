"""One run from start to end, what it leaves in its folder, and how runs compare."""
