"""`slidescan models`: scores of the shipped models, and the card of any model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from slidescan.commands.terminal import operating_lines

if TYPE_CHECKING:
    from slidescan.models.ancestors import Ancestor, Published, Stages
    from slidescan.models.card import Card
    from slidescan.models.scores import Validation

UNKNOWN = "-"
HEAD = (
    *("", "model", "AUC (95 % interval)", "accuracy", "NLL", "ECE", "parameters", "MB", "stride"),
    *("Mpx/s int8", "Mpx/s bf16", "Mpx/s fp32", "for"),
)
TEXT = ("", "model", "AUC (95 % interval)", "for")
"""Columns that are aligned on the left; the others hold numbers."""


@click.group(invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the shipped models; `show` prints a model's card.

    Commands take a model by its name, as in --model fast. The scores are those of held-out patches,
    the speeds those of the network alone.

    \b
    Examples:
      slidescan models
      slidescan models show fast
    """
    if ctx.invoked_subcommand is not None:
        return
    from slidescan.models.card import DEFAULT, read_card, read_weights, shipped_names

    cards = {name: read_card(name) for name in shipped_names()}
    rows = [
        ("*" if name == DEFAULT else "", name, *_row(card, len(read_weights(name, card))))
        for name, card in cards.items()
    ]
    for line in (*_aligned([HEAD, *rows]), *_notes(cards)):
        click.echo(line)


