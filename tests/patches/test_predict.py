"""`slidescan predict`: the right numbers for the right ids, whatever is wrong with the files."""

from __future__ import annotations

import csv
import os
import signal
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networks
import numpy as np
import patches as made
import processes
import pytest
import slides
import torch
from click.testing import Result
from commands import ran, run
from models import save
from numpy.typing import NDArray
from PIL import Image
from processes import Strike

from slidescan.maps.store import Heatmap
from slidescan.models.model import load
from slidescan.networks.network import probability
from slidescan.patches import scoring
from slidescan.patches.journal import Journal
from slidescan.protocols import BATCH
from slidescan.statistics.curves import roc

ENGINE = ("--engine", "torch", "--threads", "1")
FORMATS = (".png", ".tif", ".webp", ".jpg")
posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


def refused(result: Result, *words: object) -> None:
    """The last line is the error; before it there may be warnings."""
    assert result.exit_code == 1
    *warnings, line = result.stderr.splitlines()
    assert all(warning.startswith("Warning: ") for warning in warnings)
    assert line.startswith("Error: ")
    for word in words:
        assert str(word) in result.stderr


def read(path: Path) -> dict[str, float]:
    with path.open(newline="") as file:
        reader = csv.reader(file)
        assert next(reader) == ["id", "label"]
        rows = [(patch_id, float(label)) for patch_id, label in reader]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def noise(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    return [slides.section(96, 96, seed + i) for i in range(count)]


def write(folder: Path, pixels: Sequence[NDArray[np.uint8]], suffixes: Any = FORMATS) -> Path:
    """p000.png, p001.tif, ..."""
    folder.mkdir(exist_ok=True)
    for i, patch in enumerate(pixels):
        name = f"p{i:03}{suffixes[i % len(suffixes)]}"
        Image.fromarray(patch).save(folder / name, lossless=True)
    return folder


def write_hdf5(path: Path, pixels: Any, **options: Any) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=pixels, **options)
    return path


def by_hand(model: Path, pixels: Sequence[Any]) -> Any:
    """What the network says of each, one at a time."""
    network = load(str(model)).network
    scores = []
    with torch.inference_mode():
        for patch in pixels:
            x = torch.from_numpy(np.array(patch)).permute(2, 0, 1)[None].float()
            scores.append(float(probability(network(x)).item()))
    return scores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "patches", noise(9))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "submission.csv"


def alone(out: Path) -> None:
    """No journal, no lock, nothing half written."""
    assert [p.name for p in out.parent.glob(".*")] == []


# --- the numbers


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_every_format_has_the_networks_probability(
    engine: str, folder: Path, tiny_model: Path, out: Path
) -> None:
    line = ran(
        "predict", folder, "--out", out, "--model", tiny_model, "--engine", engine, "--threads", 1
    ).stdout
    assert line.startswith(f"{out}: 9 patches, model tiny, ")
    found = read(out)
    assert list(found) == [f"p{i:03}" for i in range(9)]
    files = [np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]
    np.testing.assert_allclose(list(found.values()), by_hand(tiny_model, files), atol=1e-5)
    assert np.ptp(list(found.values())) > 0.01
    assert out.read_bytes().count(b"\n") == 10
    alone(out)


def test_modes_and_names(tmp_path: Path, tiny_model: Path, out: Path) -> None:
    folder = tmp_path / "patches"
    folder.mkdir()
    image = Image.fromarray(noise(1)[0])
    for name, mode in (
        ("a.b.png", "RGB"),
        ("alpha.png", "RGBA"),
        ("grey.png", "L"),
        ("few.png", "P"),
    ):
        image.convert(mode).save(folder / name)
    image.save(folder / 'comma, "quoted".TIF', format="TIFF")
    (folder / "readme.txt").touch()
    (folder / "._a.png").write_bytes(b"resource fork")
    ran("predict", folder, "--out", out, "--model", tiny_model, *ENGINE)
    found = read(out)
    assert sorted(found) == ["a.b", "alpha", 'comma, "quoted"', "few", "grey"]
    assert found["a.b"] == found["alpha"] == found['comma, "quoted"']
    assert found["grey"] != found["a.b"]


