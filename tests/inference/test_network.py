"""Nothing here talks to a network, nor does a dependency: a whole prediction, watched from within."""

import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
from raw_files import write_good
from tissue import some_crops, write_model

from tools.clone import ROOT, change_params

FAST = ["--no-tta", "--threads", "1"]

WATCHED = """
import sys, os

def watch(event, args):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        os.write(2, f"talks: {event} {args}\\n".encode())
        os._exit(99)

sys.addaudithook(watch)
"""
COMMANDS = "from nuclei.cli import act\nfor words in ' '.join(sys.argv[1:]).split(' then '): act(words.split())"
STAGE = "import runpy; name = sys.argv.pop(); runpy.run_module(f'stages.{name}', run_name='__main__')"

SESSION = """
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
    (tmp_path / "nuclei.csv").write_text("x,y\n50,50\n")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    words = ["predict", "model.safetensors", "crop.png", "--nuclei", "nuclei.csv", "--mpp", "0.25", *FAST]
    notebook = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MATPLOTLIBRC": str(tmp_path)}
    done = run(tmp_path, WATCHED + "from nuclei.cli import main; main()", *words, **notebook)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "predictions/crop_overlay.png").exists()


def test_other_commands_open_no_connection_and_onnx_runtime_leaves_no_trace(tmp_path):
    write_model(tmp_path / "model.safetensors")
    (tmp_path / "home").mkdir()
    for label in ("tumour", "stroma"):
        (tmp_path / "crops" / label).mkdir(parents=True)
        for number, crop in enumerate(some_crops(3)):
            PIL.Image.fromarray(crop).save(tmp_path / "crops" / label / f"{number}.png")
    commands = "example tiles --tiles 1 then import folders crops --out raw then export model.safetensors model.onnx"
    done = run(tmp_path, WATCHED + COMMANDS, commands, HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert "talks" not in done.stderr and (tmp_path / "model.onnx").exists() and (tmp_path / "raw/train.zip").exists()
    assert "elemetry" not in done.stderr and list((tmp_path / "home").iterdir()) == []


def test_onnx_runtime_says_nothing_of_telemetry_where_there_is_no_home(tmp_path):
    done = run(tmp_path, SESSION)
    assert done.returncode == 0 and "elemetry" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_stage_opens_no_connection(tmp_path):
    write_good(tmp_path / "raw")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", {"data.raw": "raw"})
    done = run(tmp_path, WATCHED + STAGE, "unzip")
    assert (done.returncode, done.stderr) == (0, "") and "labelled crops" in done.stdout
