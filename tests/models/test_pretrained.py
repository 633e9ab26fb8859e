import io
import pickle
import socket
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from nuclei.errors import InputError
from nuclei.models.pretrained import check_trained, download_resnet18, read_weights
from nuclei.models.resnet import ResNet


class CreatesFile:
    """A pickle of this creates the file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture(scope="module")
def weights():
    network = torchvision.models.resnet18(num_classes=4)
    network.layer3[0].bn1.running_mean.fill_(0.1)
    return dict(network.state_dict())


def pickled(weights, **options):
    buffer = io.BytesIO()
    torch.save(weights, buffer, **options)
    return buffer.getvalue()


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
def test_weights_are_read_from_both_formats(name, tmp_path, weights):
    path = tmp_path / name
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    read = read_weights(path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_weights_saved_on_a_gpu_are_read_without_one(tmp_path, weights):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(io.BytesIO(pickled(weights))) as cpu, zipfile.ZipFile(path, "w") as gpu:
        for member in cpu.namelist():
            content = cpu.read(member)
            if member.endswith("data.pkl"):  # a pickled string: its length, then its letters
                assert b"X\x03\0\0\0cpu" in content
                content = content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            gpu.writestr(member, content)
    read = read_weights(path)
    assert all(value.device.type == "cpu" for value in read.values())


def test_the_network_is_torchvisions_resnet18():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torchvision.models.resnet18(num_classes=4)
        torch.manual_seed(0)
        ours = ResNet(classes=4)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    crops = torch.randn(2, 3, 100, 100)
    assert torch.equal(ours(crops), theirs(crops))  # in training: with the statistics of the batch
    assert torch.equal(ours.eval()(crops), theirs.eval()(crops))


def test_weights_in_channels_last_memory_can_be_written_as_safetensors(tmp_path, weights):
    network = torchvision.models.resnet18(num_classes=4)
    network.load_state_dict(weights)
    torch.save(network.to(memory_format=torch.channels_last).state_dict(), tmp_path / "weights.pt")
    save_file(read_weights(tmp_path / "weights.pt"), tmp_path / "weights.safetensors")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_pickle_with_code_is_refused_and_runs_nothing(name, tmp_path, weights):
    bomb, path = tmp_path / "bomb", tmp_path / name
    for content in (
        pickle.dumps(CreatesFile(bomb), protocol=2),
        pickled(CreatesFile(bomb)),
        pickled(weights | {"bomb": CreatesFile(bomb)}),
        pickled(CreatesFile(bomb), _use_new_zipfile_serialization=False),
    ):
        path.write_bytes(content)
        refusal(path)
    assert not bomb.exists()
    pickle.loads(pickle.dumps(CreatesFile(bomb)))
    assert bomb.exists()  # it would have gone off


def test_untrained_weights_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pt")
    assert "never trained" in refusal(tmp_path / "weights.pt")


def test_weights_of_another_network_are_refused(tmp_path, weights):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pt")
    assert "not the weights of a ResNet18" in refusal(tmp_path / "resnet34.pt")
    torch.save({}, tmp_path / "empty.pt")
    assert "not the weights of a ResNet18" in refusal(tmp_path / "empty.pt")
    with pytest.raises(InputError, match=r"^imagenet: not the weights of a ResNet18"):
        check_trained({"conv1.weight": weights["conv1.weight"]}, "imagenet")


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), {"state_dict": {}}, {0: torch.ones(2)}, None], ids=repr)
def test_what_is_no_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    assert "expected a state dict" in refusal(tmp_path / "weights.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff" * 100,
        b"PK\x03\x04" + b"\0" * 100,
        b"\x80\x02.",  # a pickle that gives nothing back
        b"\x80\x02M\x01",  # one that ends within a number
        pickled({"a": torch.ones(2)}, _use_new_zipfile_serialization=False)[:-20],
        pickled({"a": torch.ones(2)})[:-20],
    ],
    ids=["empty", "text", "bytes", "zip", "pickle", "short pickle", "short old torch", "short torch"],
)
def test_a_broken_file_is_refused(suffix, content, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    assert "neither safetensors nor plain tensors of torch.save" in refusal(path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_missing_file_is_named(name, tmp_path):
    assert "No such file" in refusal(tmp_path / name)


def test_without_a_network_the_download_fails_and_says_so(tmp_path, monkeypatch):
    with socket.socket() as listener:  # nobody listens here once it is closed
        listener.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, nowhere)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    before = socket.getdefaulttimeout()
    with pytest.raises(OSError, match="refused"):
        download_resnet18()
    assert socket.getdefaulttimeout() == before
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
