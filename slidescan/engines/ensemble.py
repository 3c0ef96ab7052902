"""One model or several: loads them and builds the engine that averages their probabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from slidescan.engines import build, dense
from slidescan.engines.averaging import Averaged, Oriented, Tta
from slidescan.engines.backend import Backend
from slidescan.engines.graph_cache import GraphCache, user_folder
from slidescan.errors import ModelError
from slidescan.geometry import Field
from slidescan.models import identity, model
from slidescan.models.model import Model
from slidescan.models.reference import Reference
from slidescan.protocols import Engine
from slidescan.tools.settings_diff import JSON


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Models whose probabilities are averaged, and over which orientations."""

    models: tuple[Model, ...]
    """Sorted by the SHA-256 of their weights: the order in which they are named has no effect."""
    tta: Tta | None = None
    graphs: GraphCache = field(default_factory=lambda: GraphCache(None))
    """Where OpenVINO's compiled graphs are kept."""

    @classmethod
    def load(cls, sources: Sequence[str], tta: Tta | None = None, cache: bool = False) -> Ensemble:
        """Load models by name or file, see `models.model.load`.

        With `cache` compiled graphs are kept in the user's cache folder. Raises `ModelError` where
        a model is missing, named twice, or differs from the others in resolution or field of view.
        """
        loaded = [(source, model.load(source)) for source in sources]
        for place, named in enumerate(loaded):
            _check_fit(loaded[0], named)
            _check_new(loaded[:place], named)
        ordered = sorted((member for _, member in loaded), key=lambda m: identity.key(m.identity))
        return cls(tuple(ordered), tta, GraphCache(user_folder() if cache else None))

    @property
    def mpp(self) -> float:
        return self.models[0].card.mpp

    @property
    def stride_px(self) -> int | None:
        """The stride of all models; None where they differ."""
        strides = {member.card.stride_px for member in self.models}
        return strides.pop() if len(strides) == 1 else None

    @property
    def field_px(self) -> int:
        return self.models[0].card.field_px

    @property
    def name(self) -> str:
        """The names of the models, for messages."""
        return " + ".join(member.card.name for member in self.models)

    @property
    def references(self) -> list[Reference | None]:
        """What the training patches of each model look like."""
        return [member.card.reference for member in self.models]

    def record(self) -> dict[str, JSON]:
        """What the numbers depend on: `model`, and `tta` if there is any.

        `model` is the identity of one model. Of several it has a joint name and SHA-256, and their
        identities as `members`.
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
        """Build an engine for each model and the engine that averages them.

        It gives an output for every `stride_px` pixels (see `dense.strides`), by default at each
        model's own stride; then it takes patches only, unless all have the same.
        """
        built = [
            dense.make_engine(member, stride_px or member.card.stride_px, backend, self.graphs)
            for member in self.models
        ]
        engine: Engine = built[0] if len(built) == 1 else Averaged(built)
        if self.tta is None:
            return engine
        # A patch gives one output at any stride.
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
        if identity.key(there.identity) == identity.key(named[1].identity):
            raise ModelError(
                f"--model {named[0]}: is the same model as {source}, and would count twice; "
                "name each one once"
            )
