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


# In a process of its own: Ray's imports and threads warn, and stay.
CHILD = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.support.streamed import MeanPredictor
from resnet_tasks.errors import DataError
from resnet_tasks.inference.streaming.cluster import RayCluster
from resnet_tasks.inference.streaming.stream import StreamOptions, PredictionRequest, predict_all
import ray
from ray.cluster_utils import Cluster as Machines

def wanted(out, runner_of, make=MeanPredictor):
    options = StreamOptions(score=0.1)
    predict_all(MeanPredictor(), PredictionRequest((Path({data!r}),)), Path(out),
        settings={{"weights": "w"}}, options=options, runner=runner_of(make, Path(out), options))

class Broken(MeanPredictor):
    def predict(self, images):
        raise ZeroDivisionError("a bug")

class Absent(MeanPredictor):
    def __init__(self):
        raise DataError("the weights are not on this machine")

import atexit
machines = Machines(initialize_head=True, head_node_args={{"num_cpus": 1}})
atexit.register(machines.shutdown)
machines.add_node(num_cpus=1)
cluster = RayCluster(machines.address)
import os
seen = []
import resnet_tasks.inference.streaming.cluster as module
plain = module._allocate_actors
module._allocate_actors = lambda *a: seen.append(plain(*a)) or seen[-1]
wanted({out!r}, cluster.runner)
assert seen == [(2, {{"num_cpus": 1}})], seen
assert not ray.is_initialized()
for make, text in ((Broken, "a bug"), (Absent, "not on this machine")):
    try:
        wanted({out!r} + "-broken", cluster.runner, make)
    except Exception as error:
        print(type(error).__name__, error)
        assert text in str(error), error
    else:
        raise AssertionError(make)
wanted({out!r} + "-broken", cluster.runner)
"""


@pytest.mark.slow
def test_two_workers_give_the_files_of_one_process(tmp_path: Path, data: Path) -> None:
    pytest.importorskip("ray.data", reason="needs the extra `scale` (Ray Data)")
    out, alone = tmp_path / "out", tmp_path / "alone"
    paths = [str(ROOT)]
    code = CHILD.format(paths=paths, data=str(data), out=str(out))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    predict_all(
        MeanPredictor(),
        PredictionRequest((data,)),
        alone,
        settings={"weights": "w"},
        options=StreamOptions(score=0.1),
    )
    assert tree(out) == tree(alone)
    assert len(json.loads((out / "images.json").read_text())["images"]) == 16
    # What an error of the actors stopped goes on.
    assert tree(tmp_path / "out-broken") == tree(alone)
    assert "RunError prediction on the cluster failed (ZeroDivisionError: a bug)" in done.stdout
    assert "not on this machine" in done.stdout
