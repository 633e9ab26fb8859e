from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss
from torch import nn

from nuclei.crops import LabelledCrops
from nuclei.models.backbone import Backbone
from nuclei.models.networks import build
from nuclei.models.predict import predict_logits
from nuclei.models.small_cnn import SmallCNN
from nuclei.models.temperature import softmax
from nuclei.params import Train
from nuclei.training.loop import (
    TrainConfig,
    fit,
    lr_factor,
    score_heldout,
    training_precision,
    training_steps,
    weights_of,
)

CPU = torch.device("cpu")
TRAIN = Train(
    threads=1,
    weight_decay=0.0,
    warmup=0.1,
    label_smoothing=0.0,
    balance="none",
    dihedral=True,
    stain=0.05,
    precision="float32",
)
CONFIG = TrainConfig(lr=0.01, batch_size=16, steps=6, seed=0, ema=0.0, train=TRAIN)
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])


def separable(n, seed=0, size=12):
    """Crops whose mean colour gives the class away, through much noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    noise = rng.normal(0, 40, (n, size, size, 3))
    return LabelledCrops((COLOURS[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8), labels)


def identical(counts):
    """Crops that tell nothing of the class: all a network can learn is how frequent each class is."""
    return LabelledCrops(np.full((sum(counts), 4, 4, 3), 128, np.uint8), np.repeat(np.arange(4), counts))


def network(seed=0):
    """Has all that could go wrong: batch norm, dropout, and weights that see where a pixel is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 4),
        )  # fmt: skip


def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def configured(**changes):
    """CONFIG with other values, those of `train` among them."""
    train = {name: changes.pop(name) for name in list(changes) if name in Train.model_fields}
    return replace(CONFIG, train=TRAIN.model_copy(update=train), **changes)


def trained(start, *arguments):
    """Train `start`; return it and the learning curves."""
    curves = [epoch.scores for epoch in fit(start, *arguments)]
    return start.state_dict(), curves


def probabilities(trained_network, data):
    return softmax(predict_logits(trained_network, data.crops, CPU, "float32"))


def test_a_separable_set_is_learnt():
    config = configured(steps=12 * 4, lr=0.03)
    _, curves = trained(network(), separable(64), separable(32, seed=1), config, CPU)
    assert [row["epoch"] for row in curves] == list(range(1, 13))
    first, final = curves[0], curves[-1]
    assert final["heldout_accuracy"] == final["heldout_balanced_accuracy"] == 1
    assert final["heldout_loss"] < 0.1 < first["heldout_loss"]
    assert final["train_loss"] < first["train_loss"] / 2


def test_the_cnn_learns_too():
    shape = SmallCNN(3, (4, 8, 8, 16), (16, 16), 0.1)
    data = separable(64, size=100)
    _, curves = trained(build(shape, 0), data, data, configured(steps=15 * 4), CPU)
    assert curves[-1]["heldout_accuracy"] == 1


