"""Dropout in the head: of the network that is trained, in training only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("lightning_fabric")
from learning import TINY, VALIDATION, fit, tiny, weights
from slidescan_train.loop.dropout import HeadDropout
from slidescan_train.loop.learner import predict

from slidescan.networks.network import Network

CPU = torch.device("cpu")


def inputs_of_the_classifier(network: Network, dropout: HeadDropout, seed: int) -> torch.Tensor:
    """(N, channels) of equal patches, with masks of this seed."""
    seen: list[torch.Tensor] = []
    network.head.classifier.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    dropout.draw(400, np.random.default_rng(seed), CPU)
    network(torch.rand(1, 3, 96, 96).expand(400, -1, -1, -1) * 255)
    return seen[0][:, :, 0, 0].detach()


def test_a_share_of_the_channels_is_zero_and_the_mean_stays() -> None:
    plain, dropped = Network(TINY), Network(TINY)
    dropped.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    whole = inputs_of_the_classifier(plain.eval(), HeadDropout(plain, 0), 1)
    torch.manual_seed(0)
    left = inputs_of_the_classifier(dropped.eval(), HeadDropout(dropped, 0.25), 1)

    active = whole[0] > 0
    assert active.any()
    zero = (left == 0)[:, active].float().mean()
    assert float(zero) == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(left[left > 0] * 0.75, whole[left > 0])


def test_training_with_dropout_learns_repeatably_and_differs_from_training_without() -> None:
    _, kept = fit(tiny(epochs=4, ema=0.5, dropout=0.3))
    assert kept.epochs[-1].validation_auc > 0.9
    one, again = (weights(fit(tiny(dropout=0.3))[0].average) for _ in range(2))
    without = weights(fit(tiny())[0].average)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["body.stem.0.weight"], without["body.stem.0.weight"])


def test_the_network_that_is_evaluated_has_no_dropout_and_the_same_weights_by_name() -> None:
    learner, _ = fit(tiny(dropout=0.5))
    assert set(learner.average.state_dict()) == set(Network(TINY).state_dict())
    scores = [predict(learner.average, VALIDATION, CPU) for _ in range(2)]
    plain = Network(TINY).eval()
    plain.load_state_dict(learner.average.state_dict())
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=0)
    torch.testing.assert_close(scores[0], predict(plain, VALIDATION, CPU), rtol=1e-5, atol=1e-5)
