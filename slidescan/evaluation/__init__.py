"""How good a system is: patches, lesions, slides, pixels; and what it is compared with."""
