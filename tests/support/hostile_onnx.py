"""Hostile ONNX files: small networks with other operations, links, attributes and claims."""

from __future__ import annotations

from functools import cache

import hostile
import numpy as np
import onnx
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from onnx import TensorProto, helper, numpy_helper

SIZES = [0, 1, -1, 2, 3, 96, 2**15, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1]
ATTRIBUTES = [
    *("axis", "axes", "kernel_shape", "strides", "pads", "dilations", "group", "to", "perm"),
    *("mode", "auto_pad", "ceil_mode", "alpha", "blocksize", "num_outputs", "shape", "value"),
]


@cache
def operations() -> list[str]:
    return sorted({each.name for each in onnx.defs.get_all_schemas() if not each.domain})


def network() -> onnx.ModelProto:
    """Mean colour, one linear layer and a softmax."""
    weights = np.random.default_rng(0).normal(0, 0.02, (2, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["colour"]),
            helper.make_node("Conv", ["colour", "weights"], ["linear"]),
            helper.make_node("Flatten", ["linear"], ["flat"]),
            helper.make_node("Softmax", ["flat"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("patches", 3, 96, 96))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("patches", 2))],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)


def files() -> SearchStrategy[bytes]:
    """Damaged bytes, and whole networks that were edited."""
    return hostile.damaged(network().SerializeToString()) | _edited()


@st.composite
def _edited(draw: hostile.Draw) -> bytes:
    model = network()
    for _ in range(draw(st.integers(1, 4))):
        draw(st.sampled_from(EDITS))(model, draw)
    return model.SerializeToString()


def _node(model: onnx.ModelProto, draw: hostile.Draw) -> onnx.NodeProto:
    return model.graph.node[draw(st.integers(0, len(model.graph.node) - 1))]


def _names(model: onnx.ModelProto) -> SearchStrategy[str]:
    links = [name for node in model.graph.node for name in (*node.input, *node.output)]
    return st.sampled_from([*links, "", "unknown"])


def other_operation(model: onnx.ModelProto, draw: hostile.Draw) -> None:
    _node(model, draw).op_type = draw(st.sampled_from(operations()))


def other_link(model: onnx.ModelProto, draw: hostile.Draw) -> None:
    """One that may lead back: a graph that feeds itself."""
    node, name = _node(model, draw), draw(_names(model))
    if draw(st.booleans()) or not node.input:
        node.input.append(name)
    else:
        node.input[draw(st.integers(0, len(node.input) - 1))] = name


def other_attribute(model: onnx.ModelProto, draw: hostile.Draw) -> None:
    sizes = st.sampled_from(SIZES)
    value = draw(
        sizes | st.lists(sizes, min_size=1, max_size=4) | st.sampled_from(["x" * 9999, 1e300])
    )
    name = draw(st.sampled_from(ATTRIBUTES))
    _node(model, draw).attribute.append(helper.make_attribute(name, value))


def other_weights(model: onnx.ModelProto, draw: hostile.Draw) -> None:
    tensor = model.graph.initializer[0]
    kind = draw(st.sampled_from(["size", "dimension", "type", "cut"]))
    if kind == "size":
        tensor.dims[draw(st.integers(0, len(tensor.dims) - 1))] = draw(st.sampled_from(SIZES))
    elif kind == "dimension":
        tensor.dims.append(draw(st.sampled_from(SIZES)))
    elif kind == "type":
        tensor.data_type = draw(st.integers(0, 25))
    else:
        tensor.raw_data = tensor.raw_data[: draw(st.integers(0, 23))]


def other_shape(model: onnx.ModelProto, draw: hostile.Draw) -> None:
    shape = draw(st.sampled_from([*model.graph.input, *model.graph.output])).type.tensor_type.shape
    shape.dim[draw(st.integers(0, len(shape.dim) - 1))].dim_value = draw(st.sampled_from(SIZES))


def other_version(model: onnx.ModelProto, draw: hostile.Draw) -> None:
    model.opset_import[0].version = draw(st.sampled_from([0, 1, -1, 5, 9, 11, 13, 22, 30, 2**40]))


def further_node(model: onnx.ModelProto, draw: hostile.Draw) -> None:
    inputs = draw(st.lists(_names(model), max_size=4))
    node = helper.make_node(draw(st.sampled_from(operations())), inputs, [draw(_names(model))])
    model.graph.node.insert(draw(st.integers(0, len(model.graph.node))), node)


EDITS = [
    *(other_operation, other_link, other_attribute, other_weights, other_shape, other_version),
    further_node,
]
