import doctest
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tissue import some_crops, write_model

import nuclei
from nuclei import load
from nuclei.crops import Places
from nuclei.errors import InputError
from nuclei.inference.classifier import AT_ONCE, load_classifier
from nuclei.models.calibration import Calibration, Neighbourhood
from nuclei.models.checkpoint import load_model, save_model
from nuclei.models.neighbours import add_neighbours, mean_of_neighbours
from nuclei.models.predict import predict_probabilities
from nuclei.task import CLASSES


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.safetensors")


def test_the_example_in_the_documentation_works(tmp_path, monkeypatch):
    write_model(tmp_path / "resnet.safetensors")
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(nuclei)
    assert found.attempted >= 8 and not found.failed


def test_importing_the_package_stays_cheap():
    code = (
        "import sys, nuclei; nuclei.load; print([name for name in ('torch', 'numpy', 'pandas') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_probabilities_are_those_of_the_pipeline(model):
    plain = load_model(model)
    for tta in (True, False):
        probabilities = load(model, tta=tta).predict(some_crops(20))
        expected = predict_probabilities(plain, some_crops(20), torch.device("cpu"), "auto", tta)
        assert probabilities.shape == (20, len(CLASSES)) and probabilities.dtype == np.float32
        assert np.array_equal(probabilities, expected.astype(np.float32))
    assert (probabilities.max(axis=1) > 0.5).any()
    assert len(set(probabilities.argmax(axis=1))) > 1


def test_a_higher_temperature_makes_less_sure(tmp_path):
    sure, unsure = (load(write_model(tmp_path / f"{t}.safetensors", temperature=t), tta=False) for t in (0.3, 3.0))
    sure, unsure = (model.predict(some_crops(20)) for model in (sure, unsure))
    assert np.array_equal(sure.argmax(axis=1), unsure.argmax(axis=1))
    assert (sure.max(axis=1) > unsure.max(axis=1)).all()


def test_several_models_are_averaged(tmp_path):
    paths = [write_model(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(2)]
    first, second = (load(path, tta=False).predict(some_crops(20)) for path in paths)
    assert np.abs(first - second).max() > 0.1
    assert np.allclose(load(*paths, tta=False).predict(some_crops(20)), (first + second) / 2, atol=1e-6)


def with_thresholds(path, seed, averaged, single=(0.0, 0.0, 0.0), promised=(0.8, 0.9, 0.95)):
    """Save a model whose conformal thresholds, for coverages of 0.8, 0.9 and 0.95, are these."""
    model = load_model(write_model(path, seed=seed))
    averaged, single = (Calibration(0.3, thresholds, promised) for thresholds in (averaged, single))
    save_model(path, replace(model, averaged=averaged, single=single))
    return path


def test_a_set_has_the_classes_that_reach_the_threshold_of_the_coverage_and_the_predicted_one(tmp_path):
    path = with_thresholds(tmp_path / "model.safetensors", 0, averaged=(0.7, 0.4, 0.2), single=(0.9, 0.8, 0.3))
    for tta, thresholds in ((True, (0.7, 0.4, 0.2)), (False, (0.9, 0.8, 0.3))):
        classifier = load(path, tta=tta)
        probabilities = classifier.predict(some_crops(40))
        predicted = np.arange(4) == probabilities.argmax(axis=1)[:, None]
        for coverage, threshold in zip((0.8, 0.9, 0.95), thresholds, strict=True):
            sets = classifier.sets(probabilities, coverage)
            assert sets.dtype == bool
            assert np.array_equal(sets, predicted | (probabilities >= threshold))
        assert np.array_equal(classifier.sets(probabilities), classifier.sets(probabilities, 0.9))
        assert len(set(sets.sum(axis=1))) > 1  # some crops are sure, some not
    assert classifier.sets(probabilities[:0]).shape == (0, 4)


def test_averaged_sets_miss_a_class_only_where_one_of_the_models_alone_would(tmp_path):
    paths = [
        with_thresholds(tmp_path / f"{seed}.safetensors", seed, averaged, promised=promised)
        for seed, (averaged, promised) in enumerate(
            [((0.5, 0.4, 0.1), (0.8, 0.9, 0.95)), ((0.6, 0.3, 0.2), (0.8, 0.85, 0.85)), ((0.4, 0.4, 0.3), (0.8,) * 3)]
        )
    ]
    models, averaged = [load(path) for path in paths], load(*paths)
    probabilities = [model.predict(some_crops(60)) for model in models]
    mean = averaged.predict(some_crops(60))
    for coverage, lowest in ((0.8, 0.4), (0.9, 0.3), (0.95, 0.1)):
        alone = [model.sets(chances, coverage) for model, chances in zip(models, probabilities, strict=True)]
        sets = averaged.sets(mean, coverage)
        assert np.array_equal(sets | (mean < lowest), np.ones((60, 4)))
        assert (sets | ~np.all(alone, axis=0)).all()
        assert not sets.all()
    assert [averaged.promised_coverage(coverage) for coverage in (0.8, 0.9, 0.95)] == [0.8] * 3
    assert [load(*paths[:2]).promised_coverage(coverage) for coverage in (0.8, 0.9, 0.95)] == [0.8, 0.85, 0.85]
    assert load(paths[0]).promised_coverage() == 0.9


def test_a_coverage_without_a_threshold_and_other_numbers_of_classes_are_refused(model):
    classifier = load(model)
    for use in (lambda: classifier.sets(np.full((2, 4), 0.25), 0.85), lambda: classifier.promised_coverage(0.85)):
        with pytest.raises(ValueError, match=r"coverage is 0\.85, expected one of 0\.8, 0\.9, 0\.95"):
            use()
    for wrong in (np.full((2, 3), 0.25), np.full(4, 0.25)):
        with pytest.raises(ValueError, match=r"expected probabilities \(N, 4\), got"):
            classifier.sets(wrong)


def test_grey_models_take_grey_crops(tmp_path):
    grey = load(write_model(tmp_path / "grey.safetensors", channels=1))
    assert grey.predict(some_crops(3, 1)).shape == (3, 4)
    with pytest.raises(InputError, match="grey and of RGB crops cannot be averaged"):
        load(tmp_path / "grey.safetensors", write_model(tmp_path / "rgb.safetensors"))


def test_no_crops_give_no_rows(model):
    assert load(model).predict(some_crops(1)[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        some_crops(1).astype(np.float32) / 255,
        some_crops(1)[0],
        some_crops(1)[:, :50],
        some_crops(3, 1),
        some_crops(1).transpose(0, 3, 1, 2),
    ],
)
def test_crops_of_another_kind_are_refused(wrong, model):
    with pytest.raises(ValueError, match=r"expected crops of uint8 \(N, 100, 100, 3\), got"):
        load(model).predict(wrong)


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match=r"text\.safetensors: not a readable safetensors file"):
        load(str(tmp_path / "text.safetensors"))


def test_a_stream_of_crops_gets_its_answers_in_order(model):
    classifier = load_classifier([model], tta=False)
    some = some_crops(40)
    n = AT_ONCE + 40
    found = list(classifier.predict_all((row, some[row % 40]) for row in range(n)))
    assert [len(keys) for keys, _ in found] == [AT_ONCE, 40]
    assert [key for keys, _ in found for key in keys] == list(range(n))
    probabilities = np.concatenate([answers.probabilities for _, answers in found])
    assert np.allclose(probabilities, classifier.predict(some)[np.arange(n) % 40], atol=1e-5)


def test_a_bad_crop_in_a_stream_is_reported(model):
    def stream():
        yield 0, some_crops(1)[0]
        raise InputError("crop 1 is damaged")

    with pytest.raises(InputError, match="crop 1 is damaged"):
        list(load(model).predict_all(stream()))


def with_neighbourhood(path, weights, seed=0, thresholds=(0.6, 0.5, 0.4)):
    """Save a model that weighs in neighbours."""
    model = load_model(write_model(path, seed=seed))
    around = Neighbourhood(weights, thresholds, (0.8, 0.9, 0.9))
    save_model(path, replace(model, averaged=replace(model.averaged, neighbourhood=around)))
    return path


def test_neighbours_are_weighed_in_and_sets_have_thresholds_of_their_own(tmp_path):
    path = with_neighbourhood(tmp_path / "model.safetensors", (0.5, 1.0, 2.0, 1.0, 0.5))
    alone, classifier = load(path), load_classifier([path], neighbours=True)
    probabilities = classifier.predict(some_crops(60))
    assert np.array_equal(probabilities, alone.predict(some_crops(60)))
    places = Places(np.zeros(60, int), *np.random.default_rng(0).uniform(0, 200, (2, 60)))
    together = classifier.among_neighbours(probabilities, places)
    expected = add_neighbours(probabilities, mean_of_neighbours(probabilities, places), (0.5, 1.0, 2.0, 1.0, 0.5))
    assert together.dtype == np.float32 and np.array_equal(together, expected.astype(np.float32))
    assert (together.argmax(axis=1) != probabilities.argmax(axis=1)).any()
    predicted = np.arange(4) == together.argmax(axis=1)[:, None]
    assert np.array_equal(classifier.sets(together), predicted | (together >= 0.5))
    assert (classifier.set_threshold(), alone.set_threshold()) == (0.5, 0.3)
    assert (classifier.promised_coverage(0.95), alone.promised_coverage(0.95)) == (0.9, 0.95)


def test_of_several_models_the_mean_weights_and_the_lowest_threshold_count(tmp_path):
    paths = [
        with_neighbourhood(tmp_path / "first.safetensors", (0.5, 1.0, 2.0, 1.0, 0.5)),
        with_neighbourhood(tmp_path / "second.safetensors", (1.0,) * 5, seed=1, thresholds=(0.7, 0.4, 0.3)),
    ]
    classifier = load_classifier(paths, neighbours=True)
    probabilities, places = classifier.predict(some_crops(30)), Places(*np.zeros((2, 30)), 5.0 * np.arange(30))
    expected = add_neighbours(
        probabilities, mean_of_neighbours(probabilities, places), np.array([0.75, 1, 1.5, 1, 0.75])
    )
    assert np.allclose(classifier.among_neighbours(probabilities, places), expected, atol=1e-6)
    assert classifier.set_threshold() == 0.4


def test_a_model_that_does_not_know_what_neighbours_are_worth_is_refused(tmp_path, model):
    known = with_neighbourhood(tmp_path / "known.safetensors", (1.0,) * 5)
    with pytest.raises(
        InputError, match=r"/model\.safetensors: the crops .* share no pixels, .* leave out --neighbours"
    ):
        load_classifier([known, model], neighbours=True)
    with pytest.raises(InputError, match=r"known\.safetensors: .* leave out --neighbours"):
        load_classifier([known], tta=False, neighbours=True)  # it has weights for averaged views alone
