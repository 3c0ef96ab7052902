"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import hypothesis
import models
import networks
import pytest
import slides
import torch

from slidescan.maps import layout

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT in what it starts in the background, and the commands would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Time limits for one example fail on a machine that is busy.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """torch computes in one thread.

    More gain nothing on networks this small. On a busy machine they wait for each other a hundred
    times longer than they compute.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled graphs of the tests, and of the commands that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def slide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic slides. Tests leave them as they are and damage copies.

    checkerboard.tif: 0.25 um/px, levels 4 and 16, whose dimensions are rounded down.
    even.tif: noise, every reported downsample is an integer. odd.tif: noise, none is an integer.
    waves.tif: smooth, level 2 is rounded down. no-mpp.tif: records no resolution.
    tiny.tif: 50 x 70 px. strips.tif: has no tiles, so OpenSlide refuses it.
    """
    folder = tmp_path_factory.mktemp("slides")
    slides.write_slide(folder / "checkerboard.tif", slides.checkerboard(1027, 1301), levels=(4, 16))
    slides.write_slide(folder / "even.tif", slides.noise(512, 768), levels=(4,), tile=128)
    slides.write_slide(folder / "odd.tif", slides.noise(515, 770), levels=(2, (201, 301)))
    slides.write_slide(folder / "waves.tif", slides.waves(701, 901), levels=(2,))
    slides.write_slide(folder / "no-mpp.tif", slides.checkerboard(300, 200), mpp=None)
    slides.write_slide(folder / "tiny.tif", slides.checkerboard(50, 70, side=16))
    slides.write_strips(folder / "strips.tif", slides.checkerboard(300, 200))
    return folder


@pytest.fixture(scope="session")
def section(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A section on glass, 0.972 um/px, with a level of 4. Tests leave it as it is."""
    path = tmp_path_factory.mktemp("section") / "section.tif"
    slides.write_slide(path, slides.section(700, 900), mpp=0.972, levels=(4,))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and the card of a network of 4 filters whose probabilities vary."""
    network = networks.network(networks.plan("4/2", "R N N R")).float()
    classifier = network.head.classifier
    assert isinstance(classifier, torch.nn.Conv2d)
    with torch.no_grad():
        classifier.weight.mul_(4)
    return models.save(tmp_path_factory.mktemp("model") / "tiny.safetensors", network)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 32 cells, so that a small slide has many."""
    monkeypatch.setattr(layout, "BLOCK_CELLS", 32)
    monkeypatch.setattr(layout, "CHUNK_CELLS", 16)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and patches that SLIDESCAN_TEST_DATA names."""
    folder = os.environ.get("SLIDESCAN_TEST_DATA")
    if not folder:
        pytest.skip("SLIDESCAN_TEST_DATA names no folder of real slides")
    return Path(folder)


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The published NASNet-A Mobile, without the rest of its package."""
    package = find_spec("pretrainedmodels")  # finds, does not import
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs the reference: pip install --no-deps pretrainedmodels==0.7.4")
    path = Path(package.submodule_search_locations[0], "models", "nasnet_mobile.py")
    spec = spec_from_file_location("reference_nasnet_mobile", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "pretrainedmodels" not in sys.modules
    return module
