from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss
from torch import nn

from nuclei.crops import LabelledCrops
from nuclei.errors import InputError
from nuclei.models.networks import ResNet18, SmallCNN, build
from nuclei.models.predict import predict_logits, softmax
from nuclei.params import Train
from nuclei.training.loop import Epoch, Recipe, fit, keep_best

CPU = torch.device("cpu")
TRAIN = Train(
    weight_decay=0.0, warmup=0.1, label_smoothing=0.0, balance="none", dihedral=True, stain=0.05, precision="float32"
)
RECIPE = Recipe(lr=0.01, batch_size=16, epochs=3, seed=0, ema=0.0, train=TRAIN)
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


def last(*arguments, **options):
    *_, epoch = fit(*arguments, **options)
    return epoch


def test_a_separable_set_is_learnt():
    epochs = list(fit(network(), separable(64), separable(32, seed=1), replace(RECIPE, epochs=12, lr=0.03), CPU))
    assert [epoch.number for epoch in epochs] == list(range(1, 13))
    first, final = epochs[0].scores, epochs[-1].scores
    assert final["validation_accuracy"] == final["validation_balanced_accuracy"] == 1
    assert final["validation_loss"] < 0.1 < first["validation_loss"]
    assert final["train_loss"] < first["train_loss"] / 2


def test_the_cnn_learns_too():
    shape = SmallCNN(3, (4, 8, 8, 16), (16, 16), 0.1)
    data = separable(64, size=100)
    scores = last(build(shape, 0), data, data, replace(RECIPE, epochs=15), CPU).scores
    assert scores["validation_accuracy"] == 1


