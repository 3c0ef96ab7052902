"""The published NASNet-A Mobile, weight for weight, from the same genotypes as ours.

The reference is the one of test_parity.py; where it is not installed, its values at one input
stand for it.
"""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import networks
import pytest
import torch
from torch import Tensor, nn

from slidescan.errors import ModelError
from slidescan.networks.nasnet_mobile import NasnetMobile, from_published, published_name

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
# Every remainder of 32 that it takes, even and odd, on either axis.
SIZES = [(96, 96), (224, 224), (95, 98), (97, 127), (34, 65)]


@pytest.fixture(scope="module")
def pair(reference: ModuleType) -> tuple[Any, Any]:
    """Ours and the reference with the same random weights and statistics, float64."""
    theirs = reference.nasnetamobile(num_classes=1000, pretrained=None)
    networks.randomise(theirs.double().eval(), seed=1)
    ours = NasnetMobile().double().eval()
    ours.load_state_dict(from_published(theirs.state_dict()))
    return ours, theirs


def pixels(height: int, width: int, count: int = 1) -> Tensor:
    return networks.image(height, width, count=count) / 127.5 - 1


def published() -> dict[str, Tensor]:
    """A state dict as the reference's file holds it."""
    state = networks.randomise(NasnetMobile()).state_dict()
    return {published_name(name): value for name, value in state.items()} | {
        "last_linear.weight": torch.zeros(1000, 1056),
        "last_linear.bias": torch.zeros(1000),
    }


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_features_and_logits_are_those_of_the_reference(
    pair: tuple[Any, Any], size: tuple[int, int], dtype: torch.dtype
) -> None:
    ours, theirs = (copy.deepcopy(network).to(dtype) for network in pair)
    x, bound = pixels(*size).to(dtype), TOLERANCES[dtype]
    with torch.no_grad():
        features, expected = ours(x), theirs.features(x)
        logits = theirs.last_linear(features.relu().mean((2, 3)))
        theirs.avg_pool = nn.AdaptiveAvgPool2d(1)  # theirs is for 224 px
        expected_logits = theirs(x)
    assert expected.std() > 1  # so the bounds below are relative as well
    assert features.shape == (1, NasnetMobile.channels, (size[0] + 1) // 32, (size[1] + 1) // 32)
    torch.testing.assert_close(features, expected, rtol=0, atol=bound)
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=bound)


def test_training_is_that_of_the_reference(pair: tuple[Any, Any]) -> None:
    ours, theirs = (copy.deepcopy(network).train() for network in pair)
    weights = torch.linspace(-1, 1, NasnetMobile.channels, dtype=torch.float64)[:, None, None]
    for features in (ours, theirs.features):
        (features(pixels(64, 64, count=2)) * weights).sum().backward()
    state, gradients = theirs.state_dict(), dict(theirs.named_parameters())
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, state[published_name(name)], msg=name)
    for name, parameter in ours.named_parameters():
        expected = gradients[published_name(name)].grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("size", [(94, 96), (96, 99), (97, 131)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_side_that_the_reference_cannot_halve_is_refused(
    pair: tuple[Any, Any], size: tuple[int, int]
) -> None:
    ours, theirs = pair
    with pytest.raises(RuntimeError, match="must match"):
        theirs.features(pixels(*size))
    with pytest.raises(ValueError, match=rf"^{size[0]} x {size[1]} px: .* multiple of 32$"):
        ours(pixels(*size))


def test_features_are_those_the_reference_gave_once() -> None:
    ours = networks.randomise(NasnetMobile().double().eval(), seed=2)
    with torch.no_grad():
        features = ours(pixels(96, 96))[0]
    # Of the reference itself: mean, deviation, three channels of a cell, a column of a channel.
    golden = [
        *(-0.08711717956442531, 1.2317024585250398),
        *(-0.28755537180553886, 0.41865633424521864, -0.5925743021002711),
        *(-1.0847006857538077, -0.8126301559202843, -0.8777003943962045),
    ]
    found = (features.mean(), features.std(), *features[::352, 1, 2], *features[700, :, 0])
    assert [float(value) for value in found] == pytest.approx(golden, rel=1e-9)


def test_it_has_the_published_number_of_parameters() -> None:
    body = NasnetMobile()
    ours = sum(p.numel() for p in body.parameters())
    # With the classes of ImageNet, and with its background class as well.
    assert ours + 1000 * (NasnetMobile.channels + 1) == 5_289_978
    assert ours + 1001 * (NasnetMobile.channels + 1) == 5_291_035
    # Keras' NASNetMobile counts statistics too: 5,326,716 in all for 1000 classes.
    statistics = sum(b.numel() for name, b in body.named_buffers() if "running" in name)
    assert ours + 1000 * (NasnetMobile.channels + 1) + statistics == 5_326_716


def test_it_trains_in_bfloat16_with_channels_last() -> None:
    body = networks.randomise(NasnetMobile().float()).train()
    body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = pixels(64, 64, count=2).float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = body(x)
    assert features.dtype == torch.bfloat16
    assert features.is_contiguous(memory_format=torch.channels_last)
    features.float().relu().mean().backward()
    for name, parameter in body.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_published_weights_become_ours_and_back() -> None:
    state = published()
    ours = from_published(state)
    assert list(ours) == list(NasnetMobile().state_dict())
    assert {published_name(name) for name in ours} == {
        name for name in state if not name.startswith("last_linear")
    }
    assert all(value is state[published_name(name)] for name, value in ours.items())


def test_the_reference_takes_our_names(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    state = {published_name(name): value for name, value in ours.state_dict().items()}
    missing, unexpected = copy.deepcopy(theirs).load_state_dict(state, strict=False)
    assert missing == ["last_linear.weight", "last_linear.bias"]
    assert unexpected == []


def test_published_weights_need_no_classifier_and_no_counts() -> None:
    state = {
        name: value
        for name, value in published().items()
        if not name.startswith("last_linear") and not name.endswith("num_batches_tracked")
    }
    body = NasnetMobile()
    body.load_state_dict(from_published(state))  # strict
    assert body.stem[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv0.bn.running_var", None, "no tensor conv0.bn.running_var; "),
        ("cell_6.path_2.conv.weight", None, "no tensor cell_6.path_2.conv.weight; "),
        ("cell_16.conv_1x1.bn.bias", torch.ones(1), "unknown tensor cell_16.conv_1x1.bn.bias;"),
        (
            "cell_stem_0.comb_iter_1_right.separable_1.pointwise_conv2d.weight",
            torch.ones(10, 32, 1, 1),
            "pointwise_conv2d.weight is (10, 32, 1, 1), not (11, 32, 1, 1); ",
        ),
    ],
    ids=["missing", "missing in a cell", "surplus", "shape"],
)
def test_other_weights_are_refused(name: str, value: Tensor | None, message: str) -> None:
    state = published()
    state.pop(name, None)
    if value is not None:
        state[name] = value
    with pytest.raises(ModelError) as error:
        from_published(state)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_of_several_missing_tensors_is_named() -> None:
    with pytest.raises(ModelError, match=r"no tensor conv0\.conv\.weight; take the state dict of"):
        from_published({"fc.weight": torch.ones(1)})
