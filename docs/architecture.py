"""Draws the import graph in docs/architecture.md from the code.

python -m docs.architecture
"""

from __future__ import annotations

from pathlib import Path

import grimp

from slidescan.cli import COMMANDS

PAGE = Path(__file__).with_name("architecture.md")
PACKAGES = ("slidescan", "slidescan_train")
BEGIN, END = "```mermaid\n", "```\n"

Arrows = dict[str, set[str]]
"""What each part imports."""


def part(module: str) -> str:
    """The node of a module: a folder or file of slidescan, or the whole of slidescan_train.

    >>> part("slidescan.engines.openvino.graph"), part("slidescan_train.loop.loader")
    ('engines', 'slidescan_train')
    """
    package, *inside = module.split(".")
    return inside[0] if package == "slidescan" and inside else package


def imports() -> Arrows:
    """What each part imports of the others."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    arrows: Arrows = {}
    for module in graph.modules:
        imported = {part(other) for other in graph.find_modules_directly_imported_by(module)}
        arrows.setdefault(part(module), set()).update(imported - {part(module)})
    del arrows["__main__"]
    return arrows


def reachable(arrows: Arrows, start: str) -> set[str]:
    """Every part that arrows lead to from `start`."""
    found: set[str] = set()
    ahead = list(arrows.get(start, ()))
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += arrows.get(node, ())
    return found


def reduced(arrows: Arrows) -> Arrows:
    """The fewest arrows that lead from every part to the same parts (transitive reduction).

    >>> reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    {'a': {'b'}, 'b': {'c'}, 'c': set()}
    """
    below = {node: reachable(arrows, node) for node in arrows}
    return {
        node: {to for to in targets if not any(to in below[other] for other in targets - {to})}
        for node, targets in arrows.items()
    }


def diagram() -> str:
    """The mermaid block of the page."""
    lines = ["flowchart TD"]
    lines += [
        f"    {node} --> {target}"
        for node, targets in sorted(reduced(imports()).items())
        for target in sorted(targets)
    ]
    by_name = {part(module) for module in COMMANDS.values()}
    lines += [f"    cli -.-> {target}" for target in sorted(by_name)]
    return BEGIN + "\n".join(lines) + "\n" + END


def drawn(page: str) -> str:
    """The text of the page with the diagram of today's code."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + diagram() + after


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
