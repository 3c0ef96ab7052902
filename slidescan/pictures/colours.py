"""Colours of probabilities, by name.

"heat" is made for overlays on H&E: normal tissue is not tinted, and tumour is red. The others are
perceptually even, legible with colour blindness and when printed in grey. They are those of
matplotlib, in the public domain (CC0): https://github.com/BIDS/colormap; cividis: Nunez et al.
2018, doi:10.1371/journal.pone.0199239. tests/pictures/test_colours.py compares them with
matplotlib, which scanning does not need.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

STEPS = 256
"""Entries of a table of colours: probability p has entry round(255 p)."""

DEFAULT = "heat"

_EVEN = {
    "viridis": (
        "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a"
        "3a538b38598c355e8d33638d31688e2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d"
        "20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc7446c06f50c46a5ac864"
        "65cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725"
    ),
    "cividis": (
        "00224e002656002a5f002d68003070083370163770203a6f273e6e2e416d34456c3a486c3f4c6c"
        "444f6c49536c4e566c535a6d575d6d5c616e60646f656870696b716d6f727272747676767a7a78"
        "7e7d788381798885788d8878928c789690779b9476a09875a59c74aaa073afa471b5a86fbaac6d"
        "bfb06bc4b468c9b965cfbd62d4c15fdac65bdfca57e5cf52ead34cf0d846f6dd3ffce236fee838"
    ),
    "inferno": (
        "00000402020c0504170a072210092d160b391e0c45260c512f0a5b380962400a67490b6a510e6c"
        "59106e61136e69166e71196e781c6d801f6c88226a902568982766a02a63a82e5fb0315bb73557"
        "bf3952c63d4dcc4248d34743d94d3ddf5337e45a31e9612bed6925f1711ff47918f78212f98b0b"
        "fa9407fb9d07fca60cfcb014fbba1ffac42af8cd37f6d746f4e156f2ea69f2f27df5f992fcffa4"
    ),
    "magma": (
        "00000402020b0504160907200e0b2b140e361a104221114e29115a311165390f6e420f754a1079"
        "52137c5a167e6219806a1c81721f81792282812581892881912b81992d80a1307eaa337db2357b"
        "ba3878c23b75ca3e72d2426fd9466be04c67e75263ec5860f1605df4695cf7725cf97b5dfb8560"
        "fc8e64fd9869fea16efeaa74feb47bfebd82fec68afecf92fed89afde2a3fdebacfcf4b6fcfdbf"
    ),
    "plasma": (
        "0d08871b068d2605912f059638049a41049d4903a05102a35901a56100a76900a87100a87801a8"
        "8004a88707a68e0ca49511a19c179ea21d9aa82296ae2892b42e8dba3388bf3984c43e7fc9447a"
        "cd4a76d24f71d6556dda5b69de6164e26660e66c5ce97257ed7953f07f4ff3854bf58c46f79342"
        "f99a3efba139fca835fdaf31feb72dfebe2afdc627fcce25fbd724f8df25f6e826f3f027f0f921"
    ),
}
"""RRGGBB of evenly spaced probabilities, from 0 to 1."""

# Probability, red, green, blue, opacity. 0.5 is yellow.
_HEAT = np.array(
    [
        (0.0, 255, 237, 120, 0.0),
        (0.25, 255, 237, 120, 0.2),
        (0.5, 254, 196, 30, 0.6),
        (0.75, 240, 90, 20, 0.8),
        (1.0, 178, 0, 38, 1.0),
    ]
)

NAMES = (DEFAULT, *_EVEN)


@dataclass(frozen=True, slots=True, eq=False)
class Colours:
    """The colour of every probability, and how it is laid over a slide."""

    rgb: NDArray[np.uint8]
    """(STEPS, 3)"""
    cover: NDArray[np.float64]
    """(STEPS,) from 0, the slide shows, to 1, as opaque as `opacity`"""
    opacity: float
    """the usual one, from 0 to 1"""

    def entries(self, probability: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The entry of each probability; that of a cell which was not scanned means nothing."""
        return np.rint(np.nan_to_num(probability) * (STEPS - 1)).astype(np.uint8)


@cache
def colours(name: str) -> Colours:
    """Return the colours of one of `NAMES`."""
    at = np.linspace(0, 1, STEPS)
    if name == DEFAULT:
        known, *channels, cover = _HEAT.T
        return Colours(_table(at, known, channels), np.interp(at, known, cover), 0.75)
    given = np.frombuffer(bytes.fromhex(_EVEN[name]), np.uint8).reshape(-1, 3)
    known = np.linspace(0, 1, len(given))
    return Colours(_table(at, known, list(given.T)), np.ones(STEPS), 0.5)


def _table(
    at: NDArray[np.float64], known: NDArray[np.float64], channels: list[NDArray[np.float64]]
) -> NDArray[np.uint8]:
    columns = [np.interp(at, known, channel) for channel in channels]
    return np.rint(np.stack(columns, axis=-1)).astype(np.uint8)