def test_batches_change_nothing(
    folder: Path, tiny_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran("predict", folder, "--out", out, "--model", tiny_model, *ENGINE)
    one = read(out)
    monkeypatch.setattr(scoring, "BATCH", 2)
    ran("predict", folder, "--out", out, "--model", tiny_model, *ENGINE)
    np.testing.assert_allclose(list(read(out).values()), list(one.values()), rtol=0, atol=1e-6)


def test_eight_orientations_are_one_patch_to_d4(
    tmp_path: Path, tiny_model: Path, out: Path
) -> None:
    (patch,) = noise(1)
    turned = [np.rot90(p, turns) for turns in range(4) for p in (patch, patch[:, ::-1])]
    folder = write(tmp_path / "patches", turned, [".png"])
    command = ("predict", folder, "--out", out, "--model", tiny_model, *ENGINE)
    ran(*command)
    plain = list(read(out).values())
    ran(*command, "--tta", "d4")
    d4 = list(read(out).values())
    assert np.ptp(plain) > 1e-3
    assert np.ptp(d4) <= 1e-6
    assert abs(np.mean(plain) - d4[0]) < 1e-6


def test_a_map_of_the_patches_says_the_same(tiny_model: Path, out: Path, tmp_path: Path) -> None:
    """Patches side by side on a slide, where a cell's field of view is exactly one of them."""
    pixels = noise(6)
    folder = write(tmp_path / "patches", pixels, [".png"])
    mosaic = np.full((4 + 2 * 96, 4 + 3 * 96, 3), 255, np.uint8)
    for i, patch in enumerate(pixels):
        y, x = (4 + 96 * n for n in divmod(i, 3))
        mosaic[y : y + 96, x : x + 96] = patch
    slides.write_slide(tmp_path / "mosaic.tif", mosaic, mpp=0.972, levels=(2,))
    scanned = tmp_path / "map.zarr"
    how = ("--model", tiny_model, "--tta", "d4", *ENGINE)
    ran("heatmap", tmp_path / "mosaic.tif", "--out", scanned, "--no-tissue-mask", *how)
    ran("predict", folder, "--out", out, *how)
    heatmap = Heatmap.open(scanned)
    cells = heatmap.read(heatmap.grid.cells)[6::12, 6::12]
    np.testing.assert_allclose(cells.ravel(), list(read(out).values()), rtol=0, atol=1e-5)
    assert np.ptp(cells) > 0.01


def test_an_ensemble_averages(folder: Path, tiny_model: Path, out: Path, tmp_path: Path) -> None:
    network = networks.network(networks.plan("4/2", "R N N R"), seed=1).float()
    other = save(tmp_path / "other.safetensors", network)
    found = []
    for models in [tiny_model], [other], [tiny_model, other], [other, tiny_model]:
        names = [word for model in models for word in ("--model", model)]
        line = ran("predict", folder, "--out", out, *names, *ENGINE).stdout
        found.append(np.array(list(read(out).values())))
    assert "model other + tiny" in line or "model tiny + other" in line
    assert np.abs(found[0] - found[1]).max() > 0.01
    np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(found[3], found[2])
    refused(
        run("predict", folder, "--out", out, "--model", other, "--model", other, *ENGINE), "twice"
    )


@pytest.mark.parametrize("engine", ["openvino"])
def test_real_patches_with_the_shipped_weights(
    engine: str, real_data: Path, tmp_path: Path, out: Path
) -> None:
    with (real_data / "pcam" / "train_labels.csv").open(newline="") as file:
        labels = {row["id"]: int(row["label"]) for row in csv.DictReader(file)}
    with zipfile.ZipFile(real_data / "pcam" / "patches.zip") as archive:
        names = sorted(n for n in archive.namelist() if Path(n).stem in labels)[:128]
        files = [Path(archive.extract(name, tmp_path / "real")) for name in names]
    ran("predict", files[0].parent, "--out", out, "--engine", engine)
    found = read(out)
    truth = np.array([labels[patch_id] for patch_id in found])
    assert len(found) == 128
    assert roc(truth, np.array(list(found.values()))).area > 0.85


# --- what is scored, in which order


def test_like_a_sample_submission(folder: Path, tiny_model: Path, out: Path) -> None:
    like = out.with_name("sample_submission.csv")
    command = ("predict", folder, "--out", out, "--model", tiny_model, *ENGINE)
    ran(*command)
    everything = read(out)
    like.write_text("\ufeffid,label\r\np007,0\r\np002,0\r\np004,0\r\n", encoding="utf-8")
    result = ran(*command, "--like", like)
    found = read(out)
    assert list(found) == ["p007", "p002", "p004"]
    for patch_id, score in found.items():
        assert abs(score - everything[patch_id]) < 1e-6
    assert f"6 patches are not in {like}, e.g. p000, p001, p003; left out" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,label\np001,0\nx,0\ny,0\n", ["2 of its 3 ids have no patch", "x, y"]),
        ("id,label\np001,0\np001,0\n", ["p001", "twice"]),
        ("name,label\np001,0\n", ["name", "needs id"]),
        ("", ["needs id"]),
        (None, ["no such file"]),
    ],
)
def test_a_sample_submission_that_does_not_fit(
    text: str | None, words: list[str], folder: Path, tiny_model: Path, out: Path
) -> None:
    like = out.with_name("like.csv")
    if text is not None:
        like.write_text(text)
    command = ("predict", folder, "--out", out, "--model", tiny_model, *ENGINE, "--like", like)
    refused(run(*command), like, *words)
    assert not out.exists()
    alone(out)


