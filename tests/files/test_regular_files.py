"""Files that are opened, and those that are refused, without ever waiting for a writer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.images.decoding import read_image
from resnet_tasks.data.images.image_files import open_image, try_read_image_size
from resnet_tasks.data.images.regions import open_regions
from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import open_regular_file, read_regular_file
from tests.support.paths import ROOT


def test_regular_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    file, link = tmp_path / "a", tmp_path / "link"
    file.write_bytes(b"abc")
    link.symlink_to(file)
    assert read_regular_file(file) == read_regular_file(link) == b"abc"
    with open_regular_file(file) as stream:
        assert not os.get_inheritable(stream.fileno())


def test_other_kinds_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match=r"it is a named pipe \(FIFO\); only regular files"):
            open_regular_file(tmp_path / name)
    with pytest.raises(OSError, match="it is a folder"):
        open_regular_file(tmp_path)
    with pytest.raises(OSError, match="it is a character device"):
        open_regular_file(Path("/dev/null"))
    with pytest.raises(FileNotFoundError):
        open_regular_file(tmp_path / "gone")
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,  # paths of sockets are short
        socket.socket(socket.AF_UNIX) as server,
    ):
        server.bind(f"{folder}/s")
        with pytest.raises(OSError, match="it is a socket"):
            open_regular_file(Path(folder, "s"))


def test_every_reader_of_images_refuses_a_fifo(tmp_path: Path) -> None:
    pipe = tmp_path / "x.jpg"
    os.mkfifo(pipe)
    for read in (read_image, open_regions):
        with pytest.raises(DataError, match=r"x\.jpg cannot be read: it is a named pipe"):
            read(pipe)
    with pytest.raises(OSError, match="it is a named pipe"), open_image(pipe):
        pass
    assert try_read_image_size(pipe) is None


READING = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.support.streamed import MeanPredictor
from resnet_tasks.inference.streaming.stream import StreamOptions, PredictionRequest, predict_all
request = PredictionRequest(tuple(map(Path, sys.argv[2:])))
done = predict_all(MeanPredictor(), request, Path(sys.argv[1]), settings={{}},
                   options=StreamOptions())
print(done.num_predicted, done.num_unreadable)
"""


def stream_in_child(*arguments: bytes) -> subprocess.Popen[bytes]:
    """Predict in another process: what goes wrong in OpenCV ends the process."""
    code = READING.format(paths=[str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_fifo_is_counted_as_unreadable_at_once(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "x.jpg")
    os.mkfifo(tmp_path / "v.mp4")
    child = stream_in_child(os.fsencode(tmp_path / "out"), os.fsencode(tmp_path))
    try:
        said, errors = child.communicate(timeout=60)
    finally:
        if child.poll() is None:  # it hangs
            child.send_signal(signal.SIGKILL)
            child.wait()
    assert (child.returncode, said) == (0, b"1 2\n"), errors.decode()
    listed = (tmp_path / "out/unreadable_images.jsonl").read_text()
    assert "x.jpg cannot be read: it is a named pipe" in listed
    assert "v.mp4 cannot be read: it is a named pipe" in listed
