"""YAML that others wrote, as plain values of bounded size."""

from __future__ import annotations

from typing import Any

import yaml

MOST_NODES = 100_000
"""With every alias written out. The largest shipped configuration has a few hundred."""

_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def load_yaml(text: bytes | str) -> Any:
    """Return the values of a document.

    Raises yaml.YAMLError: not YAML, nested too deep, too large once its aliases are written out, a
    key that is no text, or a value that its tag does not allow.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _written_out(node, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deep") from error
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        # yaml's own constructors: an impossible date, thousands of digits, a tag that does not fit.
        raise yaml.YAMLError(f"a value that cannot be read ({error})") from error
    finally:
        loader.dispose()


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the nodes below and with `node`; `known` has the counts of others, by id."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES  # a node that holds itself
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        below = [each for pair in node.value for each in pair]
        for key, _ in node.value:
            if key.tag not in _KEYS:
                raise yaml.YAMLError(f"a key that is no text, line {key.start_mark.line + 1}")
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    count = 1 + sum(_written_out(each, known) for each in below)
    if count > MOST_NODES:
        raise yaml.YAMLError(f"holds more than {MOST_NODES:,} values, its aliases written out")
    known[id(node)] = count
    return count
