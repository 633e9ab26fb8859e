import numpy as np
import pandas as pd

from nuclei.evaluation.review import review_queue, worst_errors


def table(labels, probabilities):
    probabilities = np.array(probabilities)
    columns = {f"Probability_{k}": column for k, column in enumerate(probabilities.T)}
    names = [f"{i}.png" for i in range(len(labels))]
    return pd.DataFrame({"Filename": names, "Label": labels, "Predicted": probabilities.argmax(axis=1), **columns})


LABELS = [0, 0, 0, 0, 1]
CNN = table(LABELS, [[0.05, 0.95], [0.02, 0.98], [0.2, 0.8], [0.05, 0.95], [0.01, 0.99]])
RESNET = table(LABELS, [[0.08, 0.92], [0.01, 0.99], [0.0, 1.0], [0.95, 0.05], [0.01, 0.99]])


def test_labels_that_all_models_surely_contradict_come_surest_first():
    queue = review_queue({"cnn": CNN, "resnet": RESNET}, 0.9)
    assert queue["Filename"].tolist() == ["1.png", "0.png"]  # not 2 (unsure), 3 (they disagree), 4 (the label is right)
    assert queue["Confidence"].tolist() == [0.98, 0.92]  # of the less sure model
    assert queue[["Label", "Predicted"]].values.tolist() == [[0, 1], [0, 1]]


def test_one_model_alone_can_ask_for_a_review():
    assert review_queue({"resnet": RESNET}, 0.9)["Filename"].tolist() == ["2.png", "1.png", "0.png"]


def test_the_confidence_asked_for_is_reached():
    assert review_queue({"cnn": CNN}, 0.98)["Filename"].tolist() == ["1.png"]
    assert review_queue({"cnn": CNN}, 0.5)["Filename"].tolist() == ["1.png", "0.png", "3.png", "2.png"]


def test_nothing_to_review_is_an_empty_table_with_its_columns():
    queue = review_queue({"cnn": CNN}, 0.999)
    assert queue.empty and queue.columns.tolist() == ["Filename", "Label", "Predicted", "Confidence"]


def test_the_worst_errors_are_the_surest_wrong_answers_of_any_model():
    labels = np.zeros(5, int)
    chances = [[0.6, 0.1, 0.9, 0.2, 0.0], [0.2, 0.7, 0.4, 0.1, 0.8]]  # of class 1
    probabilities = np.array([[[1 - chance, chance] for chance in model] for model in chances])
    assert worst_errors(labels, probabilities, 3).tolist() == [2, 4, 1]
    assert worst_errors(labels, probabilities, 9).tolist() == [2, 4, 1, 0]
    assert worst_errors(labels, probabilities, 0).tolist() == []