@command.command("show")
@click.argument("source", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
def show(source: str, as_json: bool) -> None:
    """Print a model's card, and check the SHA-256 of its weights.

    NAME is a shipped model's name. FILE is a .safetensors file with its card, the .json, beside it,
    or the folder of a training run.

    \b
    Examples:
      slidescan models show default
      slidescan models show model.safetensors --json
      slidescan models show runs/first
    """
    from slidescan.models.ancestors import Stages
    from slidescan.models.card import encoded, locate, read_card, read_weights

    card = read_card(source)
    size = len(read_weights(source, card))
    if as_json:
        click.echo(encoded(card).decode(), nl=False)
        return
    stages = Stages(card)
    click.echo(f"{'file':<12}{locate(source)[0]}")
    for key, value in _facts(card, size, stages):
        click.echo(f"{key:<12}{value}")
    if card.operating:
        click.echo("operating points, for --threshold")
        for line in operating_lines(card.operating):
            click.echo(f"  {line}")
    if stages.sources:
        click.echo("stages, each after those that it was made from")
    for number, stage in enumerate(stages.sources, 1):
        first, *further = _stage(stage, card, stages)
        click.echo(f"{number:>4}  {first}")
        for line in further:
            click.echo(f"      {line}")


def _row(card: Card, size: int) -> tuple[str, ...]:
    found, speeds = card.validation, card.speed.mpx_per_s if card.speed else {}
    fast = (speeds.get(f"openvino {precision}") for precision in ("int8", "bf16", "fp32"))
    return (
        *(_auc(found), f"{found.accuracy:.4f}", f"{found.nll:.4f}"),
        UNKNOWN if found.ece is None else f"{found.ece:.4f}",
        UNKNOWN if card.parameters is None else f"{card.parameters:,}",
        f"{size / 1e6:.1f}",
        f"{card.stride_px} px",
        *(UNKNOWN if each is None else f"{each:.1f}" for each in fast),
        card.purpose or UNKNOWN,
    )


def _auc(found: Validation) -> str:
    if found.auc_low is None or found.auc_high is None:
        return f"{found.auc:.4f}"
    return f"{found.auc:.4f} ({found.auc_low:.4f} to {found.auc_high:.4f})"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if name in TEXT else cell.rjust(width)
            for name, cell, width in zip(HEAD, row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _notes(cards: Mapping[str, Card]) -> Iterator[str]:
    yield "* the default of --model; `slidescan models show NAME` prints a model's card"
    splits = {f"{card.validation.patches} patches; {card.split}" for card in cards.values()}
    yield from (f"scores, before calibration: {split}" for split in sorted(splits))
    further: dict[tuple[str, int, str], list[str]] = {}
    for name, card in cards.items():
        for each in (card.validation_sets or ())[1:]:
            found = further.setdefault((each.name, each.patches, each.rule), [])
            found.append(f"{name} {each.scores.auc:.4f}")
    for (name, patches, rule), found in further.items():
        yield f"AUC on {patches} patches of {name}: {', '.join(found)}; {rule}"
    timed = {f"{card.speed.machine}, {card.speed.date}" for card in cards.values() if card.speed}
    yield from (f"Mpx/s: the network alone on {where}" for where in sorted(timed))


def _facts(card: Card, size: int, stages: Stages) -> Iterator[tuple[str, str]]:
    """The lines that `show` prints first."""
    yield "name", card.name
    yield "for", card.purpose or UNKNOWN
    count = UNKNOWN if card.parameters is None else f"{card.parameters:,}"
    yield "network", f"{card.plan.arch}, {count} parameters, {size / 1e6:.1f} MB"
    kind = "" if card.plan.valid else "; with zero padding, so for patches only"
    yield "sees", f"{card.field_px} px at {card.mpp:g} um/px, every {card.stride_px} px{kind}"
    yield "weights", f"SHA-256 {card.weights_sha256}"
    yield from _scores(card)
    yield "data", card.data
    yield "split", card.split
    yield "held out", _digest(card.held_out_sha256)
    yield "trained on", _digest(card.trained_on_sha256)
    for teacher in card.teachers or (None,):
        yield "teacher", _source(teacher, stages)
    # Versions that did not record the held-out patches did not record the start either.
    none = "random weights" if card.held_out_sha256 else "not recorded"
    yield "start", _source(card.start, stages) if card.start else none
    yield "made by", card.reproduce
    yield "versions", ", ".join(f"{name} {each}" for name, each in card.versions.items())


def _scores(card: Card) -> Iterator[tuple[str, str]]:
    found, by = card.validation, card.calibration
    ece = "" if found.ece is None else f", ECE {found.ece:.4f}"
    yield (
        "validation",
        f"{found.patches:,} patches: AUC {_auc(found)}, accuracy {found.accuracy:.4f}, "
        f"NLL {found.nll:.4f}{ece}{', all before calibration' if by else ''}",
    )
    if by is None:
        yield "calibration", "none"
    else:
        knots = f", {len(by.isotonic)} knots" if by.isotonic else ""
        folds = by.ece_cross_fitted
        error = "" if folds is None else f"; cross-fitted ECE {folds:.4f}"
        yield (
            "calibration",
            f"temperature {by.temperature:.4f}{knots}; fitted on {by.fitted_on}{error}",
        )
    if card.speed:
        speeds = ", ".join(f"{name} {each:.2f}" for name, each in card.speed.mpx_per_s.items())
        yield "Mpx/s", f"{speeds}; {card.speed.machine}, {card.speed.date}, {card.speed.command}"


def _digest(sha256: str | None) -> str:
    return f"SHA-256 of the ids {sha256}" if sha256 else "not recorded"


def _source(source: Ancestor | Published | str | None, stages: Stages) -> str:
    """A teacher or a start in one line."""
    from slidescan.models.ancestors import Published

    if source is None or isinstance(source, str):
        return source or "none"
    name = source.published if isinstance(source, Published) else source.name
    return f"{name}, stage {stages.number(source)}"


def _stage(stage: Ancestor | Published, card: Card, stages: Stages) -> Iterator[str]:
    """A model that `card` was made from: what it is, what it was made from, and the command."""
    from slidescan.models.ancestors import Published

    digest = f"SHA-256 {stage.sha256[:12]}..."
    if isinstance(stage, Published):
        yield f"{stage.published}, public weights, {digest}"
        return
    known = stage.held_out_sha256 is not None and card.held_out_sha256 is not None
    same = stage.held_out_sha256 == card.held_out_sha256
    unseen = ("the same" if same else "other") if known else "unknown"
    yield f"{stage.name}, {digest}, {unseen} patches held out"
    for teacher in stage.teachers:
        yield f"  teacher {_source(teacher, stages)}"
    if stage.start:
        yield f"  start {_source(stage.start, stages)}"
    if stage.reproduce:
        yield f"  {stage.reproduce}"
