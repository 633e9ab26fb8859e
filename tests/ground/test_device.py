import platform
import subprocess
import sys

import pytest
import torch

from nuclei.device import Compute, autocast, compare_systems, computes_bfloat16, describe_environment, setup_device
from nuclei.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restored_settings():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_device_computes_repeatably_with_the_threads_asked_for(threads):
    assert setup_device("cpu", threads) == CPU
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()  # twice the time on a CPU, for nothing


def test_auto_takes_the_best_device_there_is():
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = setup_device("auto", 1)
    assert device.type == best
    torch.ones(1, device=device)


@pytest.mark.parametrize(
    ("name", "there"), [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]
)
def test_a_device_that_is_not_there_is_named(name, there):
    if there:
        pytest.skip(f"{name} is there")
    with pytest.raises(InputError, match=f"device: .*{name}"):
        setup_device(name, 1)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("auto", torch.bfloat16 if computes_bfloat16(CPU) else torch.float32),
    ],
)
def test_precision_is_that_of_matrix_products(precision, dtype):
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_autocast_ends_with_its_block():
    with autocast(CPU, "bfloat16"), autocast(CPU, "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_the_environment_names_what_numbers_depend_on_and_nothing_that_changes():
    compute = Compute("cpu", threads=2)
    environment = describe_environment(compute, "float32")
    assert environment == describe_environment(compute, "float32")
    assert (environment["device"], environment["threads"], environment["precision"]) == ("cpu", 2, "float32")
    assert environment["python"] == platform.python_version()
    assert environment["packages"]["torch"] == torch.__version__
    assert "scikit-learn" in environment["packages"] and "pytest" not in environment["packages"]
    assert describe_environment(compute, "bfloat16")["precision"] == "bfloat16"


def test_results_of_another_kind_of_processor_are_told_from_those_of_this_one():
    here = describe_environment(Compute("cpu", 1), "float32")
    assert compare_systems(here, here | {"packages": {}, "threads": 8}) is None  # no other kind
    for key in ("system", "device", "precision"):
        note = compare_systems(here | {key: "other"}, here)
        assert "other" in note and str(here[key]) in note and "\n" not in note
    assert compare_systems({}, here)  # an environment.json of an earlier version


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory is told to stay")
def test_the_memory_of_freed_tensors_is_kept_for_the_next_ones():
    code = (
        "import resource, torch; from nuclei.device import setup_device\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "{}\n"
        "for _ in range(30): torch.ones(16_000_000)  # the first ones leave pieces that do not fit the next\n"
        "before = faults(); torch.ones(16_000_000); print(faults() - before)"
    )
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", code.format(line)], capture_output=True, text=True).stdout)
        for line in ("setup_device('cpu', 1)", "torch.set_num_threads(1)")
    )
    assert 2 * kept < returned  # 64 MB, which glibc would map anew, in pages of 4 KiB or 2 MiB
