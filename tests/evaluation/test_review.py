import numpy as np
import pytest

from nuclei.evaluation.review import label_issues, worst_errors

SHARES = (0.55, 0.3, 0.1, 0.05)  # of the classes: the last is rare


def out_of_fold(n, noise, seed, skill=3.0):
    """Labels with planted errors, and what two imperfect models say of the truth: labels, probabilities, planted."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(4, n, p=SHARES)
    planted = rng.random(n) < noise
    labels = np.where(planted, (truth + rng.integers(1, 4, n)) % 4, truth)
    hard = rng.normal(0, 1, (n, 4))  # what makes a crop hard is hard for both models
    models = {}
    for name in ("cnn", "resnet"):
        logits = hard + rng.normal(0, 0.7, (n, 4)) + skill * np.eye(4)[truth] * rng.gamma(4, 0.25, (n, 1))
        models[name] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, models, planted


@pytest.mark.parametrize("seed", range(3))
def test_planted_errors_are_found_and_come_first(seed):
    labels, models, planted = out_of_fold(6000, 0.05, seed, skill=5.0)
    issues = label_issues(labels, models)
    wrong = planted[issues["Row"]]
    assert wrong.mean() > 0.9  # precision; 0.05 by chance
    assert wrong.sum() > 0.6 * planted.sum()  # recall
    assert wrong[:100].mean() > 0.95  # a reader starts at the top
    assert issues["Score"].is_monotonic_increasing and issues["Score"].between(0, 0.5).all()


def test_what_two_models_suspect_is_wrong_more_often_than_what_either_does():
    labels, models, planted = out_of_fold(6000, 0.05, 0)
    alone = [planted[label_issues(labels, {name: models[name]})["Row"]].mean() for name in models]
    assert planted[label_issues(labels, models)["Row"]].mean() > max(alone) + 0.05


def test_errors_of_a_rare_class_are_found_too():
    labels, models, planted = out_of_fold(20_000, 0.05, 1, skill=5.0)
    found = np.isin(np.arange(len(labels)), label_issues(labels, models)["Row"])
    for label in range(4):
        errors = planted & (labels == label)
        assert found[errors].mean() > 0.6


def test_few_labels_of_clean_data_are_suspected():
    labels, models, _ = out_of_fold(6000, 0.0, 0, skill=5.0)
    assert len(label_issues(labels, models)) < 0.03 * len(labels)


def test_models_that_agree_with_every_label_suspect_none():
    labels = np.arange(40) % 4
    sure = 0.97 * np.eye(4)[labels] + 0.01 * (1 - np.eye(4)[labels])
    issues = label_issues(labels, {"cnn": sure})
    assert issues.empty
    assert issues.columns.tolist() == ["Row", "Label", "Suggested", "Probability_cnn", "Score"]


def test_what_counts_as_sure_is_set_by_each_class():
    # Of class 0 the model is always sure, 0.9; of class 1 never, 0.6. At 0.6 only a suggestion of class 1 is sure.
    labels = np.array([0] * 10 + [1] * 10 + [0, 1])
    model = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10 + [[0.39, 0.61], [0.61, 0.39]])
    issues = label_issues(labels, {"cnn": model})
    assert issues["Row"].tolist() == [20]
    assert issues.loc[0, ["Label", "Suggested"]].tolist() == [0, 1]
    assert issues.loc[0, "Score"] == pytest.approx((1 + 0.39 - 0.61) / 2)


def test_the_mean_of_the_models_decides_and_each_is_told():
    labels = np.array([0] * 5 + [1] * 5 + [0, 0])
    base = np.array([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5)
    cnn, resnet = np.vstack([base, [[0, 1], [0, 1]]]), np.vstack([base, [[0.1, 0.9], [0.6, 0.4]]])
    issues = label_issues(labels, {"cnn": cnn, "resnet": resnet})
    assert issues["Row"].tolist() == [10]  # of 11 the mean, 0.7, is less than usual for class 1
    assert issues.loc[0, ["Probability_cnn", "Probability_resnet"]].tolist() == [1, 0.9]


def test_a_label_that_is_the_most_probable_class_is_not_suspected():
    # Class 1 is usually given 0.3, and row 10 gets that, but its label is more probable still.
    labels = np.array([0] * 5 + [1] * 5 + [0])
    model = np.array([[0.9, 0.1]] * 5 + [[0.7, 0.3]] * 5 + [[0.65, 0.35]])
    assert 10 not in label_issues(labels, {"cnn": model})["Row"].tolist()


def test_a_class_without_labels_is_never_suggested():
    labels = np.array([0, 0, 1, 1])
    model = np.array([[0.8, 0.1, 0.1], [0.0, 0.0, 1.0], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    assert label_issues(labels, {"cnn": model}).empty


def two_class(chances):
    """Probabilities (models, N, 2) from those of class 1."""
    return np.stack([1 - np.array(chances), np.array(chances)], axis=2)


def test_the_worst_errors_are_the_surest_wrong_answers_of_any_model():
    labels = np.zeros(5, int)
    probabilities = two_class([[0.6, 0.1, 0.9, 0.2, 0.0], [0.2, 0.7, 0.4, 0.1, 0.8]])
    assert worst_errors(labels, probabilities, 3).tolist() == [2, 4, 1]
    assert worst_errors(labels, probabilities, 9).tolist() == [2, 4, 1, 0]
    assert worst_errors(labels, probabilities, 0).tolist() == []


def test_without_an_error_there_is_no_worst_one():
    assert worst_errors(np.array([1, 1]), two_class([[0.9, 0.8]]), 3).tolist() == []
