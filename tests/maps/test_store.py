"""The map on disk: nothing half-made, nothing mixed, nothing of others touched."""

import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from maps import contents
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image, ImageLabel, Labels

from slidescan.errors import SlidescanError, WriteError
from slidescan.geometry import Box, Grid
from slidescan.maps import layout, record
from slidescan.maps.layout import DamageError
from slidescan.maps.store import Heatmap
from slidescan.tools.temporary_files import MARK

GRID = Grid((1099, 701), stride=2)  # 550 x 351 cells: 3 x 2 blocks, three levels, odd edges
MPP = 0.972
SETTINGS = {"model": {"name": "seed", "sha256": "ab"}, "slide": "f00d", "fields": [1, 2]}
EMPTY = Box(0, 256, 256, 351)  # a block without tissue
BLOCKS = list(GRID.cells.split(layout.BLOCK_CELLS))


def blank(**changes: Any) -> Any:
    rng = np.random.default_rng(1)
    mask = rng.random(GRID.shape) < 0.4
    mask[EMPTY.slices] = False
    mask[300:303, 300:303] = False
    provenance = {"started": "today"}
    kept = {"grid": GRID, "mpp": MPP, "mask": mask, "settings": SETTINGS, "provenance": provenance}
    return kept | changes


MASK: NDArray[np.bool_] = blank()["mask"]
# Noise in few bits: compressible, so that a flipped bit does not just hit a stored literal.
NOISE = np.random.default_rng(2).integers(0, 64, GRID.shape) / 64
VALUES = np.where(MASK, NOISE, np.nan).astype(np.float32)


def fill(heatmap: Heatmap) -> None:
    for block in heatmap.missing():
        heatmap.write(block, VALUES[block.slices])


