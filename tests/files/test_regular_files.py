"""Files that are opened, and those that are refused, without ever waiting for a writer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.coco.json_records import open_content
from resnet_tasks.data.images.decoding import read_image
from resnet_tasks.data.images.image_files import detect_file_kind, open_image, try_read_image_size
from resnet_tasks.data.images.regions import open_regions
from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import (
    open_regular_file,
    read_file_or_pipe,
    read_regular_file,
)
from resnet_tasks.inference.streaming.sources import find_sources
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


@pytest.mark.parametrize("name", ["\ud800.png", "a\0b.png"])
def test_names_that_no_file_can_have_are_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(OSError, match="no file can have this name"):
        open_regular_file(path)
    for read in (read_image, open_regions, detect_file_kind):
        with pytest.raises(DataError, match="cannot be read: no file can have this name"):
            read(path)
    assert try_read_image_size(path) is None


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_errors_of_reading_after_opening_are_one_sentence(tmp_path: Path) -> None:
    """The first page of a process is not mapped: reading it fails, opening it does not."""
    (tmp_path / "a.png").symlink_to("/proc/self/mem")
    for read in (read_image, open_regions, detect_file_kind):
        with pytest.raises(DataError, match=r"a\.png cannot be read: .*Input/output error"):
            read(tmp_path / "a.png")


def test_pipes_are_read_while_something_writes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="it is a pipe that nothing was written to"):
        read_file_or_pipe(pipe)
    slow = "import sys, time; time.sleep(0.3); print('a', flush=True); time.sleep(0.3); print('b')"
    with subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert read_file_or_pipe(Path(f"/dev/fd/{child.stdout.fileno()}")) == b"a\nb\n"
    writer = threading.Thread(target=pipe.write_bytes, args=(b"named",))
    writer.start()
    time.sleep(0.1)  # The writer waits for a reader.
    assert read_file_or_pipe(pipe) == b"named"
    writer.join()


def test_large_files_folders_and_devices_are_not_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(11))
    assert read_file_or_pipe(tmp_path / "a", 11) == bytes(11)
    with pytest.raises(OSError, match="it has more than 10 bytes"):
        read_file_or_pipe(tmp_path / "a", 10)
    with pytest.raises(IsADirectoryError):
        read_file_or_pipe(tmp_path)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(OSError, match="it is a character device; only regular files and pipes"):
            read_file_or_pipe(Path(device))


def test_coco_files_and_lists_come_from_pipes_but_no_devices(tmp_path: Path) -> None:
    content = b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}'
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    # NaN is not read by the fast parser: the bytes of a pipe are there once.
    for text in (content, content[:-1] + b', "info": {"number": NaN}}'):
        writer = threading.Thread(target=pipe.write_bytes, args=(text,))
        writer.start()
        time.sleep(0.1)
        assert list(open_content(pipe).top)[:3] == ["images", "annotations", "categories"]
        writer.join()
    (tmp_path / "a.png").touch()
    names = threading.Thread(target=pipe.write_text, args=(f"{tmp_path}/a.png\n",))
    names.start()
    time.sleep(0.1)
    sources, _ = find_sources([], list_file=pipe)
    names.join()
    assert [source.path for source in sources] == [tmp_path / "a.png"]
    for path, reason in (
        (pipe, "nothing was written to"),
        (Path("/dev/zero"), "it is a character device"),
        (tmp_path / "loop", "symbolic links"),
    ):
        with pytest.raises(DataError, match=reason):
            open_content(path)
        with pytest.raises(DataError, match=rf"the list {path} cannot be read \(.*{reason}"):
            find_sources([], list_file=path)
