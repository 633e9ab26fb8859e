"""Nothing here talks to a network, nor does a dependency: a whole prediction, watched from within."""

import subprocess
import sys
from pathlib import Path

import PIL.Image
from tissue import some_crops, write_model

from tools.clone import ROOT

FAST = ["--no-tta", "--threads", "1"]

WATCHED = """
import sys, os

def watch(event, args):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        os.write(2, f"talks: {event} {args}\\n".encode())
        os._exit(99)

sys.addaudithook(watch)
from nuclei.cli import act
act(sys.argv[1:])
"""

ONNX = """
import nuclei.inference.onnx
from nuclei.inference.onnx import onnx, onnxruntime
nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
graph = onnx.helper.make_graph(nodes, "identity", [x], [y])
model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def run(folder: Path, code: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a process without the user's environment."""
    environment |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_predict_opens_no_connection_and_prints_nothing_else(tmp_path):
    write_model(tmp_path / "model.safetensors")
    PIL.Image.fromarray(some_crops(1)[0]).save(tmp_path / "crop.png")
    done = run(tmp_path, WATCHED, "predict", "model.safetensors", "crop.png", "--mpp", "0.25", *FAST)
    assert (done.returncode, done.stderr) == (0, "")


def test_onnx_runtime_says_nothing_of_telemetry_and_leaves_no_trace(tmp_path):
    (tmp_path / "home").mkdir()
    for home in ({"HOME": str(tmp_path / "home")}, {}):
        done = run(tmp_path, ONNX, **home)
        assert done.returncode == 0 and "elemetry" not in done.stderr, done.stderr
    assert list(tmp_path.rglob("*")) == [tmp_path / "home"]