def shard(path: Path, block: Box) -> Path:
    side = layout.BLOCK_CELLS
    return path / "0" / "c" / str(block.y0 // side) / str(block.x0 // side)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slide [1].zarr"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map made in one go; read only."""
    path = tmp_path_factory.mktemp("finished") / "map.zarr"
    with Heatmap.create(path, **blank()) as heatmap:
        fill(heatmap)
        heatmap.finish({"seconds": 1.5})
    return path


def child(path: Path, action: str) -> subprocess.Popen[str]:
    """A process of its own that runs the function `action` of this file."""
    folders = [str(Path(__file__).parent), *sys.path]
    code = f"import sys; sys.path[:] = {folders!r}; import test_store as t; t.{action}"
    code += f"(t.Path({str(path)!r}))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def refused(make: Callable[[], object], *words: str) -> None:
    """`make` fails with one line that has all the words."""
    with pytest.raises(SlidescanError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


# --- what a finished map is


def test_values_read_back_byte_identical(finished: Path) -> None:
    heatmap = Heatmap.open(finished)
    assert heatmap.complete
    assert heatmap.read(GRID.cells).tobytes() == VALUES.tobytes()
    part = Box(250, 100, 261, 300)
    assert heatmap.read(part).tobytes() == VALUES[part.slices].tobytes()
    np.testing.assert_array_equal(heatmap.mask, MASK)
    assert (heatmap.grid, heatmap.mpp, heatmap.settings) == (GRID, MPP, SETTINGS)
    assert heatmap.provenance == {"started": "today", "seconds": 1.5}


def test_ngff_validators_accept_image_and_labels(finished: Path) -> None:
    image = Image.from_zarr(zarr.open_group(finished, mode="r"))
    labels = Labels.from_zarr(zarr.open_group(finished / "labels", mode="r"))
    label = ImageLabel.from_zarr(zarr.open_group(finished / "labels/tissue", mode="r"))
    assert labels.attributes.ome.labels == ["tissue", "gaps"]
    (scales,), (label_scales,) = (x.attributes.ome.multiscales for x in (image, label))
    # NGFF 0.5 asks for as many label levels as image levels.
    assert len(scales.datasets) == len(label_scales.datasets) == 3
    assert [axis.unit for axis in scales.axes] == ["micrometer", "micrometer"]


def test_every_level_overlays_the_slide(finished: Path) -> None:
    """Sample centres: the upper-left corner of the first cell is micrometre 0 on every level."""
    (scales,) = zarr.open_group(finished, mode="r").attrs["ome"]["multiscales"]
    for level, dataset in enumerate(scales["datasets"]):
        scale, translation = dataset["coordinateTransformations"]
        assert scale["scale"] == [1.944 * 2**level] * 2  # 2 px of 0.972 um
        assert translation["translation"] == [0.972 * 2**level] * 2
    assert (scales["name"], scales["type"]) == ("map", "mean")


def test_arrays_are_sharded_float32_with_nan_fill(finished: Path) -> None:
    group = zarr.open_group(finished, mode="r")
    assert sorted(group.array_keys()) == ["0", "1", "2"]
    for level in range(3):
        array = group[str(level)]
        assert isinstance(array, zarr.Array)
        assert array.dtype == np.float32
        assert array.metadata.dimension_names == ("y", "x")
        assert np.isnan(array.fill_value)
        assert (array.shards, array.chunks) == ((256, 256), (128, 128))


def test_coarser_levels_are_means_of_what_is_there(finished: Path) -> None:
    heatmap = Heatmap.open(finished)
    tissue = zarr.open_group(finished / "labels/tissue", mode="r")
    assert heatmap.shapes == [(550, 351), (275, 176), (138, 88)]
    finer = VALUES
    for level, shape in enumerate(heatmap.shapes[1:], start=1):
        expected = np.empty(shape, np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no cell
            for y, x in np.ndindex(shape):
                cells = finer[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                expected[y, x] = np.nanmean(cells, dtype=np.float64)
        found = heatmap.read(Box(0, 0, *shape), level)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(tissue[str(level)][:], np.isfinite(found))
        finer = expected


def test_a_map_smaller_than_a_chunk(path: Path) -> None:
    grid = Grid((17, 9), stride=8)
    mask = np.array([[True, False], [False, False], [True, True]])
    with Heatmap.create(path, **blank(grid=grid, mask=mask)) as heatmap:
        values = np.where(mask, np.float32(0.25), np.float32(np.nan))
        heatmap.write(grid.cells, values)
        heatmap.finish({})
        assert heatmap.shapes == [(3, 2)]
        np.testing.assert_array_equal(heatmap.read(grid.cells), values)
    Image.from_zarr(zarr.open_group(path, mode="r"))


def test_any_order_and_any_pauses_give_the_same_bytes(path: Path, finished: Path) -> None:
    blocks = BLOCKS.copy()
    random.Random(3).shuffle(blocks)
    for block in blocks[:3]:
        with Heatmap.resume_or_create(path, **blank()) as heatmap:
            heatmap.write(block, VALUES[block.slices])
    with Heatmap.resume_or_create(path, **blank()) as heatmap:
        heatmap.write(blocks[0], VALUES[blocks[0].slices])  # once more, over a done one
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda b: heatmap.write(b, VALUES[b.slices]), blocks[3:]))
        heatmap.finish({})
    assert contents(path) == contents(finished)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no lock, nothing hidden


# --- what is done, and what is not


def test_done_is_what_was_written(path: Path) -> None:
    with Heatmap.create(path, **blank()) as heatmap:
        wanted = [block for block in BLOCKS if block != EMPTY]  # nothing to scan there
        assert list(heatmap.missing()) == wanted
        for n, block in enumerate(wanted, start=1):
            heatmap.write(block, VALUES[block.slices])
            assert list(heatmap.missing()) == wanted[n:]


def test_unfinished_does_not_look_whole(path: Path) -> None:
    with Heatmap.create(path, **blank()) as heatmap:
        heatmap.write(BLOCKS[2], VALUES[BLOCKS[2].slices])
        refused(lambda: heatmap.finish({}), "4 blocks are missing", "again")
    found = Heatmap.open(path)
    assert not found.complete
    assert np.isnan(found.read(BLOCKS[0])).all()
    for level in (1, 2):
        assert np.isnan(found.read(Box(0, 0, *found.shapes[level]), level)).all()


@pytest.mark.parametrize("keep", [0, 1, 30, 0.5, -1])
def test_a_truncated_shard_is_not_done_and_is_rewritten(path: Path, keep: float) -> None:
    block = BLOCKS[0]
    with Heatmap.create(path, **blank()) as heatmap:
        heatmap.write(block, VALUES[block.slices])
        file = shard(path, block)
        whole = file.read_bytes()
        file.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else int(keep)])
        assert not heatmap.done(block)
        if keep:  # zarr reads an empty file like a missing one, as NaN
            with pytest.raises(DamageError, match="run the scan again"):
                heatmap.read(block)
        heatmap.write(block, VALUES[block.slices])
        assert heatmap.done(block)
        assert file.read_bytes() == whole


