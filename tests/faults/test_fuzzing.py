"""Every parser of ours ends hostile files in success or in one printable line.

Never in another exception, and never without end. `make faults` is the full form:
SLIDESCAN_FUZZ=20000 of each kind of file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import annotation_files
import hostile
import hostile_onnx
import maps
import models
import networks
import numpy as np
import pytest
import slides
import yaml
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy
from slidescan_train.loop import history
from slidescan_train.recipe.config import TrainConfig, load_config
from slidescan_train.runs import checkpoint
from slidescan_train.runs.comparison import compare

from slidescan.annotations.reading import load_annotations
from slidescan.errors import MOST_CHARACTERS, SlidescanError
from slidescan.evaluation.scores import read_scores
from slidescan.evaluation.truth import read_column
from slidescan.geometry import Box
from slidescan.maps.finished import EngineSettings, open_finished, recorded_bounds, settings_of
from slidescan.models import model
from slidescan.patches import sources
from slidescan.patches.journal import Journal
from slidescan.patches.labelled.sources import list_patches
from slidescan.patches.labelled.splits import read_groups
from slidescan.scanning.listing import read_arguments
from slidescan.scanning.manifest import read_manifest
from slidescan.tools.leases import holders

FULL = "SLIDESCAN_FUZZ" in os.environ
EXAMPLES = int(os.environ.get("SLIDESCAN_FUZZ", "10"))

SECONDS = 20
"""Of a processor, that no file of less than a megabyte may take."""


@contextmanager
def bounded() -> Iterator[None]:
    """Fail after SECONDS of a processor; a busy machine makes no difference."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return

    def late(*_: object) -> None:
        raise AssertionError(f"no end within {SECONDS} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def ends_well(read: Callable[[], object]) -> bool:
    """Whether it was read; another exception than ours is raised, and so is a bad message."""
    with bounded():
        try:
            read()
        except SlidescanError as error:
            told = str(error)
        else:
            return True
    good_line(told)
    return False


def good_line(text: str) -> None:
    assert len(text) <= MOST_CHARACTERS + 20, text  # warnings may add a few words to an error
    assert text.isprintable(), text


@dataclass(frozen=True)
class Parser:
    """A kind of file, a valid one, how it is spoilt and what reads it."""

    file: str
    valid: bytes
    spoilt: Callable[[bytes], SearchStrategy[bytes]]
    read: Callable[[Path], object]
    """Reads the file at a path, whose folder is its own."""
    beside: dict[str, bytes] = field(default_factory=dict)
    """What else is in the folder."""


def pieces(path: Path) -> Any:
    """Ids in a text file, of the folder's patches."""
    return list_patches(path.parent / "pcam", path)


def leases(path: Path) -> object:
    assert all(isinstance(holder.pid, int) for holder in holders(path.parent).values())
    return None


def journal(path: Path) -> object:
    with Journal(path, {"model": "a"}, 3) as found:
        assert np.isnan(found.scores).sum() + np.isfinite(found.scores).sum() == 3
    return None


def runs(path: Path) -> object:
    return compare(path.parent, good_line)


TABLE, LABELS = b"id,label\na,0.25\nb,1\nc,0\n", b"id,label\na,0\nb,1\nc,0\n"
EPOCHS = (
    ",".join(each.name for each in fields(history.Epoch) if each.name != "further")
    + "\n1,0.1,0.5,0.5,0.5,0.5,0.5,0.5,100,0.1,30\n"
).encode()
MANIFEST = (
    b"slide,map,state,reason,warnings,mpp,model,settings,rows,columns,scanned,tissue_mm2,highest,"
    b"p99_9,seconds,finished\n/a.svs,a.zarr,done,,,0.972,fast,ab,3,4,5,0.1,0.9,0.8,3,2026-11-30\n"
)
LEASE = b"1\nhost=node1?x\npid=12\ntoken=ab\n"
CONFIG = yaml.safe_dump(TrainConfig().model_dump(mode="json")).encode()
FORMS = {
    name: text.encode() if isinstance(text, str) else json.dumps(text).encode()
    for name, text in annotation_files.FORMS.items()
}

PARSERS = {
    "configuration": Parser("a.yaml", CONFIG, hostile.yaml_of, load_config),
    "run": Parser("config.yaml", CONFIG, hostile.yaml_of, runs, {"metrics.csv": EPOCHS}),
    "metrics": Parser(
        "metrics.csv", EPOCHS, hostile.csv_of, lambda path: history.read(path, history.Epoch)
    ),
    "asap": Parser("a.xml", FORMS["asap"], hostile.damaged, load_annotations),
    "ncrf": Parser("a.json", FORMS["ncrf"], hostile.json_of, load_annotations),
    "geojson": Parser("a.geojson", FORMS["collection"], hostile.json_of, load_annotations),
    "nested": Parser("a.json", FORMS["nested"], hostile.json_of, load_annotations),
    "slides": Parser(
        "a.csv",
        b"slide,name,mpp,site\na.svs,one,0.25,x\nb.svs,,,y\n",
        hostile.csv_of,
        lambda path: read_arguments([path]),
    ),
    "predictions": Parser(
        "a.csv",
        TABLE,
        hostile.csv_of,
        lambda path: read_scores([path], path.with_name("labels.csv")),
        {"labels.csv": LABELS},
    ),
    "true labels": Parser(
        "labels.csv",
        LABELS,
        hostile.csv_of,
        lambda path: read_scores([path.with_name("a.csv")], path),
        {"a.csv": TABLE},
    ),
    "groups": Parser("a.csv", b"id,slide\na,s1\nb,s2\n", hostile.csv_of, read_groups),
    "truth": Parser(
        "a.csv",
        b"slide,label\ns1,0\ns2,1\n",
        hostile.csv_of,
        lambda path: read_column(path, "label"),
    ),
    "manifest": Parser("manifest.csv", MANIFEST, hostile.csv_of, read_manifest),
    "lease": Parser("a.zarr.lease", LEASE, hostile.damaged, leases),
    "journal": Parser(
        "a.csv.partial",
        b'# slidescan predict {"model": "a"}\n0,0.25\n1,0.5\n',
        hostile.damaged,
        journal,
    ),
    "list of patches": Parser("a.txt", b"a.png\n# no\nb.png\n", hostile.damaged, sources.listed),
    "labels": Parser(
        "pcam/train_labels.csv",
        b"id,label\na,0\nb,1\n",
        hostile.csv_of,
        lambda path: list_patches(path.parent),
        {"pcam/train/a.tif": b"", "pcam/train/b.tif": b""},
    ),
    "ids": Parser(
        "ids.txt",
        b"a\nb\n",
        hostile.damaged,
        pieces,
        {"pcam/train_labels.csv": b"id,label\na,0\nb,1\n", "pcam/train/a.tif": b"",
         "pcam/train/b.tif": b""},
    ),
}  # fmt: skip


def fuzz(spoilt: SearchStrategy[bytes], tell: Callable[[bytes], bool], examples: int) -> None:
    """Try as many files as the form has; the short one the same files every time."""
    ends = [0, 0]

    @settings(max_examples=examples, derandomize=not FULL, database=None)
    @given(spoilt)
    def each(content: bytes) -> None:
        ends[tell(content)] += 1

    each()
    if FULL:
        print(f"\n{ends[0]:,} refused, {ends[1]:,} read", end="")


def written(folder: Path, parser: Parser) -> Path:
    for name, content in (parser.beside | {parser.file: parser.valid}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / parser.file


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.timeout(0)
def test_files(name: str, tmp_path: Path) -> None:
    parser = PARSERS[name]
    path = written(tmp_path, parser)
    assert ends_well(lambda: parser.read(path))

    def tell(content: bytes) -> bool:
        path.write_bytes(content)
        return ends_well(lambda: parser.read(path))

    fuzz(parser.spoilt(parser.valid), tell, EXAMPLES)


FOUND = [
    ("metrics", EPOCHS.strip() + b",30,beyond,the,header\n"),
    ("run", b"epochs: 3\npatience: soon\n"),
    ("run", b"epochs: 3\n2026-01-01: 1\n"),
    ("run", b"epochs: 3\nplan: {arch: 3}\n"),
    ("slides", b"\xff" * 400 + b"\n"),
    ("slides", b"name,slide\nshort\n"),
    ("journal", b"# slidescan predict " + b"[" * 3000 + b"\n0,0.25\n"),
]
"""Files that were a traceback or a line of thousands of characters once."""


@pytest.mark.parametrize(("name", "content"), FOUND)
def test_files_that_were_found(name: str, content: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, PARSERS[name])
    path.write_bytes(content)
    ends_well(lambda: PARSERS[name].read(path))


@pytest.mark.timeout(0)
def test_model_cards(tmp_path: Path) -> None:
    path = models.save(tmp_path / "a.safetensors", networks.network(networks.plan("4/2", "R")))
    card = path.with_suffix(".json")

    def tell(content: bytes) -> bool:
        card.write_bytes(content)
        return ends_well(lambda: model.load(str(path)).network)

    fuzz(hostile.json_of(card.read_bytes()), tell, EXAMPLES)


@pytest.mark.timeout(0)
def test_weights(tmp_path: Path) -> None:
    """With a card that has their SHA-256: somebody made both."""
    path = models.save(tmp_path / "a.safetensors", networks.network(networks.plan("4/2", "R")))
    card, weights = json.loads(path.with_suffix(".json").read_text()), path.read_bytes()

    def tell(content: bytes) -> bool:
        path.write_bytes(content)
        told = card | {"weights_sha256": hashlib.sha256(content).hexdigest()}
        path.with_suffix(".json").write_text(json.dumps(told))
        return ends_well(lambda: model.load(str(path)).network)

    fuzz(safetensors_of(weights), tell, EXAMPLES)


def safetensors_of(content: bytes) -> SearchStrategy[bytes]:
    """Damaged bytes, and whole files whose header is edited."""
    size = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]

    def encode(document: Any) -> bytes:
        text = json.dumps(document).encode()
        return len(text).to_bytes(8, "little") + text + rest

    return hostile.damaged(content) | hostile.edited(header).map(encode)


@pytest.mark.timeout(0)
def test_checkpoints(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, {"a": torch.arange(6.0)}, {"about": {"config": {}}, "learner": {}})

    def tell(content: bytes) -> bool:
        path.write_bytes(content)
        return ends_well(lambda: checkpoint.load(path))

    fuzz(safetensors_of(path.read_bytes()), tell, EXAMPLES)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_onnx_teachers(tmp_path: Path) -> None:
    import torch
    from slidescan_train.teachers.teacher import load_teacher

    path, device = tmp_path / "a.onnx", torch.device("cpu")

    def read() -> object:
        return load_teacher(str(path), device)

    def tell(content: bytes) -> bool:
        path.write_bytes(content)
        return ends_well(read)

    assert tell(hostile_onnx.network().SerializeToString())
    fuzz(hostile_onnx.files(), tell, EXAMPLES)


@pytest.fixture(scope="module")
def small_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map")
    slides.write_slide(folder / "slide.tif", slides.section(64, 80), mpp=maps.MPP)
    values = np.random.default_rng(0).random((8, 10), np.float32)
    return maps.write_map(
        folder / "map.zarr", folder / "slide.tif", values,
        engine="torch", device="cpu", precision="fp32",
    )  # fmt: skip


def read_map(path: Path) -> None:
    """What readers of maps read."""
    heatmap = open_finished(path)
    settings_of(heatmap, EngineSettings)
    recorded_bounds(heatmap)
    for level, shape in enumerate(heatmap.shapes):
        heatmap.read(Box(0, 0, *shape), level)


@pytest.mark.parametrize(
    "part", ["zarr.json", "0/zarr.json", "labels/zarr.json", "labels/tissue/0/zarr.json", "0/c/0/0"]
)
@pytest.mark.timeout(0)
def test_maps(part: str, small_map: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small_map, tmp_path / "map.zarr"))
    assert ends_well(lambda: read_map(path))
    valid = (path / part).read_bytes()

    def tell(content: bytes) -> bool:
        (path / part).write_bytes(content)
        return ends_well(lambda: read_map(path))

    spoilt = hostile.json_of(valid) if part.endswith(".json") else hostile.damaged(valid)
    fuzz(spoilt, tell, EXAMPLES)