@pytest.mark.parametrize("balance", ["none", "loss", "sampling"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(balance):
    recipe = replace(RECIPE, train=TRAIN.model_copy(update={"balance": balance}), ema=0.9)
    runs = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        runs.append(list(fit(network(), separable(40), separable(16), recipe, CPU)))
    assert all(same(one.weights, two.weights) and one.scores == two.scores for one, two in zip(*runs, strict=True))
    other = last(network(), separable(40), separable(16), replace(recipe, seed=1), CPU)
    assert not same(runs[0][-1].weights, other.weights)


def test_validation_leaves_no_trace_in_training():
    watched = list(fit(network(), separable(40), separable(24, seed=1), RECIPE, CPU))
    unwatched = list(fit(network(), separable(40), None, RECIPE, CPU))
    assert all(same(one.weights, two.weights) for one, two in zip(watched, unwatched, strict=True))
    assert not [name for name in unwatched[0].scores if name.startswith("validation")]


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_the_validation_scores_are_those_of_the_weights_of_their_epoch(ema):
    validation = separable(24, seed=1)
    smoothed = TRAIN.model_copy(update={"label_smoothing": 0.2, "balance": "loss"})  # for training alone
    for epoch in fit(network(), separable(40), validation, replace(RECIPE, ema=ema, train=smoothed), CPU):
        fresh = network(seed=5)
        fresh.load_state_dict(epoch.weights)
        logits = predict_logits(fresh, validation.crops, CPU, "float32")
        expected = log_loss(validation.labels, softmax(logits), labels=range(4))
        assert epoch.scores["validation_loss"] == pytest.approx(expected, rel=1e-5)
        assert epoch.scores["validation_accuracy"] == (logits.argmax(axis=1) == validation.labels).mean()
        balanced = balanced_accuracy_score(validation.labels, logits.argmax(axis=1))
        assert epoch.scores["validation_balanced_accuracy"] == pytest.approx(balanced)


def test_the_weights_of_an_epoch_stay_as_they_were():
    epochs = fit(network(), separable(32), None, RECIPE, CPU)
    first = next(epochs)
    before = {name: value.clone() for name, value in first.weights.items()}
    assert not same(next(epochs).weights, before)
    assert same(first.weights, before)


def test_the_network_is_trained_in_place():
    trained = network()
    assert same(last(trained, separable(32), None, RECIPE, CPU).weights, trained.state_dict())


def test_the_average_follows_the_weights_of_every_step():
    recipe = replace(RECIPE, batch_size=32, epochs=4)  # one step an epoch
    steps = [epoch.weights for epoch in fit(network(), separable(32), None, recipe, CPU)]
    average = steps[0]
    averages = fit(network(), separable(32), None, replace(recipe, ema=0.8), CPU)
    for epoch, weights in zip(averages, steps, strict=True):
        if epoch.number > 1:
            average = {name: 0.8 * average[name] + 0.2 * weights[name] for name in average}
        for name in ("0.weight", "1.running_mean", "1.running_var", "6.bias"):
            torch.testing.assert_close(epoch.weights[name], average[name])


@pytest.mark.parametrize(
    ("balance", "expected"), [("none", [0.7, 0.1, 0.1, 0.1]), ("loss", [0.25] * 4), ("sampling", [0.25] * 4)]
)
def test_balance_evens_out_the_classes(balance, expected):
    data = identical([28, 4, 4, 4])
    train = TRAIN.model_copy(update={"balance": balance, "stain": 0.0})
    trained = classifier()
    last(trained, data, None, replace(RECIPE, lr=0.05, batch_size=40, epochs=150, train=train), CPU)
    probabilities = softmax(predict_logits(trained, data.crops[:1], CPU, "float32"))[0]
    np.testing.assert_allclose(probabilities, expected, atol=0.05 if balance == "sampling" else 0.01)


def test_label_smoothing_keeps_the_network_from_certainty():
    data, trained = separable(32), classifier()
    train = TRAIN.model_copy(update={"label_smoothing": 0.4})
    last(trained, data, None, replace(RECIPE, lr=0.3, batch_size=32, epochs=200, train=train), CPU)
    confidence = softmax(predict_logits(trained, data.crops, CPU, "float32")).max(axis=1)
    assert 0.6 < confidence.mean() < 0.8  # 0.7 is the target: 0.6 + 0.4 / 4


def test_weight_decay_shrinks_the_weights():
    def size(weight_decay):
        trained = classifier()
        train = TRAIN.model_copy(update={"weight_decay": weight_decay})
        last(trained, separable(32), None, replace(RECIPE, epochs=20, train=train), CPU)
        return float(trained[2].weight.detach().norm())

    assert size(2.0) < size(0.0) * 0.9


def test_the_learning_rate_rises_and_falls_to_zero():
    train = TRAIN.model_copy(update={"warmup": 0.5})
    recipe = replace(RECIPE, batch_size=8, epochs=8, train=train)
    rates = [epoch.scores["lr"] for epoch in fit(classifier(), separable(32), None, recipe, CPU)]
    assert 0.9 * recipe.lr < rates[3] <= recipe.lr  # 4 of 8 epochs
    assert rates[:4] == sorted(rates[:4]) and rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.02 * recipe.lr


def test_a_batch_larger_than_the_data_is_all_of_it():
    data = separable(10)
    big = list(fit(network(), data, None, replace(RECIPE, batch_size=4096), CPU))
    exact = list(fit(network(), data, None, replace(RECIPE, batch_size=10), CPU))
    assert len(big) == 3 and same(big[-1].weights, exact[-1].weights)


def test_every_batch_of_the_last_few_crops_is_full():
    sizes = []
    watched = network()
    watched.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    last(watched, separable(35), None, replace(RECIPE, epochs=2), CPU)
    assert sizes == [16, 16] * 2  # a batch of the last three would upset the batch norm


def test_grey_crops_train_too():
    data = separable(32)
    grey = LabelledCrops(data.crops[..., :1], data.labels)
    trained = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    )
    assert np.isfinite(last(trained, grey, grey, RECIPE, CPU).scores["validation_loss"])


def test_memory_mapped_crops_are_not_written(tmp_path):
    data = separable(32)
    np.save(tmp_path / "crops.npy", data.crops)
    mapped = LabelledCrops(np.load(tmp_path / "crops.npy", mmap_mode="r"), data.labels)
    from_disk, from_memory = (last(network(), some, some, RECIPE, CPU) for some in (mapped, data))
    assert same(from_disk.weights, from_memory.weights)
    assert np.array_equal(np.load(tmp_path / "crops.npy"), data.crops)


def test_a_line_an_epoch_is_printed_only_under_a_label(capsys):
    last(network(), separable(32), separable(32), RECIPE, CPU)
    assert capsys.readouterr() == ("", "")
    last(network(), separable(32), separable(32), RECIPE, CPU, label="cnn")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["cnn: epoch 1/3", "cnn: epoch 2/3", "cnn: epoch 3/3"]


def interrupted(kept, after, *arguments):
    """Train until epoch `after`, and no further."""
    for epoch in fit(*arguments, kept=kept):
        if epoch.number == after:
            return


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_an_interrupted_training_ends_as_if_nothing_had_happened(tmp_path, ema, after):
    data, kept = (separable(40), separable(16, seed=1), replace(RECIPE, epochs=4, ema=ema), CPU), tmp_path / "kept"
    whole = list(fit(network(), *data))
    interrupted(kept, after, network(), *data)
    torch.manual_seed(1)
    resumed = list(fit(network(), *data, kept=kept))
    assert [epoch.scores for epoch in resumed] == [epoch.scores for epoch in whole]
    assert all(same(one.weights, two.weights) for one, two in zip(whole[after:], resumed[after:], strict=True))
    (curves, best), (same_curves, same_best) = (keep_best(epochs, patience=4) for epochs in (whole, resumed))
    assert curves == same_curves and best.number == same_best.number and same(best.weights, same_best.weights)


def test_an_interrupted_training_without_validation_ends_the_same(tmp_path):
    for after in (1, 3):  # after the third and last nothing is left to train
        interrupted(tmp_path / str(after), after, network(), separable(40), None, RECIPE, CPU)
        resumed = last(network(), separable(40), None, RECIPE, CPU, kept=tmp_path / str(after))
        assert same(resumed.weights, last(network(), separable(40), None, RECIPE, CPU).weights)


def test_an_interrupted_resnet_ends_the_same(tmp_path):
    """Its weights lie in memory channels last, and so must the averages that the optimizer gets back."""
    data, shape = separable(8, size=32), ResNet18(3, "pretrained")
    recipe = replace(RECIPE, batch_size=8, epochs=2)
    interrupted(tmp_path / "kept", 1, build(shape, 0), data, None, recipe, CPU)
    resumed = last(build(shape, 0), data, None, recipe, CPU, kept=tmp_path / "kept")
    assert same(resumed.weights, last(build(shape, 0), data, None, recipe, CPU).weights)


@pytest.mark.parametrize("change", ["lr", "stain", "crops", "labels", "validation", "weights", "dropout"])
def test_what_an_interrupted_training_left_is_nothing_to_another_one(tmp_path, change):
    """Which training starts over shows in the crops that pass through the network."""
    train, validation, recipe, start = separable(40), separable(16, seed=1), RECIPE, network()
    interrupted(tmp_path / "kept", 2, network(), train, validation, recipe, CPU)
    if change == "lr":
        recipe = replace(recipe, lr=0.02)
    elif change == "stain":
        recipe = replace(recipe, train=TRAIN.model_copy(update={"stain": 0.06}))
    elif change == "crops":
        train.crops[-1, -1, -1, -1] ^= 1
    elif change == "labels":
        train.labels[:2] = train.labels[1::-1]
    elif change == "validation":
        validation.crops[0, 0, 0, 0] ^= 1
    elif change == "weights":
        start = network(seed=1)
    else:
        start[3].p = 0.4
    batches = []
    start.register_forward_pre_hook(lambda module, _: batches.append(module.training))
    list(fit(start, train, validation, recipe, CPU, kept=tmp_path / "kept"))
    assert sum(batches) == 3 * (40 // 16)


def test_a_resumed_training_says_so_under_its_label(tmp_path, capsys):
    data = (separable(40), separable(16, seed=1), RECIPE, CPU)
    interrupted(tmp_path / "kept", 2, network(), *data)
    list(fit(network(), *data, label="cnn", kept=tmp_path / "kept"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cnn: goes on after epoch 2/3 of an interrupted run"
    assert [line.split(",")[0] for line in lines[1:]] == ["cnn: epoch 3/3"]


def epochs_of(losses, asked):
    for number, loss in enumerate(losses, start=1):
        asked.append(number)
        yield Epoch(number, {"epoch": number, "validation_loss": loss}, {"w": torch.tensor(loss)})


@pytest.mark.parametrize(
    ("losses", "patience", "best", "trained"),
    [
        ([3.0, 2.0, 4.0, 5.0, 1.0], 2, 2, 4),  # the fifth would be better, but nobody waits for it
        ([3.0, 2.0, 4.0, 5.0, 1.0], 3, 5, 5),
        ([3.0, 2.0, 2.0, 2.0], 2, 2, 4),  # of equals the first
        ([1.0, 2.0], 1, 1, 2),
        ([3.0, 2.0, 1.0], 1, 3, 3),
    ],
)
def test_training_stops_when_patience_ends_and_keeps_the_best_epoch(losses, patience, best, trained):
    asked = []
    curves, kept = keep_best(epochs_of(losses, asked), patience)
    assert kept.number == best and float(kept.weights["w"]) == min(losses[:trained])
    assert asked == [row["epoch"] for row in curves] == list(range(1, trained + 1))


def test_diverged_training_is_an_error_that_names_the_learning_rate():
    data = separable(32)
    with pytest.raises(InputError, match="lower lr"):
        keep_best(fit(network(), data, data, replace(RECIPE, lr=1e30), CPU), 3)
