"""slidescan: tumour heatmaps of whole slides from a padding-free NASNet.

The public API, stable from now on: scan, scan_many, open_map, load, predict, read_region, and the
types they take and return. `import slidescan` loads nothing else; a name is imported when it is
first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slidescan.api.batch import SlideResult, scan_many
    from slidescan.api.maps import Map, open_map
    from slidescan.api.models import Classifier, load
    from slidescan.api.patches import predict
    from slidescan.api.progress import Progress
    from slidescan.api.scan import scan
    from slidescan.api.slides import read_region
    from slidescan.errors import SlidescanError
    from slidescan.maps.regions import Region

    __version__: str

__all__ = [
    "Classifier",
    "Map",
    "Progress",
    "Region",
    "SlideResult",
    "SlidescanError",
    "load",
    "open_map",
    "predict",
    "read_region",
    "scan",
    "scan_many",
]

_MODULES = {
    "Classifier": "slidescan.api.models",
    "Map": "slidescan.api.maps",
    "Progress": "slidescan.api.progress",
    "Region": "slidescan.maps.regions",
    "SlideResult": "slidescan.api.batch",
    "SlidescanError": "slidescan.errors",
    "load": "slidescan.api.models",
    "open_map": "slidescan.api.maps",
    "predict": "slidescan.api.patches",
    "read_region": "slidescan.api.slides",
    "scan": "slidescan.api.scan",
    "scan_many": "slidescan.api.batch",
}


if not TYPE_CHECKING:  # with it, a type checker would accept every name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name == "__version__":
            found: object = import_module("importlib.metadata").version("slidescan")
        elif name in _MODULES:
            found = getattr(import_module(_MODULES[name]), name)
        else:
            raise AttributeError(f"module 'slidescan' has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