def test_a_list(folder: Path, tiny_model: Path, out: Path) -> None:
    ran("predict", folder, "--out", out, "--model", tiny_model, *ENGINE)
    everything = read(out)
    paths = out.with_name("list.txt")
    paths.write_text(f"# some\n{folder}/p003.jpg\n\n{folder}/p000.png\n")
    command = ("predict", "--list", paths, "--out", out, "--model", tiny_model, *ENGINE)
    ran(*command)
    found = read(out)
    assert list(found) == ["p003", "p000"]
    assert abs(found["p003"] - everything["p003"]) < 1e-6
    paths.write_text(f"{folder}/p003.jpg\n{folder}/nowhere.png\n")
    refused(run(*command), f"{folder}/nowhere.png: no such file", "1 of 2 patches")
    paths.write_text("# nothing\n")
    refused(run(*command), paths, "names no image")
    refused(run("predict", "--list", out.with_name("no.txt"), "--out", out), "no.txt")


def test_names_that_two_files_share(folder: Path, tiny_model: Path, out: Path) -> None:
    Image.fromarray(noise(1)[0]).save(folder / "p003.png")
    command = ("predict", folder, "--out", out, "--model", tiny_model, *ENGINE)
    refused(run(*command), "p003.jpg", "p003.png", "--list")
    paths = out.with_name("list.txt")
    paths.write_text(f"{folder}/p000.png\n{folder}/p000.png\n")
    refused(run("predict", "--list", paths, "--out", out, "--model", tiny_model), "p000")
    assert not out.exists()


def test_what_is_no_folder_of_patches(folder: Path, tiny_model: Path, out: Path) -> None:
    empty = out.with_name("empty")
    empty.mkdir()
    for path, words in (
        (out.with_name("no"), ["no such file or folder"]),
        (empty, ["no images", "is empty"]),
        (folder.parent, ["no images", "patches"]),
        (folder / "p000.png", ["neither a folder nor", "--list"]),
    ):
        refused(run("predict", path, "--out", out, "--model", tiny_model), path, *words)
    assert run("predict", "--out", out).exit_code == 2
    assert run("predict", folder, "--list", out, "--out", out).exit_code == 2
    alone(out)


