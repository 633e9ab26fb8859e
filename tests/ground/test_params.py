import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ruamel.yaml import YAML

from nuclei.errors import InputError
from nuclei.params import RENAMED, load_params

PARAMS = Path("params.yaml")


def changed(tmp_path, key, value):
    """Write params.yaml with another value at a dotted key; return its path."""
    values = yaml.safe_load(PARAMS.read_text())
    *sections, name = key.split(".")
    section = values
    for part in sections:
        section = section[part]
    section[name] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def complaint(path):
    with pytest.raises(InputError) as caught:
        load_params(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_the_file_in_the_repository_loads():
    params = load_params(PARAMS)
    assert (params.lr, params.batch_size, params.epochs) == (None, None, None)
    assert params.model_dump() == yaml.safe_load(PARAMS.read_text())  # nothing added, dropped or converted


def test_parameters_do_not_change_once_read():
    params = load_params(PARAMS)
    with pytest.raises(ValidationError):
        params.lr = 0.1
    with pytest.raises(ValidationError):
        params.train.stain = 0.1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.001),
        ("lr", 1),
        ("batch_size", 16),
        ("epochs", 3),
        ("data.channels", 1),
        ("train_resnet.weights", "a.pt"),
        ("split.held_out", 2),
        ("split.held_out", None),
        ("train.threads", 8),
        ("tune.rungs", [0.1, 0.25, 1]),
        ("robustness.factors", []),
        ("predict.average", "folds"),
    ],
)
def test_values_that_the_readme_offers_are_taken(key, value, tmp_path):
    values = load_params(changed(tmp_path, key, value)).model_dump()
    for part in key.split("."):
        values = values[part]
    assert values == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0),
        ("lr", -0.1),
        ("lr", 1.5),
        ("lr", "fast"),
        ("lr", True),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("batch_size", 1),
        ("batch_size", 32.0),
        ("epochs", 0),
        ("model", "vgg"),
        ("threads", 0),
        ("threads", True),
        ("device", "gpu"),
        ("data.raw", ""),
        ("data.raw", None),
        ("data.channels", 2),
        ("data.channels", True),
        ("data.channels", 1.0),
        ("sample.train", 0),
        ("split.folds", 2),
        ("split.seed", -1),
        ("split.held_out", 1),
        ("split.held_out", "all"),
        ("cnn.filters", [32, 64, 128]),
        ("cnn.filters", [32, 64, 128, 0]),
        ("cnn.dropout", 1),
        ("resnet.stem", "large"),
        ("train.stain", float("-inf")),
        ("train.balance", "both"),
        ("train.dihedral", "yes"),
        ("train.warmup", 1.0),
        ("train.threads", 0),
        ("tune.batch_size", []),
        ("tune.batch_size", [32, "64"]),
        ("tune.rungs", []),
        ("tune.rungs", [0.5, 0]),
        ("tune.rungs", [1.5]),
        ("tune.rungs", 0.5),
        ("tune.reduction", 1),
        ("tune.lr", {"low": 0.1, "high": 0.01}),
        ("tune.lr", {"low": 0.1}),
        ("train_cnn.ema", 1.0),
        ("train_cnn", None),
        ("train_resnet.weights", ""),
        ("evaluate.bins", 1),
        ("evaluate.target_coverage", 1.0),
        ("evaluate.target_coverage", 0),
        ("robustness.factors", [0.0]),
        ("robustness.jpeg", [0]),
        ("robustness.jpeg", [101]),
        ("robustness.jpeg", [30.5]),
        ("robustness.stains", [1.1]),
        ("robustness.crops", 0),
        ("review.crops", 0),
        ("predict.average", "both"),
        ("explain.occlusion", []),
        ("explain.occlusion", [{"window": 0, "stride": 1}]),
        ("explain.occlusion", [{"window": 20, "stride": 21}]),  # pixels in between would never be covered
        ("explain.occlusion", [{"window": 20, "stride": 10}, {"window": 20, "stride": 5}]),  # named by their window
        ("explain.ig_steps", 0),
        ("explain.methods", ["occlusion", "occlusion"]),
        ("explain.random_networks", 1),
        ("explain.noise_std", 1.1),
    ],
)
def test_a_value_that_does_not_fit_is_named(key, value, tmp_path):
    assert complaint(changed(tmp_path, key, value)).startswith(key.split(".")[0])
    if "." in key:
        assert complaint(changed(tmp_path, key, value)).startswith(key)


