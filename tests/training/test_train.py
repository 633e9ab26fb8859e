import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from coloured import folded

from nuclei.crops import LabelledCrops
from nuclei.device import Compute
from nuclei.errors import InputError
from nuclei.models.backbone import Backbone
from nuclei.models.calibration import fit_calibration
from nuclei.models.checkpoint import load_fold_models, load_model
from nuclei.models.predict import predict_logits
from nuclei.models.small_cnn import SmallCNN
from nuclei.params import load_params
from nuclei.task import COLON
from nuclei.training.state import read_state
from nuclei.training.train import ALL_CROPS, _train_one, network_config, save_trained, train_folds

CPU = torch.device("cpu")
COMPUTE = Compute("cpu", threads=1)
TUNED = {"lr": 0.01, "batch_size": 8, "width_1": 8, "width_2": 12}
PARAMS = load_params(Path("params.yaml"))
PARAMS = PARAMS.model_copy(
    update={
        "cnn": PARAMS.cnn.model_copy(update={"filters": [4, 4, 8, 8]}),
        "train": PARAMS.train.model_copy(update={"precision": "float32"}),
        "train_cnn": PARAMS.train_cnn.model_copy(update={"epochs": 3, "seed": 3, "ema": 0.5}),
    }
)
NETWORK = network_config("cnn", PARAMS, COLON, TUNED, {})
CROPS = folded(48, folds=4, held_out=[0, 2])  # the other two folds are only trained on
KEYS = [0, 2, ALL_CROPS]


def test_what_was_tuned_counts_unless_the_parameters_override_it():
    network = network_config("cnn", PARAMS, COLON, TUNED, {})
    assert (network.config.lr, network.config.batch_size, network.epochs) == (0.01, 8, 3)
    assert (network.config.seed, network.config.ema, network.config.train) == (3, 0.5, PARAMS.train)
    over = network_config("cnn", PARAMS.model_copy(update={"lr": 0.1, "batch_size": 16, "epochs": 2}), COLON, TUNED, {})
    assert (over.config.lr, over.config.batch_size, over.epochs, over.config.seed) == (0.1, 16, 2, 3)


def test_each_network_has_its_own_shape_and_start():
    pretrained = {"conv1.weight": torch.zeros(1)}
    cnn, resnet = (network_config(name, PARAMS, COLON, TUNED, pretrained) for name in ("cnn", "resnet"))
    assert cnn.architecture == SmallCNN(3, (4, 4, 8, 8), (8, 12), PARAMS.cnn.dropout)
    assert resnet.architecture == Backbone(3, "resnet18", "pretrained", PARAMS.resnet.size)
    assert (cnn.pretrained, resnet.pretrained) == ({}, pretrained)
    assert (cnn.epochs, resnet.epochs) == (3, PARAMS.train_resnet.epochs)