# --- HDF5


@pytest.mark.parametrize("chunks", [None, True, (5, 96, 96, 3), (150, 96, 96, 3)])
def test_hdf5_is_the_same_patches(chunks: Any, tmp_path: Path, tiny_model: Path, out: Path) -> None:
    pixels = noise(150)
    path = tmp_path / "camelyonpatch_level_2_split_test_x.h5"
    write_hdf5(path, np.stack(pixels), chunks=chunks, compression="gzip" if chunks else None)
    write(tmp_path / "files", pixels, [".png"])
    ran("predict", tmp_path / "files", "--out", out, "--model", tiny_model, *ENGINE)
    files = read(out)
    ran("predict", tmp_path, "--out", out, "--model", tiny_model, *ENGINE)
    found = read(out)
    assert list(found) == [f"test-{row:07d}" for row in range(150)]
    assert list(found.values()) == list(files.values())
    like = tmp_path / "like.csv"
    like.write_text("id,label\ntest-0000149,0\ntest-0000003,0\ntest-0000004,0\n")
    ran("predict", path, "--out", out, "--model", tiny_model, *ENGINE, "--like", like)
    some = read(out)
    assert list(some) == ["test-0000149", "test-0000003", "test-0000004"]
    for patch_id, score in some.items():
        assert abs(score - found[patch_id]) < 1e-6


def test_hdf5_ids_are_those_of_training(tmp_path: Path, tiny_model: Path, out: Path) -> None:
    from slidescan.patches.labelled import load_data

    both = made.make(40)
    root = made.write_hdf5(
        tmp_path / "pcam", both.take(np.arange(30)), both.take(np.arange(30, 40))
    )
    data = load_data(root)
    for side, part in ("train", data.training), ("valid", data.validation):
        x = root / f"camelyonpatch_level_2_split_{side}_x.h5"
        ran("predict", x, "--out", out, "--model", tiny_model, *ENGINE)
        assert list(read(out)) == list(part.ids)
    refused(run("predict", root, "--out", out, "--model", tiny_model), root, "name one")


def test_bad_hdf5(tmp_path: Path, tiny_model: Path, out: Path) -> None:
    pixels = np.stack(noise(5))
    text = tmp_path / "text_x.h5"
    text.write_text("not HDF5")
    small = write_hdf5(tmp_path / "small_x.h5", pixels[:, :64])
    broad = write_hdf5(tmp_path / "broad_x.h5", pixels.astype(np.float32))
    command = ("--out", out, "--model", tiny_model, *ENGINE)
    refused(run("predict", text, *command), text, "cannot be read")
    refused(run("predict", small, *command), small, "(5, 64, 96, 3)", "expected")
    refused(run("predict", broad, *command), broad, "float32", "expected")

    damaged = write_hdf5(
        tmp_path / "damaged_x.h5", pixels, chunks=(1, 96, 96, 3), compression="gzip"
    )
    import h5py

    with h5py.File(damaged) as file:
        chunk = file["x"].id.get_chunk_info(3)
    with damaged.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\x5a" * chunk.size)
    refused(run("predict", damaged, *command), f"{damaged}, row 3: cannot be read", "1 of 5")
    ran("predict", damaged, *command, "--skip-bad")
    assert list(read(out)) == [f"damaged-{row:07d}" for row in (0, 1, 2, 4)]


# --- files that cannot be scored


def spoil(folder: Path) -> list[str]:
    Image.fromarray(slides.noise(64, 96)).save(folder / "p001.tif")
    (folder / "p004.png").write_text("not an image")
    (folder / "p006.webp").write_bytes((folder / "p006.webp").read_bytes()[:200])
    Image.fromarray(np.zeros((96, 96), np.uint16)).save(folder / "p008.png")
    return ["p001", "p004", "p006", "p008"]


