"""`slidescan calibrate`: fit a model's probabilities to observed frequencies."""

from __future__ import annotations

from functools import partial
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
from slidescan.commands.terminal import bar, warn

if TYPE_CHECKING:
    from slidescan.evaluation.calibration_fit import Outcome, Quality
    from slidescan.models.model import Card
    from slidescan.networks.network import Network
    from slidescan.patches.labelled import Data, Patches


@click.command()
@model_option
@data_options
@click.option(
    "--isotonic",
    is_flag=True,
    help="Fit an isotonic regression (a monotone curve), which needs thousands of patches.",
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
    isotonic: bool,
    device: str,
    threads: int | None,
    groups: Path | None,
    **request: Any,
) -> None:
    """Fit a temperature to the validation patches of DATA and store it with the model.

    Maps and predictions of the model in OUT are calibrated. The order of its probabilities, and so
    the ROC AUC, does not change. The model that is read is not changed; its own calibration, if it
    has one, is replaced in OUT.

    Prints the negative log-likelihood (NLL) and the expected calibration error (ECE): before, after
    on the patches of the fit, and cross-fitted, where each patch is calibrated by a fit to others.

    \b
    Examples:
      slidescan calibrate --data pcam --out calibrated.safetensors
      slidescan calibrate --data pcam --model model.safetensors --out calibrated.safetensors
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
        from tqdm import tqdm

        from slidescan.evaluation.calibration_fit import calibrate, fit_isotonic, fit_temperature
        from slidescan.evaluation.logits import tumour_logits
        from slidescan.patches.labelled import load_data

    progress = partial(tqdm, disable=None, dynamic_ncols=True)
    only, request["groups"] = request.pop("ids"), groups
    data = load_data(
        only=only, root=request.pop("data"), progress=progress, say=tqdm.write, **request
    )
    _warn_of_split(loaded.card, data)
    network = loaded.network.uncalibrated()
    with bar("scoring", len(data.validation), "patch") as done:
        logits = tumour_logits(network, data.validation, device, threads or cores(), done.update)
    units = _units(data.validation, groups)
    fit = fit_isotonic if isotonic else fit_temperature
    outcome = calibrate(logits, data.validation.labels, units, fit)
    _save(out, network, loaded.card, data, outcome)
    _report(out, outcome, len(data.validation))


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


def _warn_of_split(card: Card, data: Data) -> None:
    """Warn where the model may have been trained on the patches of the fit."""
    if not card.split.startswith(data.split):
        warn(
            f"{card.name} was validated on another split ({card.split}); it may have been trained "
            "on these validation patches, and would then be calibrated overconfidently"
        )


def _units(patches: Patches, groups: Path | None) -> list[str]:
    """Return the slide of each patch where it is known, else the patch: what stays in one fold."""
    if groups is None:
        return list(patches.ids)
    from slidescan.patches.labelled.splits import read_groups

    slides = read_groups(groups)
    return [slides[i] for i in patches.ids]


def _save(out: Path, network: Network, card: Card, data: Data, outcome: Outcome) -> None:
    from slidescan.models.model import OF_THE_NETWORK, Calibration, save

    crossed = outcome.cross_fitted
    network.calibration = Calibration(
        **outcome.by.model_dump(),
        fitted_on=f"validation patches of {data.about}; {data.split}",
        patches=len(data.validation),
        nll_before=round(outcome.before.nll, 4),
        nll_after=round(outcome.after.nll, 4),
        ece_before=round(outcome.before.ece, 4),
        ece_after=round(outcome.after.ece, 4),
        ece_cross_fitted=round(crossed.ece, 4) if crossed else None,
    )
    save(out, network, **card.model_dump(exclude=set(OF_THE_NETWORK)))


def _report(out: Path, outcome: Outcome, patches: int) -> None:
    """Print the fit, its quality, and what looks wrong with it."""
    from slidescan.tools.text_tables import aligned

    by = outcome.by
    knots = f", {len(by.isotonic)} knots" if by.isotonic else ""
    click.echo(f"{out}: temperature {by.temperature:.4f}{knots}, fitted to {patches} patches")
    rows = [("", "NLL", "ECE"), _row("before", outcome.before), _row("after", outcome.after)]
    if outcome.cross_fitted:
        rows.append(_row("cross-fitted", outcome.cross_fitted))
    for line in aligned(rows):
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
