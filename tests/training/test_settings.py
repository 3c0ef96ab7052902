"""Settings of a training: files, defaults, changes on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from slidescan_train.recipe import shipped
from slidescan_train.recipe.augment_config import Crop, OneOf, Rotation, Translation
from slidescan_train.recipe.config import TrainConfig, load_config
from slidescan_train.runs.run import refuse_another

from slidescan.cli import main
from slidescan.errors import ConfigError
from slidescan.geometry import LABEL_PX, PATCH_PX
from slidescan.networks.network import Network

CONFIGS = Path(__file__).parents[2] / "configs"


def refused(message: str, *parts: str) -> None:
    assert "\n" not in message
    for part in parts:
        assert part in message


def leaves(settings: Any, prefix: str = "") -> set[str]:
    if not isinstance(settings, dict):
        return {prefix}
    return {leaf for key, value in settings.items() for leaf in leaves(value, f"{prefix}.{key}")}


def test_pcam_yaml_states_every_default() -> None:
    path = CONFIGS / "pcam.yaml"
    assert load_config(path) == TrainConfig() == load_config(None)
    # Not equal by leaving things out: the file is where people look settings up.
    written = yaml.safe_load(path.read_text())
    assert leaves(written) == leaves(TrainConfig().model_dump(mode="json"))


def test_seed_yaml_is_the_recipe() -> None:
    config = load_config(CONFIGS / "seed.yaml")
    assert (config.optimiser, config.learning_rate, config.schedule) == ("sgd", 1e-3, "constant")
    assert (config.batch, config.epochs, config.validation) == (15_000, 30, 0.1)
    assert (config.label_smoothing, config.mixup, config.ema, config.weight_decay) == (0, 0, 0, 0)
    named = config.augment.one_of.model_dump()
    assert len(named) == 14
    assert all(draw["p"] > 0 for draw in named.values())
    assert config.augment.crop.p > 0


@pytest.mark.parametrize("name", [n for n in shipped.names() if not n.startswith("teacher")])
def test_each_configuration_is_a_network_that_sees_a_patch(name: str) -> None:
    network = Network(load_config(CONFIGS / f"{name}.yaml").plan)
    assert (network.field.size, network.field.stride) == (PATCH_PX, 8)


def test_no_range_moves_the_label_region_out_of_the_tissue_or_cuts_into_it() -> None:
    margin = (PATCH_PX - LABEL_PX) // 2
    for settings, limit in (
        (lambda px: Crop(p=1, most_px=px), margin),
        (lambda px: Translation(p=1, px=px), margin),
        (lambda degrees: Rotation(p=1, degrees=degrees), 15),
    ):
        settings(limit)
        with pytest.raises(ValueError, match="less than or equal"):
            settings(limit + 1)


def test_settings_survive_being_written(tmp_path: Path) -> None:
    config = load_config(None, ["learning_rate=1e-5", "augment.one_of.jpeg.quality=[3, 4]"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))  # 1.0e-05 in YAML
    assert load_config(path) == config


@pytest.mark.parametrize("text", ["", "# nothing\n", "epochs: 60\n"])
def test_what_a_file_leaves_out_is_the_default(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert load_config(tmp_path / "c.yaml") == TrainConfig()


def test_an_augmentation_that_a_list_leaves_out_is_never_drawn(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("augment: {one_of: {blur: {p: 0.5}}}")
    drawn = load_config(tmp_path / "c.yaml").augment.one_of
    assert drawn.blur.p == 0.5
    assert sum(getattr(drawn, name).p for name in OneOf.model_fields) == 0.5


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("epoch: 3", ("c.yaml: unknown key epoch (did you mean epochs?)",)),
        (
            "augment: {flip: true}",
            ("augment: unknown key flip (known: d4, stain, hed, randstainna, hue, one_of, crop)",),
        ),
        ("augment: {stain: {scale: 0.1}}", ("augment.stain.p is missing",)),
        ("augment: {stain: {p: 2}}", ("augment.stain.p = 2", "less than or equal to 1")),
        (
            "augment: {one_of: {bluer: {p: 1}}}",
            ("augment.one_of: unknown key bluer (did you mean blur?)",),
        ),
        (
            "augment: {one_of: {blur: {p: 0.7}, jpeg: {p: 0.4}}}",
            ("c.yaml: augment.one_of: its probabilities add up to 1.1", "at most one"),
        ),
        (
            "augment: {one_of: {blur: {p: 1, sigma_px: [2, 1]}}}",
            ("augment.one_of.blur.sigma_px = ", "ends, at 1, below its start, 2"),
        ),
        ("augment: {crop: {p: 1, most_px: 40}}", ("crop.most_px = 40", "equal to 32")),
        (
            "augment: {one_of: {translation: {p: 0.1, px: 5}}}",
            (
                "c.yaml: augment.one_of.translation.px: labels hold up to 4 px",
                "set distil.weight to 1, not 0.9",
            ),
        ),
        (
            "plan: {stem: [], cells: [], heads: 3}",
            ("plan: unknown key heads (did you mean head?)",),
        ),
        ("epochs: many", ("epochs = 'many'", "integer")),
        ("epochs: true", ("epochs = True", "integer")),
        ("epochs: 2.5", ("epochs = 2.5", "integer")),
        ("augment: 3", ("augment = 3", "dictionary")),
        ("precision: fp32", ("precision = 'fp32'", "'32-true'")),
        ("optimiser: adam", ("optimiser = 'adam'", "'adamw'")),
        ("epochs: 0", ("epochs = 0", "greater than or equal to 1")),
        ("micro_batch: 1", ("micro_batch = 1", "greater than or equal to 2")),  # BatchNorm
        ("learning_rate: 0", ("learning_rate = 0", "greater than 0")),
        ("learning_rate: .inf", ("learning_rate = inf", "finite")),
        ("weight_decay: .nan", ("weight_decay = nan", "finite")),
        ("warm_up: 1", ("warm_up = 1", "less than 1")),
        ("ema: 1", ("ema = 1", "less than 1")),
        ("seed: -1", ("seed = -1", "greater than or equal to 0")),  # numpy takes no other
        ("[1, 2]", ("file = [1, 2]", "dictionary")),
        ("0", ("file = 0", "dictionary")),
        ("epochs: [", ("not YAML",)),
        ("epochs: 3\n\tbatch: 4", ("not YAML",)),
        (b"\xff\xfe\x00\xd8", ("not YAML",)),
    ],
)
def test_a_setting_is_refused_with_key_value_and_expectation(
    text: str | bytes, parts: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_config(path)
    refused(str(error.value), str(path), *parts)


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    for path, told in (tmp_path / "none.yaml", "no such"), (tmp_path, "is a folder"):
        with pytest.raises(ConfigError) as error:
            load_config(path)
        refused(str(error.value), f"{path}: {told}")


def test_any_key_can_be_changed_on_the_command_line() -> None:
    path = CONFIGS / "seed.yaml"
    changes = (
        "learning_rate=2e-3",
        "augment.stain.p=0.25",
        "plan.cells.3.filters=8",
        "clip=null",
        "augment.one_of.blur={p: 0.01, sigma_px: [1, 2]}",
        "epochs=3",
        "epochs=4",  # the last word counts
    )
    before, after = load_config(path), load_config(path, changes)
    assert (after.learning_rate, after.augment.stain.p, after.epochs) == (2e-3, 0.25, 4)
    assert [cell.filters for cell in after.plan.cells] == [32, 32, 32, 8]
    assert after.augment.one_of.blur.sigma_px == (1, 2)
    # and nothing else
    same = {"plan", "augment", "learning_rate", "epochs"}
    assert before.model_dump(exclude=same) == after.model_dump(exclude=same)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("epochs", ("'epochs'", "needs key=value")),
        ("=3", ("needs key=value",)),
        ("epochs=[", ("'epochs=['", "not YAML")),
        ("epoch=3", ("--set: unknown key epoch (did you mean epochs?)",)),
        ("epochs=0", ("epochs = 0", "greater than or equal to 1")),
        ("epochs.x=3", ("epochs = {'x': 3}", "integer")),
        ("augment.one_of.zoom.p=1", ("augment.one_of: unknown key zoom (known: blur, ",)),
        ("plan.cells.9.filters=8", ("plan.cells.9", "the list has 2 items, from 0")),
        ("plan.cells.last.filters=8", ("plan.cells.last", "the list has 2 items, from 0")),
    ],
)
def test_a_change_is_refused_with_key_value_and_expectation(
    change: str, parts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, [change])
    refused(str(error.value), "--set", *parts)


def test_a_checkpoint_from_before_a_setting_existed_has_its_default() -> None:
    now = {"config": load_config(None).model_dump(mode="json")}
    before = load_config(None).model_dump(mode="json")
    del before["augment"]["hed"], before["augment"]["randstainna"], before["dropout"]
    refuse_another(Path("out"), {"config": before}, now)

    used = {"config": load_config(None, ["dropout=0.5"]).model_dump(mode="json")}
    with pytest.raises(ConfigError, match=r"config.dropout: 0\.0 there, 0\.5 here"):
        refuse_another(Path("out"), {"config": before}, used)
    with pytest.raises(ConfigError, match=r"config.zoom: 1 there, absent here"):
        refuse_another(Path("out"), {"config": {**before, "zoom": 1}}, now)


# --- shipped configurations -------------------------------------------------------------------


def test_a_shipped_configuration_is_found_by_its_name() -> None:
    for name in ("seed", "seed.yaml"):
        assert load_config(Path(name)) == load_config(CONFIGS / "seed.yaml")
    assert shipped.names()[0] == "pcam"
    assert set(shipped.names()) == {path.stem for path in CONFIGS.glob("*.yaml")}


def test_a_file_goes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick").mkdir()  # a run's folder may well have that name
    assert load_config(Path("quick")).epochs == 16
    Path("quick").rmdir()
    Path("quick").write_text("epochs: 3")
    assert load_config(Path("quick")).epochs == 3


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("quik", ("quik: no such configuration", "did you mean quick?", "slidescan configs")),
        ("configs/seed.yml", ("no such configuration", "did you mean seed?")),
        ("mine", ("known: pcam, best, best-shifts",)),
    ],
)
def test_a_wrong_name_is_answered_by_the_nearest(name: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(Path("nowhere") / name if "/" in name else Path(name))
    refused(str(error.value), *parts)


def test_configs_lists_and_prints() -> None:
    listed = CliRunner().invoke(main, ["configs"])
    assert listed.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert list(lines) == shipped.names()
    assert all(text.endswith(".") and len(text) < 100 for text in lines.values())
    printed = CliRunner().invoke(main, ["configs", "quick"])
    assert printed.stdout == (CONFIGS / "quick.yaml").read_text()
    wrong = CliRunner().invoke(main, ["configs", "sed"])
    assert (wrong.exit_code, wrong.stderr) == (
        1,
        "Error: sed: no such configuration; did you mean seed?\n",
    )
