"""NASNet-A as data: Zoph et al. 2018, "Learning Transferable Architectures", figure 4.

A cell starts with the states CURRENT and PREVIOUS: the outputs of the two cells before it, brought
to the cell's number of filters. Each step appends a state, the sum of two branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from slidescan.geometry import Field

CURRENT, PREVIOUS = 0, 1
FIRST_STEP = 2


class Kind(Enum):
    """What an operation computes."""

    SEPARABLE = "separable"
    AVERAGE = "average"
    MAX = "max"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class Op:
    """An operation and its kernel size, an odd number."""

    kind: Kind
    kernel: int = 1

    def field(self, stride: int, separables: int) -> Field:
        """The field of view; a separable operation has `separables` convolutions."""
        field = Field().then(self.kernel, stride)
        for _ in range(separables - 1 if self.kind is Kind.SEPARABLE else 0):
            field = field.then(self.kernel)
        return field

    def reach(self, stride: int, separables: int) -> int:
        """Input cells on each side of the centre, an integer since kernels are odd."""
        return (self.field(stride, separables).size - 1) // 2


@dataclass(frozen=True, slots=True)
class Branch:
    """An operation and the state it is applied to."""

    op: Op
    source: int


@dataclass(frozen=True, slots=True)
class Genotype:
    """Steps of two branches each, and the states that are concatenated to the output."""

    stride: int
    steps: tuple[tuple[Branch, Branch], ...]
    output: tuple[int, ...]


def _sep(kernel: int) -> Op:
    return Op(Kind.SEPARABLE, kernel)


_AVERAGE, _MAX, _IDENTITY = Op(Kind.AVERAGE, 3), Op(Kind.MAX, 3), Op(Kind.IDENTITY)

NORMAL = Genotype(
    stride=1,
    steps=(
        (Branch(_sep(5), CURRENT), Branch(_sep(3), PREVIOUS)),
        (Branch(_sep(5), PREVIOUS), Branch(_sep(3), PREVIOUS)),
        (Branch(_AVERAGE, CURRENT), Branch(_IDENTITY, PREVIOUS)),
        (Branch(_AVERAGE, PREVIOUS), Branch(_AVERAGE, PREVIOUS)),
        (Branch(_sep(3), CURRENT), Branch(_IDENTITY, CURRENT)),
    ),
    output=(PREVIOUS, 2, 3, 4, 5, 6),
)

REDUCTION = Genotype(
    stride=2,
    steps=(
        (Branch(_sep(5), CURRENT), Branch(_sep(7), PREVIOUS)),
        (Branch(_MAX, CURRENT), Branch(_sep(7), PREVIOUS)),
        (Branch(_AVERAGE, CURRENT), Branch(_sep(5), PREVIOUS)),
        (Branch(_IDENTITY, 3), Branch(_AVERAGE, 2)),
        (Branch(_sep(3), 2), Branch(_MAX, CURRENT)),
    ),
    output=(3, 4, 5, 6),
)


def needs(genotype: Genotype, separables: int = 1) -> tuple[int, int]:
    """Input cells per side that a cell reads of CURRENT and of PREVIOUS around its output.

    >>> needs(NORMAL), needs(REDUCTION), needs(REDUCTION, separables=2)
    ((2, 2), (4, 5), (10, 13))
    """
    after = _after(genotype, separables)
    most = [0, 0]
    for state, step in enumerate(genotype.steps, FIRST_STEP):
        for branch in step:
            if branch.source < FIRST_STEP:
                reach = branch.op.reach(genotype.stride, separables)
                most[branch.source] = max(most[branch.source], after[state] + reach)
    return most[CURRENT], most[PREVIOUS]


@dataclass(frozen=True, slots=True)
class Crops:
    """The crops, in cells on each side, that align a cell's branches.

    Each crop comes before its operation. At stride 2 kernels 5 and 7 differ by half an output cell,
    which a crop of the outputs cannot correct; and no output is computed that would be cut off.
    """

    branches: tuple[tuple[int, int], ...]
    """For each step, the crops of both branches, in cells of the branch's source."""
    output: tuple[int, ...]
    """For each concatenated state, its crop in cells of that state."""


def crops(genotype: Genotype, separables: int = 1) -> Crops:
    """The crops that align all branches, for inputs with the margins of `needs`."""
    stride, after = genotype.stride, _after(genotype, separables)
    margins = needs(genotype, separables)

    def branch_crop(branch: Branch, state: int) -> int:
        if branch.source < FIRST_STEP:
            reach = branch.op.reach(stride, separables)
            return margins[branch.source] - after[state] - reach
        spare = (after[branch.source] - after[state]) // stride
        return spare - branch.op.reach(1, separables)

    def output_crop(state: int) -> int:
        if state >= FIRST_STEP:
            return after[state] // stride
        if stride != 1:
            raise ValueError("a strided cell cannot pass its input on")
        return margins[state]

    return Crops(
        tuple(
            (branch_crop(left, state), branch_crop(right, state))
            for state, (left, right) in enumerate(genotype.steps, FIRST_STEP)
        ),
        tuple(output_crop(state) for state in genotype.output),
    )


def _after(genotype: Genotype, separables: int) -> list[int]:
    """The margin that each state needs, in input cells on each side.

    Computed backwards from the output: a state's margin is the largest that its users need.
    """
    after = [0] * (FIRST_STEP + len(genotype.steps))
    for state in reversed(range(FIRST_STEP, len(after))):
        for branch in genotype.steps[state - FIRST_STEP]:
            if branch.source >= FIRST_STEP:
                need = after[state] + branch.op.reach(1, separables) * genotype.stride
                after[branch.source] = max(after[branch.source], need)
    return after
