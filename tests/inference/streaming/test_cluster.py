"""The stream on a Ray cluster of two workers: the files of a single process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.errors import DataError, RunError
from resnet_tasks.inference.streaming import cluster as module
from resnet_tasks.inference.streaming.cluster import RayCluster
from resnet_tasks.inference.streaming.sources import Source, Unit
from resnet_tasks.inference.streaming.stream import PredictionRequest, StreamOptions, predict_all
from resnet_tasks.inference.streaming.stream_journal import BatchResult, FrameResult
from tests.support.paths import ROOT
from tests.support.streamed import MeanPredictor, image, tree, video


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for i in range(9):
        image(folder / f"{i}.png", 20 + 10 * i, (24 + 8 * (i % 2), 32))
    (folder / "3b.png").write_bytes(b"no image")
    video(folder / "clip.avi", 7)
    return folder


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(module, "import_module", absent)
    with pytest.raises(DataError, match=r'install it with pip install "resnet-tasks\[scale\]"'):
        RayCluster("local").create_runner(MeanPredictor, tmp_path, StreamOptions())


def test_nothing_is_imported_until_a_cluster_is_wanted() -> None:
    code = "import sys, resnet_tasks.inference.streaming.cluster; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_unit_travels_with_what_is_done_of_it() -> None:
    unit = Unit(3, (Source(Path("/a/clip.mp4"), "clip-2"),))
    assert module._unpack_unit(module._pack_unit(unit, [0, 2])) == (unit, [0, 2])


def test_files_are_named_as_they_were_asked_for() -> None:
    frame = FrameResult("/a/b.png", reason="image /a/b.png is damaged")
    found = BatchResult(0, 0, (frame,), note="video /a/c.mp4 ends", video="/a/c.mp4")
    told = module._restore_paths(found, {"/a/b.png": "b.png", "/a/c.mp4": "c.mp4"})
    assert told.frames == (FrameResult("b.png", reason="image b.png is damaged"),)
    assert (told.note, told.video) == ("video c.mp4 ends", "c.mp4")


class _Nodes:
    """A cluster in which only its machines are asked for."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self._resources = resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Resources": each, "Alive": True} for each in self._resources]


def test_actors_are_spread_over_what_there_is() -> None:
    two = _Nodes({"CPU": 8.0}, {"CPU": 4.0})
    assert module._allocate_actors(two, None) == (2, {"num_cpus": 4})
    assert module._allocate_actors(two, 4) == (4, {"num_cpus": 2})
    assert module._allocate_actors(_Nodes({"CPU": 8.0, "GPU": 2.0}), None) == (
        2,
        {"num_gpus": 1.0, "num_cpus": 1},
    )
    with pytest.raises(RunError, match="--actors 13: the cluster has only 12 processors"):
        module._allocate_actors(two, 13)


def test_an_error_of_an_actor_is_told_as_what_it_was_there() -> None:
    text = """ray::MapWorker.submit() (pid=7)
  File "stream.py", line 3, in predict
resnet_tasks.errors.DataError: a.png is damaged; mend it

The above exception was the direct cause of the following exception:

ray.data.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, configure `ray.data.DataContext`"""
    told = module._parse_traceback(text)
    assert (type(told), str(told)) == (DataError, "a.png is damaged; mend it")
    bug = module._parse_traceback(
        text.replace("resnet_tasks.errors.DataError", "ZeroDivisionError")
    )
    assert isinstance(bug, RunError)
    assert "failed (ZeroDivisionError: a.png is damaged; mend it); finished images are kept" in str(
        bug
    )
    assert "(the node died); finished" in str(module._parse_traceback("\nthe node died\nbye"))


# In a separate process, because Ray's imports and threads warn and remain.
SET_UP = """
import atexit, os, signal, sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.support.streamed import MeanPredictor
from resnet_tasks.errors import DataError
from resnet_tasks.inference.streaming import cluster as module
from resnet_tasks.inference.streaming.stream import StreamOptions, PredictionRequest, predict_all
import ray
from ray.cluster_utils import Cluster as Machines

def predict(out, make=MeanPredictor):
    options = StreamOptions(score=0.1)
    predict_all(MeanPredictor(), PredictionRequest((Path({data!r}),)), Path(out),
        settings={{"weights": "w"}}, options=options,
        runner=cluster.create_runner(make, Path(out), options))

machines = Machines(initialize_head=True, head_node_args={{"num_cpus": 1}})
atexit.register(machines.shutdown)
machines.add_node(num_cpus=1)
cluster = module.RayCluster(machines.address)
"""

