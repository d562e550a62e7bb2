"""Pictures and frames read ahead of the model: threads decode, a bounded queue keeps the order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.streaming.journal import Key
from resnet_tasks.streaming.predictor import ReadyPicture, StreamPredictor
from resnet_tasks.streaming.sources import Source, Unit
from resnet_tasks.streaming.videos import read_frames

Item = TypeVar("Item")


@dataclass(frozen=True)
class ReadFrame:
    """A picture or frame that was read, or could not be.

    Attributes:
        source: Where it comes from.
        picture: None where it cannot be read.
        number: Of the frame in its video; None of a picture.
        seconds: From the beginning of the video.
        reason: Why it cannot be read.
    """

    source: Source
    picture: ReadyPicture | None
    number: int | None = None
    seconds: float | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Of what is written for it, without an ending."""
        return self.source.name if self.number is None else f"{self.source.name}/{self.number:06d}"


@dataclass(frozen=True)
class ReadBatch:
    """What goes through the model together.

    Attributes:
        unit: Number of the unit.
        batch: Number in the unit.
        frames: In order.
        is_last: Nothing more comes of the unit.
        note: What is wrong with a video as a whole.
        video: Its file.
    """

    unit: int
    batch: int
    frames: tuple[ReadFrame, ...]
    is_last: bool
    note: str = ""
    video: str = ""


@dataclass(frozen=True)
class _Planned:
    """A batch whose frames are being read."""

    unit: int
    batch: int
    frames: tuple[Future[ReadFrame], ...]
    is_last: bool
    note: str = ""
    video: str = ""


def read_ahead(
    units: Iterable[Unit],
    predictor: StreamPredictor,
    *,
    done: Set[Key],
    every: int = 1,
    threads: int = 2,
    ahead: int = 2,
) -> Generator[ReadBatch]:
    """The batches of all units in order, read while the model works on those before.

    Args:
        units: Those that are not done.
        predictor: Makes pictures ready.
        done: Batches, (unit, number in it), that are left out.
        every: Of videos every n-th frame.
        threads: That decode.
        ahead: Batches that are held at most, besides the one that was handed over last.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        planned = _plan(units, predictor, pool, done, every)
        with closing(_ahead(planned, ahead)) as stream:
            for each in stream:
                frames = tuple(future.result() for future in each.frames)
                yield ReadBatch(each.unit, each.batch, frames, each.is_last, each.note, each.video)


def _plan(
    units: Iterable[Unit],
    predictor: StreamPredictor,
    pool: ThreadPoolExecutor,
    done: Set[Key],
    every: int,
) -> Iterator[_Planned]:
    """Batches whose reading has begun; runs in a thread of its own, which decodes videos."""
    for unit in units:
        if unit.video is not None:
            yield from _video(unit.number, unit.video, predictor, pool, done, every)
            continue
        reading = tuple(pool.submit(_read_file, predictor, each) for each in unit.sources)
        yield _Planned(unit.number, 0, reading, is_last=True)


def _video(
    unit: int,
    video: Source,
    predictor: StreamPredictor,
    pool: ThreadPoolExecutor,
    done: Set[Key],
    every: int,
) -> Iterator[_Planned]:
    """The batches of a video, and at its end one without frames."""
    size, batch, note = predictor.batch_size, 0, ""
    frames: list[Future[ReadFrame]] = []
    seen = 0
    found = read_frames(
        video.path,
        every=every,
        channels=predictor.preparation.channels,
        wanted=lambda i: (unit, i // size) not in done,
        max_pixels=predictor.preparation.max_pixels,
    )
    try:
        for frame in found:
            if frame.pixels is not None:
                frames.append(
                    pool.submit(
                        _read_frame, predictor, video, frame.number, frame.seconds, frame.pixels
                    )
                )
            seen += 1
            if seen % size == 0:
                if frames:
                    yield _Planned(unit, batch, tuple(frames), is_last=False)
                batch, frames = batch + 1, []
    except DataError as error:
        note = str(error)
    if frames:
        yield _Planned(unit, batch, tuple(frames), is_last=False)
    # Its own number, so that it is told apart from a last batch that a kill left.
    yield _Planned(unit, batch + 1, (), is_last=True, note=note, video=str(video.path))


def _read_file(predictor: StreamPredictor, source: Source) -> ReadFrame:
    try:
        return ReadFrame(source, predictor.read(source.path, str(source.path)))
    except DataError as error:
        return ReadFrame(source, None, reason=str(error))


def _read_frame(
    predictor: StreamPredictor,
    video: Source,
    number: int,
    seconds: float | None,
    pixels: NDArray[Any],
) -> ReadFrame:
    try:
        picture = predictor.read(pixels, f"frame {number} of {video.path}")
    except DataError as error:
        return ReadFrame(video, None, number, seconds, str(error))
    return ReadFrame(video, picture, number, seconds)


def _ahead(items: Iterator[Item], ahead: int) -> Generator[Item]:
    """Items of an iterator that runs in a thread, at most `ahead` of them before they are taken.

    What the iterator raises is raised where its item would have come. When it is no longer read,
    the thread ends.
    """
    handed: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(max(1, ahead))
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                handed.put((item, error), timeout=0.1)
                return

    def fill() -> None:
        try:
            for each in items:
                put(each, None)
                if stopped.is_set():
                    return
            put(None, None)
        except BaseException as error:  # noqa: BLE001  # handed over to the thread that reads
            put(None, error)

    thread = threading.Thread(target=fill, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = handed.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
