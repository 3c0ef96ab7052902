"""What a training does: targets, rates, steps, statistics, epochs, divergence."""

from __future__ import annotations

import math
import shutil
from typing import Any

import learning
import networks
import numpy as np
import pytest
import torch
from learning import TINY, TRAINING, VALIDATION, Kept, fit, furthest, same, tiny, weights
from slidescan_train.loop import training
from slidescan_train.loop.batch_norm import Statistics
from slidescan_train.loop.devices import make_fabric, memory_errors, precision_of
from slidescan_train.loop.history import Epoch, best
from slidescan_train.loop.history import finished as run_finished
from slidescan_train.loop.learner import (
    DivergedError,
    follow,
    make_optimiser,
    predict,
    tumour,
)
from slidescan_train.loop.loader import Loader, micro_batches, steps
from slidescan_train.loop.progress import Progress
from slidescan_train.loop.range_test import RangeTest, range_test
from slidescan_train.recipe.config import DistilConfig, TrainConfig
from slidescan_train.recipe.objective import cross_entropy, distillation, mix, soft_targets
from slidescan_train.recipe.schedule import rate
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own idiom)
from torch.utils._python_dispatch import TorchDispatchMode

from slidescan.errors import ConfigError
from slidescan.networks.network import Network

# --- rates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", {0: 3e-6, 0.025: 0.001503, 0.05: 0.003, 0.2875: 0.0025606602, 0.525: 0.0015}),
        ("constant", {0: 3e-6, 0.05: 0.003, 0.5: 0.003, 1: 0.003}),
        # A 25th at first, the peak after the warm-up, a ten-thousandth at the end.
        ("one-cycle", {0: 0.00012, 0.025: 0.00156, 0.05: 0.003, 0.525: 0.00150015, 1: 3e-7}),
    ],
)
def test_the_rate_follows_its_schedule(schedule: str, expected: dict[float, float]) -> None:
    config = tiny(learning_rate=0.003, warm_up=0.05, schedule=schedule)
    for done, value in expected.items():
        assert rate(done, config) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "constant"])
def test_without_a_warm_up_the_peak_comes_first(schedule: str) -> None:
    config = tiny(learning_rate=0.003, warm_up=0, schedule=schedule)
    assert rate(0, config) == pytest.approx(0.003)


# --- objective ------------------------------------------------------------------------------