@pytest.mark.parametrize("balance", ["none", "loss", "sampling"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(balance):
    config = configured(balance=balance, ema=0.9)
    runs = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        runs.append(trained(network(), separable(40), separable(16), config, CPU))
    assert same(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
    other, _ = trained(network(), separable(40), separable(16), replace(config, seed=1), CPU)
    assert not same(runs[0][0], other)


def test_the_held_out_crops_leave_no_trace_in_training():
    watched, _ = trained(network(), separable(40), separable(24, seed=1), CONFIG, CPU)
    unwatched, curves = trained(network(), separable(40), None, CONFIG, CPU)
    assert same(watched, unwatched)
    assert set(curves[0]) == {"epoch", "lr", "train_loss"}


@pytest.mark.parametrize("balance", ["none", "loss"])
@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_the_last_held_out_scores_are_those_of_the_network_that_comes_out(ema, balance):
    """Label smoothing and weights of classes are for training alone; balance is undone before anything is scored."""
    train, heldout = separable(40), separable(24, seed=1)
    train.labels[:8] = 0  # unequal classes
    result = network()
    _, curves = trained(result, train, heldout, configured(ema=ema, label_smoothing=0.2, balance=balance), CPU)
    chances = probabilities(result, heldout)
    predicted, scores = chances.argmax(axis=1), curves[-1]
    assert scores["heldout_loss"] == pytest.approx(log_loss(heldout.labels, chances, labels=range(4)), rel=1e-5)
    assert scores["heldout_accuracy"] == (predicted == heldout.labels).mean()
    assert scores["heldout_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(heldout.labels, predicted))


def test_each_epoch_is_scored_with_its_weights():
    start, heldout = network(), separable(24, seed=1)
    for epoch in fit(start, separable(40), heldout, CONFIG, CPU):
        expected = log_loss(heldout.labels, probabilities(start, heldout), labels=range(4))
        assert epoch.scores["heldout_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_average_follows_the_weights_of_every_step():
    config = configured(batch_size=32, steps=4)  # one step an epoch
    start, steps = network(), []
    for _ in fit(start, separable(32), None, config, CPU):
        steps.append(weights_of(start))
    expected = steps[0]
    for weights in steps[1:]:
        expected = {name: 0.8 * expected[name] + 0.2 * weights[name] for name in expected}
    average, _ = trained(network(), separable(32), None, replace(config, ema=0.8), CPU)
    for name in ("0.weight", "1.running_mean", "1.running_var", "6.bias"):
        torch.testing.assert_close(average[name], expected[name])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("balance", ["loss", "sampling"])
def test_balanced_training_comes_back_to_the_natural_frequencies(balance, smoothing):
    """While it trains, all classes are equally likely; what comes out has learned how frequent each is (Saerens)."""
    data, start = identical([28, 4, 4, 4]), classifier()
    config = configured(balance=balance, label_smoothing=smoothing, stain=0.0, lr=0.05, batch_size=40, steps=150)
    for _ in fit(start, data, None, config, CPU):
        balanced = probabilities(start, data)[0]
    tolerance = 0.05 if balance == "sampling" else 0.01
    np.testing.assert_allclose(balanced, [0.25] * 4, atol=tolerance)
    np.testing.assert_allclose(probabilities(start, data)[0], [0.7, 0.1, 0.1, 0.1], atol=tolerance)


def test_unbalanced_training_learns_the_natural_frequencies_at_once():
    data, start = identical([28, 4, 4, 4]), classifier()
    trained(start, data, None, configured(stain=0.0, lr=0.05, batch_size=40, steps=150), CPU)
    np.testing.assert_allclose(probabilities(start, data)[0], [0.7, 0.1, 0.1, 0.1], atol=0.01)


@pytest.mark.parametrize("absent", [0, 3])
@pytest.mark.parametrize("balance", ["loss", "sampling"])
def test_a_class_that_no_crop_has_is_never_predicted_however_classes_are_balanced(balance, absent):
    """In a small set, the folds that trials train on may lack a class."""
    counts = [20] * 4
    counts[absent] = 0
    data, start = identical(counts), classifier()
    config = configured(balance=balance, label_smoothing=0.05, stain=0.0, lr=0.05, batch_size=60, steps=100)
    _, curves = trained(start, data, identical([5] * 4), config, CPU)
    chances = probabilities(start, data)[0]
    assert chances[absent] < 1e-6
    np.testing.assert_allclose(np.delete(chances, absent), [1 / 3] * 3, atol=0.05)
    assert np.isfinite(curves[-1]["heldout_loss"])


def test_a_crop_that_sampling_repeats_looks_different_every_time():
    """A single, bright crop of class 3 makes up a quarter of what is trained on."""
    labels = np.append(np.arange(39) % 3, 3)
    data = LabelledCrops(np.random.default_rng(0).integers(0, 100, (40, 12, 12, 3)).astype(np.uint8), labels)
    data.crops[-1] += 150
    start, seen = network(), []
    start.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].flatten(1)))
    trained(start, data, None, configured(balance="sampling", batch_size=40, steps=1), CPU)
    (inputs,) = seen
    repeated = inputs[inputs.mean(dim=1) > 0.5]
    assert 5 <= len(repeated) <= 15
    assert len(torch.unique(repeated, dim=0)) == len(repeated)


def test_sampling_draws_each_class_equally_often():
    data = identical([190, 5, 3, 2])
    data.crops[:] = data.labels[:, None, None, None] * 60
    start, seen = classifier(), []
    start.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].mean((1, 2, 3))))
    trained(start, data, None, configured(balance="sampling", batch_size=100, steps=20, stain=0.0), CPU)
    _, counts = torch.unique(torch.cat(seen), return_counts=True)
    np.testing.assert_allclose(counts / 2000, [0.25] * 4, atol=0.05)


def test_label_smoothing_keeps_the_network_from_certainty():
    data, start = separable(32), classifier()
    trained(start, data, None, configured(label_smoothing=0.4, lr=0.3, batch_size=32, steps=200), CPU)
    assert 0.6 < probabilities(start, data).max(axis=1).mean() < 0.8  # 0.7 is the target: 0.6 + 0.4 / 4


