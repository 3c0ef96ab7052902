"""Every figure in the documentation, as a script: `python -m benchmarks.FOLDER.NAME --help`."""