LABELS = torch.tensor([0, 1, 1, 0, 1])
LOGITS = torch.tensor([[2.0, -1], [0, 3], [1, 0.5], [0.2, 0.1], [-3, 3]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_are_those_of_torch(smoothing: float) -> None:
    expected = F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    ours = cross_entropy(LOGITS, soft_targets(LABELS, smoothing))
    torch.testing.assert_close(ours, expected)


def test_mixup_mixes_pixels_and_targets_by_the_same_share() -> None:
    count = 64
    x = torch.rand(count, 3, 4, 4)
    targets = torch.eye(count)  # so that a target tells which patches are in it, and how much
    mixed, shares = mix(x, targets, 0.4, np.random.default_rng(3))

    torch.testing.assert_close(shares.sum(1), torch.ones(count))
    torch.testing.assert_close(mixed, torch.einsum("nm,mchw->nchw", shares, x))
    assert ((shares > 0).sum(1) <= 2).all()
    assert float((shares.max(1).values < 0.99).float().mean()) > 0.02


def test_a_student_of_its_own_opinion_has_nothing_to_learn() -> None:
    config = DistilConfig(temperature=3.0)
    assert distillation(LOGITS, LOGITS + 5, config).item() == pytest.approx(0, abs=1e-6)
    away = distillation(LOGITS, -LOGITS, config)
    soft, softer = (LOGITS / 3).softmax(1), (-LOGITS / 3).softmax(1)
    by_hand = 9 * (softer * (softer.log() - soft.log())).sum(1).mean()
    torch.testing.assert_close(away, by_hand)


# --- parts of a step ------------------------------------------------------------------------


def test_weight_decay_is_for_convolution_weights_alone() -> None:
    network = Network(TINY)
    decayed, spared = make_optimiser(network, tiny(weight_decay=0.05)).param_groups
    convolutions = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]

    def ids(group: dict[str, Any]) -> list[int]:
        return sorted(map(id, group["params"]))

    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert ids(decayed) == sorted(map(id, convolutions))
    assert sorted(ids(decayed) + ids(spared)) == sorted(map(id, network.parameters()))


def test_the_average_follows_weights_and_statistics() -> None:
    def layer(value: float, batches: int) -> nn.BatchNorm2d:
        made = nn.BatchNorm2d(2)
        state = made.state_dict()
        for name in state:
            state[name].fill_(batches if name == "num_batches_tracked" else value)
        return made

    average, network = layer(1.0, 3), layer(2.0, 7)
    follow(average, network, 0.9)

    for name, value in average.state_dict().items():
        expected = 7.0 if name == "num_batches_tracked" else 1.1
        torch.testing.assert_close(value.double(), torch.full_like(value.double(), expected))
    assert all(torch.all(p == 2) for p in network.parameters())


def test_statistics_of_one_micro_batch_are_batchnorms_own() -> None:
    x = torch.rand(8, 2, 3, 3)
    ours, plain = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    statistics = Statistics(ours, learning.fabric(tiny()))
    for _ in range(3):
        statistics.begin()
        ours(x)
        statistics.collect()
        statistics.end(1)
        plain(x)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_statistics_of_equal_micro_batches_move_as_far_as_one_after_the_other() -> None:
    x = torch.rand(8, 2, 3, 3)
    ours, plain = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    statistics = Statistics(ours, learning.fabric(tiny()))
    statistics.begin()
    for _ in range(5):
        ours(x)
        statistics.collect()
        plain(x)
    statistics.end(5)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_statistics_do_not_depend_on_the_order_of_micro_batches() -> None:
    parts = torch.rand(4, 8, 2, 3, 3)
    after = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        layer = nn.BatchNorm2d(2)
        statistics = Statistics(layer, learning.fabric(tiny()))
        statistics.begin()
        for i in order:
            layer(parts[i])
            statistics.collect()
        statistics.end(4)
        after.append(layer.running_mean.clone())  # type: ignore[union-attr]
    torch.testing.assert_close(*after)


def test_accumulated_micro_batches_step_as_one_large_batch() -> None:
    # Twice the same patches have the mean and variance of each half: BatchNorm, which sees
    # micro-batches, cannot tell the two apart, so neither must anything else.
    twice = TRAINING.take(np.tile(np.arange(8), 2))
    # Adam divides a gradient by its size, so rounding alone would tell the two apart.
    plain = {"optimiser": "sgd", "clip": None, "ema": 0, "augment": learning.STILL}
    after = []
    for micro in 8, 16:
        learner = learning.learner(tiny(micro_batch=micro, **plain))
        learner.network.train()
        with Loader(twice, learner.config.augment, 0, 0) as loader:
            for _ in range(3):
                parts = np.array_split(np.arange(16), 16 // micro)
                learner.step(loader.load(1, parts), parts, 0.01, (0,))
        after.append(dict(learner.network.named_parameters()))
    assert furthest(*after) < 1e-6
    begun = dict(learning.learner(tiny(**plain)).network.named_parameters())
    assert furthest(after[0], begun) > 1e-3


def test_a_step_is_told_in_the_order_of_its_rows() -> None:
    config = tiny(micro_batch=6, learning_rate=1e-9, augment=learning.STILL)
    learner = learning.learner(config)
    rows = np.arange(16)
    with Loader(TRAINING, config.augment, 0, 0) as loader:
        parts = micro_batches(rows, 6, 1)
        learner.network.eval()  # its statistics, so that the division makes no difference
        outcome = learner.step(loader.load(1, parts), parts, 1e-9, (0,))
    logits = predict(learner.network, TRAINING.take(rows), torch.device("cpu"))
    np.testing.assert_allclose(outcome.probabilities, tumour(logits).numpy(), atol=1e-5)
    expected = cross_entropy(logits, soft_targets(torch.from_numpy(TRAINING.labels[:16]), 0.02))
    assert outcome.loss == pytest.approx(expected.item(), abs=1e-5)


def test_predictions_do_not_depend_on_the_batch() -> None:
    network = networks.randomise(Network(TINY)).eval()
    cpu = torch.device("cpu")
    torch.testing.assert_close(
        predict(network, VALIDATION, cpu, batch=3), predict(network, VALIDATION, cpu)
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_setting_to_lower(error: Exception) -> None:
    told = "--set micro_batch=8: a step keeps its 16 patches"
    with pytest.raises(ConfigError, match=told), memory_errors(tiny()):
        raise error
    with pytest.raises(RuntimeError, match="something else"), memory_errors(tiny()):
        raise RuntimeError("something else")


# --- mixed precision ------------------------------------------------------------------------


class Convolutions(TorchDispatchMode):
    """The types of the pixels that convolutions take: depthwise ones, and the others."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.others = set[torch.dtype](), set[torch.dtype]()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.convolution.default:
            (self.depthwise if args[8] > 1 else self.others).add(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("has", "taken"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bf16_is_for_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch, has: bool, taken: str
) -> None:
    monkeypatch.setattr("slidescan.engines.openvino.engine.has_bf16", lambda: has)
    made = make_fabric(tiny(precision="bf16-mixed"), "cpu", torch.get_num_threads())
    assert precision_of(made) == taken


@pytest.mark.parametrize(
    ("precision", "others"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)]
)
def test_depthwise_convolutions_are_trained_in_float32(precision: str, others: torch.dtype) -> None:
    learner = learning.learner(tiny(precision=precision))
    parts = [np.arange(8)]
    with Loader(VALIDATION, learner.config.augment, 0, 0) as loader, Convolutions() as seen:
        learner.step(loader.load(1, parts), parts, 0.01, (0,))
    assert seen.depthwise == {torch.float32}
    assert seen.others == {others}


# --- the loop -------------------------------------------------------------------------------


def test_a_tiny_network_learns_what_is_plain_to_see() -> None:
    config = tiny(epochs=3, precision="bf16-mixed", schedule="one-cycle", warm_up=0.3)
    _, kept = fit(config)

    last = kept.epochs[-1]
    assert last.validation_auc > 0.95
    assert last.validation_accuracy > 0.9
    assert last.training_auc > 0.9
    assert [e.number for e in kept.epochs] == [1, 2, 3]
    per_epoch = len(TRAINING) // 16
    assert [s.number for s in kept.steps] == list(range(1, 3 * per_epoch + 1))
    assert kept.patches == [16] * 3 * per_epoch
    first = [s.loss for s in kept.steps if s.epoch == 1]
    assert kept.epochs[0].training_loss == pytest.approx(np.mean(first))
    assert first[0] == pytest.approx(math.log(2), abs=1e-3)  # the classifier starts at even odds
    assert all(0 <= e.waiting < 1 and e.images_per_second > 0 for e in kept.epochs)
    assert kept.checkpoints == 3


@pytest.mark.parametrize("change", [{"mixup": 0.3}, {"optimiser": "sgd", "learning_rate": 0.1}])
def test_other_recipes_learn_too(change: dict[str, Any]) -> None:
    assert fit(tiny(epochs=4, ema=0.5, **change))[1].epochs[-1].validation_auc > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    drawn = {"augment": TrainConfig().augment.model_dump(), "mixup": 0.2}
    torch.manual_seed(123)  # must not matter
    one = weights(fit(tiny(**drawn))[0].average)
    torch.manual_seed(321)
    again = weights(fit(tiny(**drawn))[0].average)
    other = weights(fit(tiny(**drawn, seed=6))[0].average)

    assert same(one, again)
    assert not torch.equal(one["body.stem.0.weight"], other["body.stem.0.weight"])


def test_scores_are_of_the_average_on_unaugmented_patches() -> None:
    learner, kept = fit(tiny(epochs=2))
    logits = predict(learner.average, VALIDATION, torch.device("cpu"))
    labels = torch.from_numpy(VALIDATION.labels)
    last = kept.epochs[-1]

    np.testing.assert_array_equal(kept.probabilities[-1], tumour(logits).numpy())
    assert last.validation_loss == pytest.approx(F.cross_entropy(logits, labels).item())
    assert last.validation_auc == training.auc(VALIDATION.labels, kept.probabilities[-1])
    right = (logits.argmax(1) == labels).double()
    assert last.validation_accuracy == pytest.approx(right.mean().item())


def test_a_batch_larger_than_the_data_is_all_of_it_in_one_step() -> None:
    _, kept = fit(tiny(batch=15_000, micro_batch=16, epochs=2))
    assert kept.patches == [len(TRAINING)] * 2


def test_patience_ends_a_run_that_gets_no_better() -> None:
    # At so low a rate nothing changes, so no epoch is better than the first.
    _, kept = fit(tiny(epochs=9, patience=2, learning_rate=1e-12, ema=0))
    assert [e.number for e in kept.epochs] == [1, 2, 3]


def epoch(number: int, auc: float) -> Epoch:
    return Epoch(number, 0.1, 0.5, 0.8, 0.8, 0.5, 0.8, auc, 100.0, 0.0, 1.0)


def test_the_best_epoch_is_the_first_with_the_highest_auc() -> None:
    epochs = [epoch(1, math.nan), epoch(2, 0.9), epoch(3, 0.8), epoch(4, 0.9)]
    assert best(epochs) == epochs[1]
    assert best(epochs[:1]) is None
    assert best([]) is None


@pytest.mark.parametrize(
    ("planned", "patience", "ended"),
    [(9, None, False), (9, 3, False), (9, 2, True), (4, None, True), (4, 9, True)],
)
def test_a_run_is_finished_by_its_epochs_or_by_patience(
    planned: int, patience: int | None, ended: bool
) -> None:
    epochs = [epoch(1, 0.7), epoch(2, 0.9), epoch(3, 0.8), epoch(4, 0.9)]
    assert run_finished(epochs, planned, patience) is ended
    assert not run_finished([], planned, patience)


def test_a_checkpoint_is_kept_within_a_long_epoch() -> None:
    _, kept = fit(tiny(checkpoint_minutes=1e-9))
    assert kept.checkpoints == len(kept.steps) + 1


@pytest.mark.parametrize("change", [{"learning_rate": 1e30}, {"learning_rate": 1e30, "clip": None}])
def test_a_loss_that_is_no_number_says_where(change: dict[str, Any]) -> None:
    learner, kept = learning.learner(tiny(epochs=20, warm_up=0, **change)), Kept()
    with pytest.raises(DivergedError) as error:
        training.train(learner, TRAINING, {"split": VALIDATION}, Progress(), kept)
    message = str(error.value)
    assert f"epoch 1, step {len(kept.steps) + 1}: " in message
    assert "not finite" in message or "the loss is nan" in message
    assert "below 1e+30" in message
    assert kept.checkpoints == 0


# --- range test -----------------------------------------------------------------------------


def test_the_range_test_suggests_a_rate_that_learns_and_ends_where_the_loss_blows_up() -> None:
    config = tiny(optimiser="sgd", clip=None, ema=0, momentum=0.0)
    rates = np.geomspace(1e-3, 1e3, 100).tolist()
    seen: list[float] = []
    learner = learning.learner(config)
    test = range_test(learner, TRAINING, rates, lambda rate, loss: seen.append(rate))

    assert test.rates == rates[: len(test.rates)] == seen
    assert len(test.rates) < len(rates)
    assert test.suggestion is not None
    assert test.rates[0] < test.lowest < test.rates[-1]
    trained = fit(tiny(optimiser="sgd", momentum=0.0, epochs=4, learning_rate=test.suggestion))
    assert trained[1].epochs[-1].validation_auc > 0.8


def test_the_suggestion_is_a_tenth_of_the_rate_at_the_lowest_loss() -> None:
    rates = np.geomspace(1e-4, 1, 9).tolist()
    smooth = [0.7, 0.7, 0.69, 0.6, 0.4, 0.35, 0.34, 0.5, 2.0]
    assert RangeTest(rates, smooth, smooth).suggestion == rates[6] / 10
    assert RangeTest(rates, smooth, smooth).lowest == rates[6]
    flat = [0.7, 0.71, 0.72]
    assert RangeTest(rates[:3], flat, flat).suggestion is None
    assert RangeTest([], [], []).suggestion is None


def test_the_range_test_goes_through_the_data_more_than_once() -> None:
    few = TRAINING.take(np.arange(20))
    config = tiny(ema=0)
    assert len(steps(20, config.batch, config.seed, 1)) == 1
    test = range_test(learning.learner(config), few, [1e-6] * 7, lambda *_: None)
    assert len(test.losses) == 7


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's own
@pytest.mark.slow  # half a minute of compiling
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_a_compiled_network_learns_the_same() -> None:
    plain, kept = fit(tiny(optimiser="sgd"))
    compiled, told = fit(tiny(optimiser="sgd", compile=True))
    assert furthest(weights(plain.average), weights(compiled.average)) < 1e-4
    losses = [[step.loss for step in each.steps] for each in (kept, told)]
    np.testing.assert_allclose(*losses, atol=1e-4)
    assert plain.network.state_dict().keys() == compiled.network.state_dict().keys()