def test_bad_images_are_named_and_nothing_is_invented(
    folder: Path, tiny_model: Path, out: Path
) -> None:
    out.write_text("the table of yesterday\n")
    bad = spoil(folder)
    command = ("predict", folder, "--out", out, "--model", tiny_model, *ENGINE)
    result = run(*command)
    refused(result, "4 of 9 patches", "--skip-bad", "p001.tif: is 96 x 64 px, a patch has 96 x 96")
    assert "p008.png: holds I;16 pixels" in result.stderr
    assert len(result.stderr.splitlines()) == 5
    assert all(any(name in line for line in result.stderr.splitlines()) for name in bad)
    assert out.read_text() == "the table of yesterday\n"

    result = ran(*command, "--skip-bad")
    assert len(result.stderr.splitlines()) == 4
    found = read(out)
    good = [f"p{i:03}" for i in (0, 2, 3, 5, 7)]
    assert list(found) == good
    files = [np.asarray(Image.open(next(folder.glob(f"{name}.*")))) for name in good]
    np.testing.assert_allclose(list(found.values()), by_hand(tiny_model, files), atol=1e-5)
    alone(out)


def test_nothing_but_bad_images(tmp_path: Path, tiny_model: Path, out: Path) -> None:
    folder = tmp_path / "patches"
    folder.mkdir()
    (folder / "a.png").touch()
    command = ("predict", folder, "--out", out, "--model", tiny_model, *ENGINE)
    refused(run(*command), "a.png", "1 of 1")
    ran(*command, "--skip-bad")
    assert out.read_text() == "id,label\n"


def test_values_that_are_not_finite(folder: Path, tmp_path: Path, out: Path) -> None:
    network = networks.network(networks.plan("4/2", "R N N R")).float()
    with torch.no_grad():
        network.head.classifier.weight.fill_(float("nan"))
    path = tmp_path / "nan.safetensors"
    save(path, network)
    refused(run("predict", folder, "--out", out, "--model", path, *ENGINE), "9 values", "finite")
    assert not out.exists()


