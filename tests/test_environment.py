import platform

import torch

from nuclei.device import describe_environment


def test_the_environment_names_what_numbers_depend_on_and_nothing_that_changes():
    found = describe_environment(torch.device("cpu"), 2, "float32")
    assert found == describe_environment(torch.device("cpu"), 2, "float32")
    assert (found["device"], found["threads"], found["precision"]) == ("cpu", 2, "float32")
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == torch.__version__
    assert "scikit-learn" in found["packages"] and "pytest" not in found["packages"]
    assert describe_environment(torch.device("cpu"), 2, "bfloat16")["precision"] == "bfloat16"
