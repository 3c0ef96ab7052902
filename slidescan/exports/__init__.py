"""Maps and their regions in the forms of other programs. Nothing here opens a slide."""