@pytest.fixture(scope="module")
def two_cores():
    """With one, networks would be trained in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CPUS_PER_TASK", "2")
        yield


@pytest.fixture(scope="module")
def tables():
    """The learning curves as they were after each epoch."""
    return []


@pytest.fixture(scope="module")
def trained(local_ray, two_cores, one_thread, tables, tmp_path_factory):
    return train_folds(NETWORK, CROPS, COMPUTE, tmp_path_factory.mktemp("resume"), tables.append)


def saved(folder: Path, networks) -> dict[str, bytes]:
    save_trained(folder, networks)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "cnn", trained)


def weights(networks, key):
    return networks.models[key].network.state_dict()


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_every_crop_of_the_held_out_folds_is_predicted_once_and_no_other(trained):
    assert list(trained.models) == KEYS
    assert trained.out_of_fold.rows.tolist() == np.flatnonzero(np.isin(CROPS.folds, [0, 2])).tolist()
    for logits in (trained.out_of_fold.averaged, trained.out_of_fold.single):
        assert logits.shape == (len(trained.out_of_fold.rows), 4) and logits.dtype == np.float32


@pytest.mark.parametrize("fold", CROPS.held_out)
def test_crops_are_predicted_by_the_network_of_their_fold(trained, fold):
    inside = np.flatnonzero(CROPS.folds == fold)
    rows = np.searchsorted(trained.out_of_fold.rows, inside)
    network = trained.models[fold].network
    for tta, logits in ((True, trained.out_of_fold.averaged), (False, trained.out_of_fold.single)):
        assert np.array_equal(logits[rows], predict_logits(network, CROPS.data.crops[inside], CPU, "float32", tta))
        (other,) = (number for number in CROPS.held_out if number != fold)
        others = predict_logits(trained.models[other].network, CROPS.data.crops[inside], CPU, "float32", tta)
        assert np.abs(logits[rows] - others).max() > 1e-3


def test_a_network_never_saw_the_fold_that_it_judges_and_the_final_one_saw_all(trained, tmp_path):
    """Crops and labels of fold 0 are replaced by others: fold 0's network is the same bit for bit, all others aren't"""
    data = LabelledCrops(CROPS.data.crops.copy(), CROPS.data.labels.copy())
    inside = CROPS.folds == 0
    data.crops[inside] = np.random.default_rng(9).integers(0, 256, data.crops[inside].shape)
    data.labels[inside] = (data.labels[inside] + 1) % 4
    changed = train_folds(NETWORK, replace(CROPS, data=data), COMPUTE, tmp_path)
    assert [same(weights(trained, key), weights(changed, key)) for key in KEYS] == [True, False, False]


def test_the_final_network_takes_the_steps_of_all_crops(trained):
    """12 crops a fold: 36 to train on while one is held out, 48 in all; 3 epochs of batches of 8."""
    curves = trained.curves.set_index(["fold", "epoch"])["lr"]
    last = {key: curves[key, 3] for key in KEYS}
    # A cosine over 10 of 12 steps and 16 of 18; its last step is one before zero.
    expected = {steps: 0.01 * 0.5 * (1 - np.cos(np.pi / (steps - round(0.1 * steps)))) for steps in (12, 18)}
    assert last == pytest.approx({0: expected[12], 2: expected[12], ALL_CROPS: expected[18]})


def test_a_fold_is_calibrated_on_the_other_folds_and_the_final_network_on_all(trained):
    rows, folds = trained.out_of_fold.rows, CROPS.folds[trained.out_of_fold.rows]
    labels, groups, places = CROPS.data.labels[rows], CROPS.groups[rows], CROPS.places.take(rows)
    for key, model in trained.models.items():
        others = folds != key
        assert others.sum() == (24 if key == ALL_CROPS else 12)
        for calibration, logits in (
            (model.averaged, trained.out_of_fold.averaged),
            (model.single, trained.out_of_fold.single),
        ):
            assert calibration == fit_calibration(logits[others], labels[others], groups[others], places.take(others))
    assert len({model.averaged.temperature for model in trained.models.values()}) == 3


def test_learning_curves_tell_of_every_network_and_epoch(trained, tables):
    curves = trained.curves
    assert curves[["fold", "epoch"]].values.tolist() == [[key, epoch] for key in KEYS for epoch in (1, 2, 3)]
    heldout = curves.filter(like="heldout")
    assert list(heldout) == ["heldout_loss", "heldout_accuracy", "heldout_balanced_accuracy"]
    final = curves["fold"] == ALL_CROPS
    assert heldout[~final].notna().all(axis=None) and heldout[final].isna().all(axis=None)
    assert curves["train_loss"].notna().all()
    assert [len(table) for table in tables] == list(range(1, 10))
    assert tables[-1].equals(curves)


def test_the_last_row_of_a_curve_scores_the_network_that_comes_out(trained):
    curves = trained.curves.set_index(["fold", "epoch"])
    rows = trained.out_of_fold.rows
    for fold in CROPS.held_out:
        inside = CROPS.folds[rows] == fold
        accuracy = (trained.out_of_fold.single[inside].argmax(axis=1) == CROPS.data.labels[rows][inside]).mean()
        assert curves.loc[(fold, 3), "heldout_accuracy"] == accuracy


def test_the_models_come_back_from_their_folder(trained, files, tmp_path):
    assert set(files) == {"fold_0.safetensors", "fold_2.safetensors", "final.safetensors", "out_of_fold.npz"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    folds, final = load_fold_models(tmp_path), load_model(tmp_path / "final.safetensors")
    for key, loaded in {0: folds[0], 2: folds[2], ALL_CROPS: final}.items():
        model = trained.models[key]
        assert same(loaded.network.state_dict(), weights(trained, key))
        assert (loaded.name, loaded.averaged, loaded.single) == ("cnn", model.averaged, model.single)
    with np.load(tmp_path / "out_of_fold.npz") as arrays:
        assert all(np.array_equal(arrays[name], value) for name, value in trained.out_of_fold._asdict().items())


def test_a_resnet_starts_from_its_pretrained_weights(one_thread):
    resnet = network_config("resnet", PARAMS, COLON, TUNED, {"conv1.weight": torch.zeros(64, 3, 7, 7)})
    with pytest.raises(InputError, match=r"bn1\.weight is missing"):
        next(_train_one(resnet, CROPS, 0, b"", COMPUTE))


def test_more_threads_than_any_machine_has_are_an_error_that_says_so(local_ray, tmp_path):
    with pytest.raises(InputError, match=r"^threads and device: 1024 CPUs and 0 GPUs on one machine asked for"):
        train_folds(NETWORK, CROPS, Compute("cpu", 1024), tmp_path)


def test_an_interrupted_run_goes_on_from_its_last_epochs_with_the_same_bytes(trained, files, tmp_path):
    def interrupt(curves):
        if len(curves) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_folds(NETWORK, CROPS, COMPUTE, tmp_path / "resume", interrupt)
    # A mark in the saved learning curves: it shows whether that state was gone on from.
    states = {path: read_state(path) for path in (tmp_path / "resume").iterdir()}
    loss = trained.curves.set_index(["fold", "epoch"])["train_loss"]
    marked = []
    for path, state in states.items():
        key = path.stem if path.stem == ALL_CROPS else int(path.stem)
        before = repr(float(loss[key, 1])).encode()
        after = before[:5] + (b"1" if before[5:6] != b"1" else b"2") + before[6:]  # its last digits may not count
        assert state.count(before) == 1
        path.write_bytes(state.replace(before, after))
        marked.append((key, float(after)))
    again = train_folds(NETWORK, CROPS, COMPUTE, tmp_path / "resume")
    resumed = again.curves.set_index(["fold", "epoch"])["train_loss"]
    assert marked and all(resumed[key, 1] == value != loss[key, 1] for key, value in marked)
    assert saved(tmp_path / "models", again) == files


def workers(name: str) -> list[psutil.Process]:
    """List the processes of the local Ray that it calls `name`."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if name in " ".join(process.cmdline()) else []
        except psutil.NoSuchProcess:  # has ended since
            continue
    return found