def test_flipped_bits_are_never_taken_for_values(path: Path) -> None:
    block = BLOCKS[-1]  # 38 x 95 cells in one chunk: a short file
    with Heatmap.create(path, **blank()) as heatmap:
        heatmap.write(block, VALUES[block.slices])
        file = shard(path, block)
        whole = file.read_bytes()
        rng = random.Random(4)
        places = {
            *range(20),
            *range(len(whole) - 72, len(whole)),
            *rng.sample(range(len(whole)), 80),
        }
        caught = 0
        for place in places:
            hurt = bytearray(whole)
            hurt[place] ^= 1 << rng.randrange(8)
            file.write_bytes(hurt)
            if heatmap.done(block):  # a bit of the frame header that decoding does not heed
                assert heatmap.read(block).tobytes() == VALUES[block.slices].tobytes()
            else:
                caught += 1
        assert caught > 0.95 * len(places)


def test_values_must_be_a_block_and_fit_the_mask(path: Path) -> None:
    block, inside = BLOCKS[0], VALUES[BLOCKS[0].slices]
    with Heatmap.create(path, **blank()) as heatmap:
        outside = np.nan_to_num(inside, nan=0.5)
        half = Box(0, 0, 128, 256)
        for box, values in [
            (block, outside),
            (block, np.where(np.isnan(inside), np.float32(np.inf), inside)),
            (block, inside.astype(np.float64)),
            (block, inside[:100]),
            (half, VALUES[half.slices]),
            (block.shift(0, 1), inside),
            (Box(768, 0, 768, 256), inside[:0]),
        ]:
            with pytest.raises(ValueError, match=r"block|mask"):
                heatmap.write(box, values)
        assert not heatmap.done(block)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_network_that_gives_nan_is_told(path: Path, bad: float) -> None:
    values = VALUES[BLOCKS[0].slices].copy()
    values[tuple(np.argwhere(np.isfinite(values))[5])] = bad
    with Heatmap.create(path, **blank()) as heatmap:
        refused(lambda: heatmap.write(BLOCKS[0], values), "1 values", "not finite", "float32")


# --- resuming


def test_other_settings_are_refused_key_by_key(path: Path) -> None:
    Heatmap.create(path, **blank()).close()
    before = contents(path)
    other = {"model": {"name": "seed", "sha256": "cd"}, "slide": "f00d", "precision": "fp32"}
    refused(
        lambda: Heatmap.resume_or_create(path, **blank(settings=other, mpp=0.5)),
        'model.sha256: "ab" there, "cd" here',
        "mpp: 0.972 there, 0.5 here",
        'precision: absent there, "fp32" here',
        "fields: [1, 2] there, absent here",
        "--overwrite",
        "--out",
    )
    stride = Grid(GRID.extent_px, stride=4)
    mask = np.ones(stride.shape, np.bool_)
    refused(
        lambda: Heatmap.resume_or_create(path, **blank(grid=stride, mask=mask)),
        "grid.stride: 2 there, 4 here",
    )
    flipped = MASK.copy()
    flipped[:2, 0] ^= True
    refused(lambda: Heatmap.resume_or_create(path, **blank(mask=flipped)), "mask: 2 cells differ")
    assert contents(path) == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_equal_settings_continue_whatever_the_provenance(path: Path) -> None:
    Heatmap.create(path, **blank()).close()
    same = {"fields": (1, 2), "slide": "f00d", "model": {"sha256": "ab", "name": "seed"}}
    with Heatmap.resume_or_create(path, **blank(settings=same, provenance={})) as heatmap:
        fill(heatmap)
        assert heatmap.provenance == {"started": "today"}
        heatmap.finish({})
    with Heatmap.resume_or_create(path, **blank()) as heatmap:
        assert heatmap.complete


def test_a_complete_map_with_a_damaged_block_is_mended(path: Path, finished: Path) -> None:
    with Heatmap.create(path, **blank()) as heatmap:
        fill(heatmap)
        heatmap.finish({})
    shard(path, BLOCKS[3]).write_bytes(b"")
    with Heatmap.resume_or_create(path, **blank()) as heatmap:
        assert not heatmap.complete
        assert not Heatmap.open(path).complete
        assert list(heatmap.missing()) == [BLOCKS[3]]
        fill(heatmap)
        heatmap.finish({})
    assert contents(path) == contents(finished)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "calls"), [("_put", 0), ("_put", 2), ("_mark", 0)])
