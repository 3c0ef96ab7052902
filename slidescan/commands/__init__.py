"""One module a command; each parses, calls the parts and reports."""