def test_weight_decay_shrinks_the_weights():
    def size(weight_decay):
        start = classifier()
        trained(start, separable(32), None, configured(weight_decay=weight_decay, steps=40), CPU)
        return float(start[2].weight.detach().norm())

    assert size(2.0) < size(0.0) * 0.9


def test_the_learning_rate_rises_and_falls_to_zero():
    config = configured(warmup=0.5, batch_size=8, steps=32)
    rates = [row["lr"] for row in trained(classifier(), separable(32), None, config, CPU)[1]]
    assert 0.9 * config.lr < rates[3] <= config.lr  # 4 of 8 epochs
    assert rates[:4] == sorted(rates[:4]) and rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.02 * config.lr


def test_the_learning_rate_never_leaves_its_range():
    for steps, warmup in ((1, 0), (1, 1), (10, 3), (10, 10)):
        factors = [lr_factor(step, warmup, steps) for step in range(steps)]
        assert all(0 < factor <= 1 for factor in factors)
    assert lr_factor(10, 3, 10) == 0


@pytest.mark.parametrize("batch_size", [4, 8, 15, 16, 32])
@pytest.mark.parametrize("steps", [1, 5, 8])
def test_as_many_steps_are_taken_as_asked_for_whatever_the_batch_size(batch_size, steps):
    """Also where they end in the middle of an epoch; the schedule ends with them."""
    start, batches = network(), []
    start.register_forward_pre_hook(lambda module, arguments: batches.append(len(arguments[0])))
    _, curves = trained(start, separable(32), None, configured(batch_size=batch_size, steps=steps, warmup=0.0), CPU)
    per_epoch = 32 // batch_size
    assert len(batches) == steps and min(batches) >= batch_size
    assert len(curves) == -(-steps // per_epoch)
    assert curves[-1]["lr"] == pytest.approx(CONFIG.lr * lr_factor(steps - 1, 0, steps))


@pytest.mark.parametrize(
    ("crops", "batch_size", "epochs", "steps"),
    [(100, 10, 3, 30), (109, 10, 3, 30), (100, 10, 0.25, 2), (100, 10, 0.01, 1), (5, 10, 3, 3), (100, 64, 12, 12)],
)
def test_steps_are_whole_batches_of_so_many_epochs(crops, batch_size, epochs, steps):
    assert training_steps(crops, batch_size, epochs) == steps


def test_a_batch_larger_than_the_data_is_all_of_it():
    data = separable(10)
    (big, curves), (exact, _) = (
        trained(network(), data, None, configured(batch_size=size, steps=3), CPU) for size in (4096, 10)
    )
    assert len(curves) == 3 and same(big, exact)


def test_every_batch_of_the_last_few_crops_is_full():
    sizes, start = [], network()
    start.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    trained(start, separable(35), None, configured(steps=4), CPU)
    assert sizes == [16, 16] * 2  # a batch of the last three would upset the batch norm


def test_grey_crops_train_too():
    data = separable(32)
    grey = LabelledCrops(data.crops[..., :1], data.labels)
    start = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    assert np.isfinite(trained(start, grey, grey, CONFIG, CPU)[1][-1]["heldout_loss"])


@pytest.mark.parametrize(
    ("backbone", "device", "asked", "expected"),
    [
        ("tf_efficientnet_lite0", "cpu", "auto", "float32"),  # depthwise
        ("tf_efficientnet_lite0", "cpu", "bfloat16", "bfloat16"),
        ("tf_efficientnet_lite0", "cuda", "auto", "auto"),
        ("resnet18", "cpu", "auto", "auto"),
    ],
)
def test_a_cpu_trains_depthwise_convolutions_in_float32_unless_told_otherwise(backbone, device, asked, expected):
    with torch.device("meta"):
        network = build(Backbone(3, backbone), seed=0)
    assert training_precision(network, torch.device(device), asked) == expected


def test_memory_mapped_crops_are_not_written(tmp_path):
    data = separable(32)
    np.save(tmp_path / "crops.npy", data.crops)
    mapped = LabelledCrops(np.load(tmp_path / "crops.npy", mmap_mode="r"), data.labels)
    from_disk, from_memory = (trained(network(), crops, crops, CONFIG, CPU)[0] for crops in (mapped, data))
    assert same(from_disk, from_memory)
    assert np.array_equal(np.load(tmp_path / "crops.npy"), data.crops)


def test_training_says_nothing(capsys):
    trained(network(), separable(32), separable(32), CONFIG, CPU)
    assert capsys.readouterr() == ("", "")


def test_held_out_scores_are_the_worst_where_training_diverged():
    logits = np.array([[0.0, 1.0], [np.nan, 0.0]], np.float32)
    worst = {"heldout_loss": np.inf, "heldout_accuracy": 0.0, "heldout_balanced_accuracy": 0.0}
    assert score_heldout(logits, np.array([1, 0])) == worst


def test_held_out_scores_of_a_fold_without_a_class_are_of_the_others():
    scores = score_heldout(np.array([[2, 0, 0], [2, 0, 0], [0, 0, 2.0]]), np.array([0, 0, 2]))
    assert scores["heldout_accuracy"] == scores["heldout_balanced_accuracy"] == 1


def test_copied_weights_stay_as_they_were():
    start = network()
    before = weights_of(start)
    again = {name: value.clone() for name, value in before.items()}
    trained(start, separable(32), None, CONFIG, CPU)
    assert same(before, again) and not same(before, start.state_dict())


def interrupted(after, *arguments):
    """Train until epoch `after`, and no further; return what to go on from."""
    for epoch in fit(*arguments, resume_from=b""):
        if epoch.scores["epoch"] == after:
            return epoch.state
    raise AssertionError("it ended before")


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_an_interrupted_training_ends_as_if_nothing_had_happened(ema, after):
    data = separable(40), separable(16, seed=1), configured(steps=7, ema=ema, balance="loss"), CPU
    whole, curves = trained(network(), *data)
    assert len(curves) == 4
    state = interrupted(after, network(), *data)
    torch.manual_seed(1)
    start = network()
    epochs = list(fit(start, *data, resume_from=state))
    assert [epoch.scores for epoch in epochs] == curves
    assert same(start.state_dict(), whole)
    assert [bool(epoch.state) for epoch in epochs] == [False] * (after - 1) + [True] * (5 - after)


def test_a_training_that_is_interrupted_again_and_again_ends_the_same():
    data = separable(40), None, CONFIG, CPU
    whole, _ = trained(network(), *data)
    state = b""
    for after in (1, 2, 3):
        for epoch in fit(network(), *data, resume_from=state):
            if epoch.scores["epoch"] == after:
                state = epoch.state
                break
    start = network()
    list(fit(start, *data, resume_from=state))
    assert same(start.state_dict(), whole)


def test_an_interrupted_resnet_ends_the_same():
    """Its weights lie in memory channels last, and so must the averages that the optimizer gets back."""
    data, shape = separable(8, size=32), Backbone(3, "resnet18", "pretrained")
    config = configured(batch_size=8, steps=2)
    state = interrupted(1, build(shape, 0), data, None, config, CPU)
    resumed = build(shape, 0)
    list(fit(resumed, data, None, config, CPU, resume_from=state))
    assert same(resumed.state_dict(), trained(build(shape, 0), data, None, config, CPU)[0])


def test_states_are_made_only_where_they_are_asked_for():
    epochs = list(fit(network(), separable(40), None, CONFIG, CPU))
    assert [epoch.state for epoch in epochs] == [b""] * 3


def test_asking_for_states_changes_nothing():
    start = network()
    list(fit(start, separable(40), None, CONFIG, CPU, resume_from=b""))
    assert same(start.state_dict(), trained(network(), separable(40), None, CONFIG, CPU)[0])


@pytest.mark.parametrize(
    "change", ["lr", "steps", "stain", "crops", "labels", "held out", "weights", "dropout", "no state"]
)
def test_what_an_interrupted_training_left_is_nothing_to_another_one(change):
    """Which training starts over shows in the crops that pass through the network."""
    train, heldout, config, start = separable(40), separable(16, seed=1), CONFIG, network()
    state = interrupted(2, network(), train, heldout, config, CPU)
    if change == "lr":
        config = configured(lr=0.02)
    elif change == "steps":
        config = configured(steps=5)
    elif change == "stain":
        config = configured(stain=0.06)
    elif change == "crops":
        train.crops[-1, -1, -1, -1] ^= 1
    elif change == "labels":
        train.labels[:2] = train.labels[1::-1]
    elif change == "held out":
        heldout.crops[0, 0, 0, 0] ^= 1
    elif change == "weights":
        start = network(seed=1)
    elif change == "dropout":
        start[3].p = 0.4
    else:
        state = state[:-1]
    batches = []
    start.register_forward_pre_hook(lambda module, _: batches.append(module.training))
    list(fit(start, train, heldout, config, CPU, resume_from=state))
    assert sum(batches) == config.steps
