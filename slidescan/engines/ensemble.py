"""Engines made of engines: eight orientations of the pixels, several networks, or both.

The members' values are sorted before they are summed, so a mean depends on which values there are
and not on their order: an image turned or mirrored, or the models named in another order, gives
the same number to the last bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slidescan.engines import build, dense
from slidescan.engines.backend import Backend
from slidescan.engines.graph_cache import GraphCache, user_folder
from slidescan.errors import ModelError
from slidescan.geometry import Field
from slidescan.models import model
from slidescan.models.card import shipped_names
from slidescan.models.model import Model
from slidescan.protocols import Engine
from slidescan.tools.settings_diff import JSON

Tta = Literal["d4"]
"""Test-time augmentation. D4: the square's eight turns and mirrors, which tissue does not know."""

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Orientation:
    """One element of D4: quarter turns, then perhaps a mirror. Axes 1 and 2 are height and width.

    >>> image = np.arange(6).reshape(1, 2, 3)
    >>> [Orientation(1, True).apply(image).tolist()]
    [[[[5, 2], [4, 1], [3, 0]]]]
    >>> all((o.undo(o.apply(image)) == image).all() for o in D4)
    True
    """

    turns: int
    mirrored: bool

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        turned = np.rot90(pixels, self.turns, axes=(1, 2))
        return np.ascontiguousarray(turned[:, :, ::-1] if self.mirrored else turned)

    def undo(self, scores: Scores) -> Scores:
        return np.rot90(scores[:, :, ::-1] if self.mirrored else scores, -self.turns, axes=(1, 2))


D4 = tuple(Orientation(turns, mirrored) for mirrored in (False, True) for turns in range(4))


@dataclass(frozen=True, slots=True)
class Oriented:
    """The mean over the eight orientations of the pixels. Fulfils scan.Engine."""

    engine: Engine
    field: Field

    def __call__(self, pixels: NDArray[np.uint8]) -> Scores:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w)."""
        # Outputs lie symmetrically only in what they need: pixels beyond the last would become
        # pixels before the first.
        height, width = (self.field.extent(self.field.outputs(n)) for n in pixels.shape[1:3])
        needed = pixels[:, :height, :width]
        return mean(o.undo(self.engine(o.apply(needed))) for o in D4)


@dataclass(frozen=True, slots=True)
class Averaged:
    """The mean over several networks. Fulfils scan.Engine."""

    members: Sequence[Engine]

    def __call__(self, pixels: NDArray[np.uint8]) -> Scores:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w)."""
        return mean(member(pixels) for member in self.members)


