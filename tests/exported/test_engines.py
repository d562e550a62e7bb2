"""Damaged graphs and graphs of other models: one sentence of the engine's reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from resnet_tasks.errors import RunError
from resnet_tasks.exported.engines import open_engine
from resnet_tasks.exported.exported_model import ExportedModel
from tests.support.paths import ROOT
from tests.support.run_files import write_export

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
FORMATS = [("onnx", "model.onnx"), ("openvino", "model.xml")]


def write_graph(folder: Path, name: str, outputs: tuple[str, ...]) -> None:
    """Write a graph that returns `images` under every output name."""
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Relu", ["images"], [output]) for output in outputs]
    inputs = [
        helper.make_tensor_value_info("images", kinds.FLOAT, ["B", 3, "H", "W"]),
        helper.make_tensor_value_info("sizes", kinds.INT64, ["B", 2]),
    ]
    infos = [helper.make_tensor_value_info(output, kinds.FLOAT, None) for output in outputs]
    graph = helper.make_graph(nodes, "graph", inputs, infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    if name == "model.xml":
        import openvino  # noqa: PLC0415 - takes a second

        openvino.save_model(openvino.convert_model(folder / "model.onnx"), folder / name)


@pytest.mark.parametrize(("kind", "name"), FORMATS)
def test_damaged_graphs_are_one_sentence(
    tmp_path: Path, kind: Literal["onnx", "openvino"], name: str
) -> None:
    write_export(tmp_path, kind)
    write_graph(tmp_path, name, ("objects.boxes",))
    path = tmp_path / name
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], bytes(99), b"\x80\xff" * 50, b"[1]"):
        path.write_bytes(damaged)
        with pytest.raises(RunError) as caught:
            ExportedModel.open(tmp_path)
        message = str(caught.value)
        assert message.startswith(f"{path} cannot be loaded ("), (damaged, message)
        assert message.endswith("); export the run again")
        assert "\n" not in message


@pytest.mark.parametrize(("kind", "name"), FORMATS)
def test_graphs_of_other_models_are_refused(
    tmp_path: Path, kind: Literal["onnx", "openvino"], name: str
) -> None:
    write_export(tmp_path, kind)
    write_graph(tmp_path, name, ("objects.boxes", "objects.scores", "other.labels"))
    message = rf"{name} is not the graph of this export\.json: the head objects lacks .*labels"
    with pytest.raises(RunError, match=message):
        ExportedModel.open(tmp_path)
    engine = open_engine(tmp_path / name)
    sizes = np.array([[4, 4]])
    with pytest.raises(RunError, match=rf"{name} cannot be run \(.*\); export the run again"):
        engine.run(np.zeros((1, 5, 4, 4), np.float32), sizes)
    outputs = engine.run(np.ones((1, 3, 4, 4), np.float32), sizes)
    assert (outputs["objects.boxes"] == 1).all()


SIGNAL_AFTER_ENGINES = """
import faulthandler, signal, sys
from pathlib import Path
from resnet_tasks.exported.engines import open_engine

faulthandler.enable()  # signals are handled on a stack of their own from now on
first, second = (open_engine(Path(sys.argv[1])) for _ in range(2))
del first
del second
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs alternate signal stacks")
@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_signals_are_handled_after_engines_ended_in_any_order(tmp_path: Path, name: str) -> None:
    """Each core of OpenVINO leaves behind the signal stack of the core before it."""
    write_graph(tmp_path, name, ("objects.boxes",))
    command = [sys.executable, "-c", SIGNAL_AFTER_ENGINES, str(tmp_path / name)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (child.returncode, child.stdout) == (0, "handled\n"), child.stderr