def test_bad_output_paths(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    command = ("predict", folder, "--model", tiny_model, *ENGINE, "--out")
    refused(run(*command, tmp_path), tmp_path, "is a folder")
    refused(run(*command, tmp_path / "no" / "a.csv"), "no folder")


# --- stopped and resumed


COUNT = 200  # four batches


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only by agreement."""
    return write(tmp_path_factory.mktemp("many") / "patches", noise(COUNT), [".png"])


@pytest.fixture(scope="module")
def whole(many: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "submission.csv"
    ran("predict", many, "--out", out, "--model", tiny_model, *ENGINE)
    return out.read_bytes()


ADD = "slidescan.patches.journal:Journal.add"


@posix
@pytest.mark.parametrize(
    ("strike", "done"),
    [
        pytest.param(Strike(ADD), 0, id="no-batch"),
        pytest.param(Strike(ADD, 3), 128, id="middle"),
        pytest.param(Strike(ADD, 4, after=True), COUNT, id="all"),
        pytest.param(Strike("slidescan.patches.journal:Journal.discard"), COUNT, id="written"),
    ],
)
def test_killed_and_run_again_is_the_same_table(
    strike: Strike, done: int, many: Path, whole: bytes, tiny_model: Path, out: Path
) -> None:
    command = ("predict", many, "--out", out, "--model", tiny_model, *ENGINE)
    log = out.with_name("log")
    assert processes.slidescan(*command, log=log, strike=strike) == -signal.SIGKILL
    assert out.exists() == ("discard" in strike.target)
    result = ran(*command)
    assert (f"resuming, {done} of {COUNT} patches are scored" in result.stdout) == (done > 0)
    assert out.read_bytes() == whole
    alone(out)


@posix
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_is_one_line(
    how: signal.Signals, many: Path, whole: bytes, tiny_model: Path, out: Path
) -> None:
    """And so is what a scheduler sends before it kills."""
    command = ("predict", many, "--out", out, "--model", tiny_model, *ENGINE)
    log = out.with_name("log")
    assert processes.slidescan(*command, log=log, strike=Strike(ADD, 2, signal=how)) == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith("Error: interrupted")
    assert not out.exists()
    assert "resuming" in ran(*command).stdout
    assert out.read_bytes() == whole


@posix
@pytest.mark.parametrize("most_bytes", [200, 2000])
def test_a_full_disk(
    most_bytes: int, many: Path, whole: bytes, tiny_model: Path, out: Path
) -> None:
    """At the journal's header, at its rows."""
    command = ("predict", many, "--out", out, "--model", tiny_model, *ENGINE)
    log = out.with_name("log")
    assert processes.slidescan(*command, log=log, most_bytes=most_bytes) == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith("Error: ")
    assert "disk full" in line
    assert not out.exists()
    ran(*command)
    assert out.read_bytes() == whole
    alone(out)


def stopped(many: Path, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal of two batches."""
    add, calls = Journal.add, []

    def once(self: Journal, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        add(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", once)
        refused(run("predict", many, "--out", out, "--model", model, *ENGINE), "interrupted")
    journal = out.with_name(".submission.csv.partial")
    assert len(journal.read_bytes().splitlines()) == 1 + 2 * BATCH
    return journal


@pytest.mark.parametrize(
    ("tail", "done"),
    [
        (b"128,0.25", 128),  # no end of line: torn
        (b"\0\0\0\0\n", 128),
        (b"999,0.5\n128,0.5\n", 128),
        (b"128,1.5\n", 128),
        (b"128,nan\n129,0.5\n", 128),
        (b"128,1e\n", 128),
    ],
)
def test_a_torn_journal(
    tail: bytes,
    done: int,
    many: Path,
    whole: bytes,
    tiny_model: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = stopped(many, tiny_model, out, monkeypatch)
    with journal.open("ab") as file:
        file.write(tail)
    result = ran("predict", many, "--out", out, "--model", tiny_model, *ENGINE)
    assert f"resuming, {done} of {COUNT}" in result.stdout
    assert out.read_bytes() == whole


def test_what_other_settings_left_is_not_mixed_in(
    many: Path, whole: bytes, tiny_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(many, tiny_model, out, monkeypatch)
    command = ("predict", many, "--out", out, "--model", tiny_model, *ENGINE)
    result = ran(*command, "--precision", "bf16")
    assert 'precision: "fp32" there, "bf16" here' in result.stderr
    assert "starting again" in result.stderr
    assert "resuming" not in result.stdout
    assert out.read_bytes() != whole
    half = out.read_bytes()
    ran(*command, "--precision", "bf16")
    assert out.read_bytes() == half


def test_a_journal_of_other_patches(
    many: Path, tiny_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = stopped(many, tiny_model, out, monkeypatch)
    header, first, rest = journal.read_bytes().split(b"\n", 2)
    journal.write_bytes(b"\n".join((header, b"0,0.125", rest)))  # it is believed ...
    kept = journal.read_bytes()
    command = ("predict", many, "--out", out, "--model", tiny_model, *ENGINE)
    ran(*command)
    assert read(out)["p000"] == 0.125
    journal.write_bytes(kept)
    file = many / "p001.png"
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    try:
        assert "patches: " in ran(*command).stderr
    finally:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert first.startswith(b"0,")
    assert read(out)["p000"] == float(first[2:])  # ... unless a file changed


def test_a_repaired_file_is_all_that_is_scored_again(
    many: Path, whole: bytes, tiny_model: Path, out: Path, tmp_path: Path
) -> None:
    import shutil

    mine = tmp_path / "mine"
    shutil.copytree(many, mine)
    (mine / "p100.png").write_bytes(b"")
    command = ("predict", mine, "--out", out, "--model", tiny_model, *ENGINE)
    refused(run(*command), "p100.png")
    assert "resuming, 136 of 200" in ran(*command, "--skip-bad").stdout  # but for its batch
    lines = whole.splitlines()
    assert out.read_bytes().splitlines() == [x for x in lines if not x.startswith(b"p100,")]
