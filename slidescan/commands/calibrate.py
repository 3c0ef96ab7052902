"""`slidescan calibrate`: fit a model's probabilities to observed frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slidescan.commands.options import (
    PATH,
    THREADS,
    data_options,
    evaluation_libraries,
    model_option,
    training_libraries,
)
from slidescan.commands.terminal import bar, operating_lines, plain_bar, warn
from slidescan.errors import DataError

if TYPE_CHECKING:
    from slidescan.evaluation.calibration_fit import Outcome, Quality
    from slidescan.models.model import Card
    from slidescan.networks.network import Network
    from slidescan.patches.labelled import Patches


@dataclass(frozen=True, slots=True)
class _Sample:
    """The patches of the fit, and their description for the card."""

    patches: Patches
    about: str


@click.command()
@model_option
@data_options
@click.option(
    "--all",
    "whole",
    is_flag=True,
    help="Fit to all patches of DATA, which must be of other slides than those of training. "
    "[default: only the held-out patches of DATA]",
)
@click.option(
    "--isotonic",
    is_flag=True,
    help="Fit an isotonic regression (a monotone curve), which needs thousands of patches.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Parts of the patches for the cross-fitted figures; with --groups, of the slides.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--threads", type=THREADS, help="Processors to use. [default: all]")
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="The calibrated model, FILE.safetensors; its card is FILE.json.",
)
def command(
    model: str,
    out: Path,
    whole: bool,
    isotonic: bool,
    folds: int,
    device: str,
    threads: int | None,
    groups: Path | None,
    **request: Any,
) -> None:
    """Fit a temperature to held-out patches of DATA, choose thresholds, and store both in OUT.

    Maps and predictions of the model in OUT are calibrated. The order of its probabilities, and so
    the ROC AUC, does not change. The model that is read is not changed; its own calibration and
    thresholds, if it has them, are replaced in OUT.

    Prints the negative log-likelihood (NLL) and the expected calibration error (ECE): before, after
    on the patches of the fit, and cross-fitted, where each patch is calibrated by a fit to others.
    Prints the thresholds for a sensitivity of 0.90, 0.95 and 0.99 and what they give, likewise.
    `slidescan evaluate` knows them by their names: --threshold sens95.

    \b
    Examples:
      slidescan calibrate --data pcam --out calibrated.safetensors
      slidescan calibrate --data pcam --model model.safetensors --out calibrated.safetensors
      slidescan calibrate --data pcam --model model.safetensors --all --out calibrated.safetensors
    """
    from slidescan.commands.checks import check_exist, check_models

    _check_out(out, model)
    check_models([model])
    check_exist(request["data"], request["ids"], groups)

    from slidescan.engines.backend import choose
    from slidescan.models.model import load
    from slidescan.tools.hardware import cores

    device = choose("torch", device, "fp32", threads or cores()).device
    loaded = load(model)
    with training_libraries(), evaluation_libraries():
        from slidescan.evaluation.calibration_fit import calibrate, fit_isotonic, fit_temperature
        from slidescan.evaluation.logits import tumour_logits

    sample = _load(loaded.card, groups, whole=whole, **request)
    patches, units = sample.patches, _units(sample.patches, groups)
    network = loaded.network.uncalibrated()
    with bar("scoring", len(patches), "patch") as done:
        logits = tumour_logits(network, patches, device, threads or cores(), done.update)
    fit = fit_isotonic if isotonic else fit_temperature
    outcome = calibrate(logits, patches.labels, units, fit, folds)
    card = _save(out, network, loaded.card, sample, outcome)
    _report(out, outcome, card)


def _check_out(out: Path, source: str) -> None:
    """Refuse a name that would overwrite the model that is read, or a shipped one."""
    from slidescan.errors import ConfigError
    from slidescan.models.card import DEFAULT, shipped
    from slidescan.tools.atomic_files import check_folder

    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: a model's name ends in .safetensors")
    check_folder(out)
    if out.resolve() == Path(source).with_suffix(".safetensors").resolve():
        raise ConfigError(f"--out {out}: is the model that is read; name another file")
    if out.resolve().parent == shipped(DEFAULT).resolve().parent:
        raise ConfigError(f"--out {out}: is among the shipped models; name another folder")


def _load(
    card: Card, groups: Path | None, *, whole: bool, data: Path, ids: Path | None, **request: Any
) -> _Sample:
    """Load the held-out patches of a folder, or all; warn or refuse where the model knows them."""
    from tqdm import tqdm

    from slidescan.patches.labelled import load_data
    from slidescan.patches.labelled.whole import load_all

    name, request = data.resolve().name, request | {"progress": plain_bar, "say": tqdm.write}
    if whole:
        every = load_all(data, only=ids, **request)
        _refuse_training(card, data, every.patches)
        return _Sample(every.patches, f"{name}: all patches; {every.about}")
    found = load_data(data, only=ids, groups=groups, **request)
    if not card.split.startswith(found.split):
        warn(
            f"{card.name} was validated on another split ({card.split}); it may have been trained "
            "on these validation patches, and would then be calibrated overconfidently"
        )
    return _Sample(found.validation, f"{name}: validation patches of {found.about}; {found.split}")


def _refuse_training(card: Card, data: Path, patches: Patches) -> None:
    """Refuse a folder whose training patches are those of the model."""
    from slidescan.patches.labelled.splits import holds_out, ids_sha256

    training = [i for i in patches.ids if not holds_out(card.split, [i])]
    if card.trained_on_sha256 == ids_sha256(training):
        raise DataError(
            f"--all: {card.name} was trained on {len(training)} patches of {data}; leave --all "
            "out, or name patches of other slides with --data"
        )


def _units(patches: Patches, groups: Path | None) -> list[str]:
    """Return the slide of each patch where it is known, else the patch: what stays in one fold."""
    if groups is None:
        return list(patches.ids)
    from slidescan.patches.labelled.splits import read_groups

    slides = read_groups(groups)
    without = [i for i in patches.ids if i not in slides]
    if without:
        raise DataError(
            f"{groups}: {len(without)} of {len(patches)} patches have no slide, e.g. "
            f"{without[0]}; add them to the table"
        )
    return [slides[i] for i in patches.ids]


def _save(out: Path, network: Network, card: Card, sample: _Sample, outcome: Outcome) -> Card:
    """Write the model with its calibration and operating points; return its card."""
    from slidescan.models.model import OF_THE_NETWORK, Calibration, save
    from slidescan.models.operating import OperatingTable
    from slidescan.patches.labelled.whole import fingerprint

    crossed, count = outcome.cross_fitted, len(sample.patches)
    network.calibration = Calibration(
        **outcome.by.model_dump(),
        fitted_on=sample.about,
        patches=count,
        nll_before=round(outcome.before.nll, 4),
        nll_after=round(outcome.after.nll, 4),
        ece_before=round(outcome.before.ece, 4),
        ece_after=round(outcome.after.ece, 4),
        ece_cross_fitted=round(crossed.ece, 4) if crossed else None,
        nll_cross_fitted=round(crossed.nll, 4) if crossed else None,
    )
    table = OperatingTable(
        data=sample.about,
        patches=count,
        fingerprint=fingerprint(sample.patches),
        points=outcome.points,
    )
    about = card.model_dump(exclude={*OF_THE_NETWORK, "operating"})
    return save(out, network, operating=table, **about)


def _report(out: Path, outcome: Outcome, card: Card) -> None:
    """Print the fit, its quality, the thresholds, and what looks wrong."""
    from slidescan.tools.text_tables import aligned

    by = outcome.by
    assert card.operating is not None
    knots = f", {len(by.isotonic)} knots" if by.isotonic else ""
    patches = card.operating.patches
    click.echo(f"{out}: temperature {by.temperature:.4f}{knots}, fitted to {patches} patches")
    rows = [("", "NLL", "ECE"), _row("before", outcome.before), _row("after", outcome.after)]
    if outcome.cross_fitted:
        rows.append(_row("cross-fitted", outcome.cross_fitted))
    for line in (*aligned(rows), *operating_lines(card.operating)):
        click.echo(f"  {line}")
    crossed = "; cross-fitted is not" if outcome.cross_fitted else ""
    click.echo(f'"after" is on the patches of the fit, so it is optimistic{crossed}.')
    if outcome.after.nll > outcome.before.nll:
        warn("the fit has a higher NLL on its own patches: use more patches, or omit --isotonic")
    if not outcome.cross_fitted:
        warn("one fold allows no fit, so there are no cross-fitted figures: use more patches")
    elif outcome.cross_fitted.nll >= outcome.before.nll:
        warn("cross-fitted, the NLL is not lower than before: the model needs no such calibration")


def _row(name: str, quality: Quality) -> tuple[str, str, str]:
    return name, f"{quality.nll:.4f}", f"{quality.ece:.4f}"