def mean(values: Iterable[Scores]) -> Scores:
    """The same for every order of `values`, all of one shape and type."""
    ordered = np.sort(np.stack(list(values)), axis=0)
    total = np.zeros(ordered.shape[1:], np.float64)
    for scores in ordered:  # in this order; numpy's own sum chooses one by the shape
        total += scores
    return (total / len(ordered)).astype(ordered.dtype)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """One model or several whose probabilities are averaged, and in which orientations."""

    models: tuple[Model, ...]
    """By their weights' SHA-256, so that the order they are named in does not matter."""
    tta: Tta | None = None
    graphs: GraphCache = field(default_factory=lambda: GraphCache(None))
    """Where OpenVINO's compiled graphs are kept."""

    @classmethod
    def load(cls, sources: Sequence[str], tta: Tta | None = None, cache: bool = False) -> Ensemble:
        """Load shipped models by their names, or files.

        With `cache` compiled graphs are kept in the user's cache folder. Raises `ModelError` where
        a model is missing, named twice, or differs from the others in resolution or field of view.
        """
        loaded = [(source, model.load(source)) for source in sources]
        for place, named in enumerate(loaded):
            _check_fit(loaded[0], named)
            _check_new(loaded[:place], named)
        ordered = sorted((member for _, member in loaded), key=lambda m: _key(m.identity))
        return cls(tuple(ordered), tta, GraphCache(user_folder() if cache else None))

    @property
    def mpp(self) -> float:
        return self.models[0].card.mpp

    @property
    def stride_px(self) -> int | None:
        """The models' own stride; None where they differ, and can score patches alone."""
        strides = {member.card.stride_px for member in self.models}
        return strides.pop() if len(strides) == 1 else None

    @property
    def field_px(self) -> int:
        return self.models[0].card.field_px

    @property
    def name(self) -> str:
        """For people."""
        return " + ".join(member.card.name for member in self.models)

    def record(self) -> dict[str, JSON]:
        """What its numbers depend on: `model`, and `tta` where there is any.

        Of one model this is its identity; of several `model` has the same keys as well, so that
        what asks for a name or a digest finds one.
        """
        members = [member.identity for member in self.models]
        found: dict[str, JSON] = {"model": members[0]}
        if len(members) > 1:
            joined = "".join(member.card.weights_sha256 for member in self.models)
            sha256 = hashlib.sha256(joined.encode()).hexdigest()
            found["model"] = {"name": self.name, "sha256": sha256, "members": members}
        return found | ({"tta": self.tta} if self.tta else {})

    def check(self, backend: Backend, stride_px: int | None = None) -> None:
        """Raise what `engine` would raise, without compiling anything."""
        for member in self.models:
            native = member.card.stride_px
            build.check(member, min(native, stride_px or native), backend, self.graphs)

    def engine(self, backend: Backend, stride_px: int | None = None) -> Engine:
        """Build an engine for each model, and around them what averages.

        They give an output for every `stride_px` pixels, see `dense.dense`; by default for every
        stride of their own, which of patches is one.
        """
        built = [
            dense.make_engine(member, stride_px or member.card.stride_px, backend, self.graphs)
            for member in self.models
        ]
        engine: Engine = built[0] if len(built) == 1 else Averaged(built)
        if self.tta is None:
            return engine
        # Of patches, any stride leaves one output.
        stride_px = stride_px or self.stride_px or self.field_px
        return Oriented(engine, Field(0, self.field_px, stride_px))


def _check_fit(first: tuple[str, Model], other: tuple[str, Model]) -> None:
    a, b = (f"{m.card.mpp} um/px and field {m.card.field_px} px" for _, m in (first, other))
    if a != b:
        raise ModelError(
            f"--model {other[0]}: is for {b}, and {first[0]} for {a}; an ensemble needs models "
            "that agree in both"
        )


def _check_new(before: Sequence[tuple[str, Model]], named: tuple[str, Model]) -> None:
    for source, there in before:
        if _key(there.identity) == _key(named[1].identity):
            raise ModelError(
                f"--model {named[0]}: is the same model as {source}, and would count twice; "
                "name each one once"
            )


def _key(identity: Mapping[str, Any]) -> str:
    """All that determines a model's numbers, which its name does not."""
    return json.dumps({k: identity[k] for k in ("sha256", "calibration") if k in identity})


# --- what a map or a table says it was made with ----------------------------------------------


def same_models(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of the same models, whatever these are called."""
    return {_key(m) for m in _members(one)} == {_key(m) for m in _members(other)}


def shipped_models(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The models of a record by the names they are shipped under; the default where one is not.

    >>> shipped_models({"model": {"name": "fast", "sha256": "0123456789abcdef"}})
    ('fast',)
    """
    names = tuple(member["name"] for member in _members(record))
    return names if set(names) <= set(shipped_names()) else (model.DEFAULT,)


def described(record: Mapping[str, Any]) -> str:
    """The models of a record, for an error message.

    >>> described({"model": {"name": "default", "sha256": "0123456789abcdef"}})
    'default of SHA-256 0123456789ab...'
    """
    return " and ".join(
        f"{member['name']} of SHA-256 {member['sha256'][:12]}..."
        + (", calibrated" if "calibration" in member else "")
        for member in _members(record)
    )


def _members(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = record["model"].get("members", [record["model"]])
    return found
