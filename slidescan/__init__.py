"""slidescan: tumour heatmaps of whole slides from a padding-free NASNet."""

from importlib.metadata import version

__version__ = version("slidescan")