ERRORS = """
class Broken(MeanPredictor):
    def predict(self, images):
        raise ZeroDivisionError("a bug")

class Absent(MeanPredictor):
    def __init__(self):
        raise DataError("the weights are not on this machine")

allocations = []
allocate_actors = module._allocate_actors
module._allocate_actors = lambda *a: allocations.append(allocate_actors(*a)) or allocations[-1]
predict({out!r})
assert allocations == [(2, {{"num_cpus": 1}})], allocations
assert not ray.is_initialized()
for make, text in ((Broken, "a bug"), (Absent, "not on this machine")):
    try:
        predict({out!r} + "-broken", make)
    except Exception as error:
        print(type(error).__name__, error)
        assert text in str(error), error
    else:
        raise AssertionError(make)
predict({out!r} + "-broken")
"""

KILLED = """
from functools import partial

def is_head():
    node_id = ray.get_runtime_context().get_node_id()
    return any("node:__internal_head__" in node["Resources"] for node in ray.nodes()
        if node["NodeID"] == node_id)

class Killed(MeanPredictor):
    # Kills its process at its second batch, or the raylet of the second machine, once in all.
    def __init__(self, victim):
        super().__init__()
        self.victim = victim
        self.mark = {out!r} + "-killed-" + victim

    def predict(self, images):
        if self.victim == "raylet" and is_head():
            end = time.monotonic() + 100
            while not os.path.isdir(self.mark) and time.monotonic() < end:
                time.sleep(0.5)  # leaves work to the other machine
        elif self.victim == "raylet" or len(self.seen) == 1:
            self.kill()
        return super().predict(images)

    def kill(self):
        try:
            os.mkdir(self.mark)
        except FileExistsError:
            return
        os.kill(os.getppid() if self.victim == "raylet" else os.getpid(), signal.SIGKILL)

for victim in ("worker", "raylet"):
    predict({out!r} + "-" + victim, partial(Killed, victim))
    assert os.path.isdir({out!r} + "-killed-" + victim)
"""


def _run_on_cluster(body: str, data: Path, out: Path) -> str:
    """Run code on a cluster of two machines with one core each; return what it prints."""
    pytest.importorskip("ray.data", reason="needs the extra `scale` (Ray Data)")
    paths = [str(ROOT)]
    code = (SET_UP + body).format(paths=paths, data=str(data), out=str(out))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return process.stdout


def _predict_alone(data: Path, out: Path) -> dict[str, bytes]:
    """Predict in this process; return the files."""
    predict_all(
        MeanPredictor(),
        PredictionRequest((data,)),
        out,
        settings={"weights": "w"},
        options=StreamOptions(score=0.1),
    )
    return tree(out)


@pytest.mark.slow
def test_two_workers_give_the_files_of_one_process(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    printed = _run_on_cluster(ERRORS, data, out)
    expected = _predict_alone(data, tmp_path / "alone")
    assert tree(out) == expected
    assert len(json.loads((out / "images.json").read_text())["images"]) == 16
    # The same command resumes what an error of the actors interrupted.
    assert tree(tmp_path / "out-broken") == expected
    assert "RunError prediction on the cluster failed (ZeroDivisionError: a bug)" in printed
    assert "not on this machine" in printed


@pytest.mark.slow
def test_a_killed_worker_or_machine_changes_no_file(tmp_path: Path, data: Path) -> None:
    """SIGKILL for an actor that predicts, and for the raylet of a machine with its actors."""
    _run_on_cluster(KILLED, data, tmp_path / "out")
    expected = _predict_alone(data, tmp_path / "alone")
    for victim in ("worker", "raylet"):
        assert tree(tmp_path / f"out-{victim}") == expected, victim