def test_finish_can_be_killed_and_repeated(
    path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, step: str, calls: int
) -> None:
    real, left = getattr(Heatmap, step), iter(range(calls))

    def killed(*args: Any, **kwargs: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    with Heatmap.create(path, **blank()) as heatmap:
        fill(heatmap)
        with monkeypatch.context() as patch:
            patch.setattr(Heatmap, step, killed)
            with pytest.raises(KeyboardInterrupt):
                heatmap.finish({})
        assert not Heatmap.open(path).complete
    with Heatmap.resume_or_create(path, **blank()) as heatmap:
        heatmap.finish({"a": 1})
        heatmap.finish({"a": 2})
    assert Heatmap.open(path).provenance == {"started": "today", "a": 1}
    assert contents(path) == contents(finished)


# --- creating, replacing, leaving alone


def test_the_map_has_the_permissions_of_a_new_folder(path: Path) -> None:
    Heatmap.create(path, **blank()).close()
    plain = path.parent / "plain"
    plain.mkdir()
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_failed_creation_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout, "sync", full)
    refused(lambda: Heatmap.create(path, **blank()), "disk full", "again")
    assert list(path.parent.iterdir()) == []


def create_and_die(path: Path) -> None:
    layout.sync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    Heatmap.create(path, **blank())


def test_a_killed_creation_leaves_no_half_map(path: Path) -> None:
    with child(path, "create_and_die") as process:
        assert process.wait() == -signal.SIGKILL
    assert not path.exists()
    assert list(path.parent.iterdir()) != []  # its hidden folder
    mine = path.parent / f".{path.name}-b-abcdefgh{MARK}"  # of a map "slide-b"
    mine.mkdir()
    Heatmap.create(path, **blank()).close()
    assert sorted(path.parent.iterdir()) == [mine, path]