@pytest.mark.parametrize("key", ["learning_rate", "train.momentum", "tune.lr.step", "train_cnn.weights"])
def test_an_unknown_key_is_named(key, tmp_path):
    message = complaint(changed(tmp_path, key, 1))
    assert message.startswith(f"{key}: ") and "no such parameter; " in message


@pytest.mark.parametrize("key", RENAMED)
def test_a_parameter_of_an_earlier_version_is_told_what_became_of_it(key, tmp_path):
    message = complaint(changed(tmp_path, key, 1))
    assert message == f"{key}: {RENAMED[key]}"
    new = re.match(r"now ([\w.]+)|gone: ([\w.]+) says", RENAMED[key])
    if new:  # and that one is there
        value = yaml.safe_load(PARAMS.read_text())
        for part in (new[1] or new[2]).split("."):
            value = value[part]


@pytest.mark.parametrize("text", ["5e-05", "5E-5", "0.00005", "5.0e-5", ".5e-4", "+5e-5", "5.e-5"])
def test_numbers_are_read_as_dvc_writes_them(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text().replace("\nlr:\n", f"\nlr: {text}\n"))
    assert load_params(path).lr == 0.00005


@pytest.mark.parametrize("text", ["64", "064", "0x40", "0o100", "6_4", "+64"])
def test_whole_numbers_are_those_of_dvc(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text().replace("\nbatch_size:\n", f"\nbatch_size: {text}\n"))
    assert load_params(path).batch_size == 64 == YAML().load(path.read_text())["batch_size"]  # what DVC reads by


@pytest.mark.parametrize(("text", "said"), [("1:04", "'1:04'"), ('"0.001"', "'0.001' in quotes: leave them out")])
def test_what_only_looks_like_a_number_is_refused(text, said, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text().replace("\nlr:\n", f"\nlr: {text}\n"))
    assert complaint(path) == f"lr: Input should be a valid number, got {said}"


def test_a_folder_that_only_a_shell_would_know_is_refused(tmp_path):
    path = changed(tmp_path, "data.raw", "~/kaggle")
    assert complaint(path) == "data.raw: should be written out, without ~, got '~/kaggle'"


def test_a_missing_key_is_named(tmp_path):
    values = yaml.safe_load(PARAMS.read_text())
    del values["train"]["stain"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    assert complaint(tmp_path / "params.yaml") == "train.stain: missing: add it"


def test_every_wrong_key_is_named_at_once(tmp_path):
    path = changed(tmp_path, "lr", -1)
    path.write_text(path.read_text() + "typo: 1\n")
    message = complaint(path)
    assert "lr: " in message and "typo: " in message


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: b: c", "\0", "a: 2020-13-45", "a: " + "9" * 5000, "!!python/object/apply:os.abort []"],
    ids=["open list", "two colons", "null byte", "no such day", "endless number", "code"],
)
def test_what_is_not_yaml_is_an_error(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert complaint(path).startswith("not plain YAML")


def test_what_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"model: r\xe9snet\n")
    assert complaint(tmp_path / "params.yaml").startswith("not plain YAML")


@pytest.mark.parametrize("text", ["", "- 1\n", "5\n", "lr\n"])
def test_what_is_not_a_table_is_an_error(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert complaint(path).startswith("the file: ")


def test_a_missing_file_is_an_error(tmp_path):
    assert complaint(tmp_path / "params.yaml") == "cannot be read (No such file or directory)"
    assert complaint(tmp_path) == "cannot be read (Is a directory)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resnet": {"backbone": "tf_efficientnet_lite0", "stem": "small"}}, "a stem small is resnet18's alone"),
        ({"resnet": {"frozen": 0.5}, "train_resnet": {"weights": "none"}}, "random weights .* would never be trained"),
        ({"resnet": {"backbone": "hf-hub:someone/model"}}, "resnet.backbone"),
    ],
    ids=str,
)
def test_what_cannot_be_combined_with_a_backbone_is_refused(changes, message, tmp_path):
    values = yaml.safe_load(PARAMS.read_text())
    for section, keys in changes.items():
        values[section] |= keys
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=message):
        load_params(tmp_path / "params.yaml")