def test_a_worker_that_is_lost_is_replaced_with_the_same_bytes(trained, files, tmp_path, capsys):
    """Here the same run once more, uninterrupted, is the proof that a rerun gives the same bytes."""
    killed = []

    def kill():
        for _ in range(6000):
            for process in workers("ray::_run_generator")[:1]:
                process.kill()
                killed.append(process.pid)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    again = train_folds(NETWORK, CROPS, COMPUTE, tmp_path / "resume")
    killer.join()
    assert len(killed) == 1
    assert "a worker was lost: " in capsys.readouterr().out
    assert saved(tmp_path / "models", again) == files
    assert again.curves.equals(trained.curves)


def test_one_core_trains_in_this_process_with_the_same_bytes(trained, files, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    at_work = []
    again = train_folds(
        NETWORK, CROPS, COMPUTE, tmp_path / "resume", lambda curves: at_work.extend(workers("ray::_run_generator"))
    )
    assert at_work == []
    assert saved(tmp_path / "models", again) == files


def test_diverged_training_is_an_error_that_names_the_learning_rate(local_ray, tmp_path):
    diverging = replace(NETWORK, config=replace(NETWORK.config, lr=1e30))
    with pytest.raises(InputError, match=r"^cnn: training diverged: lower lr \(-S lr=3\.3e\+29\)$"):
        train_folds(diverging, CROPS, COMPUTE, tmp_path)