def test_nan_in_settings_is_our_bug(path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Heatmap.create(path, **blank(settings={"mean": float("nan")}))
    assert list(path.parent.iterdir()) == []


def test_a_mask_of_another_shape_is_our_bug(path: Path) -> None:
    for mask in (MASK[:-1], MASK.astype(np.uint8)):
        with pytest.raises(ValueError, match="mask"):
            Heatmap.create(path, **blank(mask=mask))


def test_an_existing_map_needs_overwrite(path: Path) -> None:
    with Heatmap.create(path, **blank()) as heatmap:
        fill(heatmap)
    refused(lambda: Heatmap.create(path, **blank()), "exists", "--overwrite")
    other = blank(settings={"model": "other"}, overwrite=True)
    with Heatmap.resume_or_create(path, **other) as heatmap:
        assert heatmap.settings == {"model": "other"}
        assert np.isnan(heatmap.read(GRID.cells)).all()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_failed_replacement_keeps_the_old_map(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Heatmap.create(path, **blank()) as heatmap:
        fill(heatmap)
    before, real = contents(path), Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    refused(lambda: Heatmap.create(path, overwrite=True, **blank()), "Permission denied")
    assert contents(path) == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.doc").write_text("years of work")
    (path / "c.0.partial").write_text("not ours")


def file(path: Path) -> None:
    path.write_text("a file")


def other_zarr(path: Path) -> None:
    zarr.create_group(path, attributes={"ome": {}}).create_array("0", shape=(1,), dtype="u1")


def broken(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text('{"attributes": {"slidescan": ')


@pytest.mark.parametrize("make", [folder, file, other_zarr, broken])
def test_what_is_not_ours_is_left_alone(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    files = [path, *path.rglob("*")]
    before = [(f, f.stat().st_mtime_ns, f.read_bytes() if f.is_file() else None) for f in files]
    for overwrite in (False, True):
        for door in (Heatmap.create, Heatmap.resume_or_create):
            refused(lambda: door(path, overwrite=overwrite, **blank()), "left alone", "--out")  # noqa: B023
    refused(lambda: Heatmap.open(path), "not a slidescan map")
    refused(lambda: Heatmap.open(path, writable=True), "not a slidescan map")
    files = [path, *path.rglob("*")]
    after = [(f, f.stat().st_mtime_ns, f.read_bytes() if f.is_file() else None) for f in files]
    assert after == before
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_folder_is_used(path: Path) -> None:
    path.mkdir()
    Heatmap.resume_or_create(path, **blank()).close()
    assert not Heatmap.open(path).complete


def test_a_link_is_followed(path: Path) -> None:
    link = path.parent / "link"
    link.symlink_to(path)
    Heatmap.create(link, **blank()).close()
    Heatmap.create(link, overwrite=True, **blank()).close()
    assert link.is_symlink()
    assert Heatmap.open(path).path == path


def test_a_newer_format_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(record, "FORMAT", 2)
        Heatmap.create(path, **blank()).close()
    refused(lambda: Heatmap.open(path), "format 2", "update slidescan")


# --- one writer


def test_a_second_writer_is_refused_and_readers_are_not(path: Path) -> None:
    with Heatmap.create(path, **blank()) as heatmap:
        for second in (
            lambda: Heatmap.open(path, writable=True),
            lambda: Heatmap.create(path, overwrite=True, **blank()),
            lambda: Heatmap.resume_or_create(path, **blank()),
        ):
            refused(second, "another slidescan is writing", "--out")
        heatmap.write(BLOCKS[0], VALUES[BLOCKS[0].slices])
        assert Heatmap.open(path).done(BLOCKS[0])
    Heatmap.open(path, writable=True).close()


def test_reading_only(path: Path) -> None:
    heatmap = Heatmap.create(path, **blank())
    heatmap.close()
    for found in (heatmap, Heatmap.open(path)):
        with pytest.raises(ValueError, match="not open for writing"):
            found.write(BLOCKS[0], VALUES[BLOCKS[0].slices])
    with pytest.raises(ValueError, match="read-only"):
        heatmap.mask[0, 0] = True
    with pytest.raises(ValueError, match="not inside"):
        heatmap.read(Box(0, 0, 551, 1))


def write_and_tell(path: Path) -> None:
    """Write the missing blocks for ever, over and over, in a random order."""
    with Heatmap.resume_or_create(path, **blank()) as heatmap:
        while True:
            for block in random.sample(BLOCKS, len(BLOCKS)):
                if block != EMPTY:
                    heatmap.write(block, VALUES[block.slices])
                    print(BLOCKS.index(block), flush=True)


def test_a_killed_writer_leaves_whole_blocks(path: Path, finished: Path) -> None:
    for said in (1, 2, 13):
        with child(path, "write_and_tell") as process:
            assert process.stdout is not None
            told = {int(process.stdout.readline()) for _ in range(said)}
            refused(lambda: Heatmap.open(path, writable=True), "another slidescan")
            process.kill()
        heatmap = Heatmap.open(path)
        whole = {n for n, block in enumerate(BLOCKS) if heatmap.done(block)}
        # All that it told of, bar the one it may have been rewriting just then.
        assert len(told - whole) <= 1
        for n in whole:
            values = heatmap.read(BLOCKS[n])
            assert values.tobytes() == VALUES[BLOCKS[n].slices].tobytes()
    (path / "0" / "c" / "0" / "1.0a.partial").write_bytes(b"left by the killed")
    with Heatmap.resume_or_create(path, **blank()) as heatmap:
        fill(heatmap)
        heatmap.finish({})
    assert contents(path) == contents(finished)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


# --- disks and paths


def write_beyond_the_limit(path: Path) -> None:
    import resource

    with Heatmap.resume_or_create(path, **blank()) as heatmap:
        small, large = BLOCKS[-1], BLOCKS[0]
        heatmap.write(small, VALUES[small.slices])
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        try:
            heatmap.write(large, VALUES[large.slices])
        except WriteError as error:
            print(error)


@pytest.mark.skipif(os.name == "nt", reason="no resource limits")
def test_a_full_disk_is_told_and_what_was_done_stays(path: Path) -> None:
    with child(path, "write_beyond_the_limit") as process:
        told, _ = process.communicate()
    assert told.count("\n") == 1
    for words in (str(path), "disk full", "what was finished stays", "same command again"):
        assert words in told
    assert not list(path.rglob("*.partial"))
    heatmap = Heatmap.open(path)
    assert [heatmap.done(block) for block in (BLOCKS[0], BLOCKS[-1])] == [False, True]


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    path = tmp_path / "typo" / "map.zarr"
    refused(lambda: Heatmap.create(path, **blank()), f"no folder {path.parent}", "--out")
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    refused(lambda: Heatmap.create(path, **blank()), "cannot be written", "name too long")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        refused(lambda: Heatmap.create(path, **blank()), "cannot be written", "permissions")
    finally:
        path.parent.chmod(0o700)


def test_overwrite_continues_what_it_began(path: Path) -> None:
    """A killed run with --overwrite, repeated as it was, does not start from zero."""
    first = BLOCKS[0]
    with Heatmap.create(path, **blank()) as heatmap:
        heatmap.write(first, VALUES[first.slices])
    with Heatmap.resume_or_create(path, overwrite=True, **blank()) as heatmap:
        assert heatmap.done(first)
        fill(heatmap)
        heatmap.finish({})
    # A finished map is asked to be replaced, as is one made with other settings.
    with Heatmap.resume_or_create(path, overwrite=True, **blank()) as heatmap:
        assert not heatmap.complete
        assert not heatmap.done(first)
    with Heatmap.resume_or_create(path, overwrite=True, **blank(settings={"a": 1})) as heatmap:
        assert heatmap.settings == {"a": 1}
