"""Images and frames read ahead of the model: threads decode, a bounded queue keeps the order."""

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
from resnet_tasks.inference.streaming.sources import Source, Unit
from resnet_tasks.inference.streaming.stream_journal import Key
from resnet_tasks.inference.streaming.stream_predictor import ReadyImage, StreamPredictor
from resnet_tasks.inference.streaming.videos import read_frames

Item = TypeVar("Item")


@dataclass(frozen=True)
class LoadedFrame:
    """An image or frame that was read, or could not be.

    Attributes:
        source: Where it comes from.
        image: None where it cannot be read.
        number: Of the frame in its video; None of an image.
        seconds: From the beginning of the video.
        reason: Why it cannot be read.
    """

    source: Source
    image: ReadyImage | None
    number: int | None = None
    seconds: float | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Of what is written for it, without an ending."""
        return self.source.name if self.number is None else f"{self.source.name}/{self.number:06d}"


@dataclass(frozen=True)
class LoadedBatch:
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
    frames: tuple[LoadedFrame, ...]
    is_last: bool
    note: str = ""
    video: str = ""


@dataclass(frozen=True)
class _PendingBatch:
    """A batch whose frames are being read."""

    unit: int
    batch: int
    frames: tuple[Future[LoadedFrame], ...]
    is_last: bool
    note: str = ""
    video: str = ""


def prefetch_batches(
    units: Iterable[Unit],
    predictor: StreamPredictor,
    *,
    done_batches: Set[Key],
    every: int = 1,
    threads: int = 2,
    queue_size: int = 2,
) -> Generator[LoadedBatch]:
    """The batches of all units in order, read while the model works on those before.

    Args:
        units: Those that are not done.
        predictor: Makes images ready.
        done_batches: Batches, (unit, number in it), that are left out.
        every: Of videos every n-th frame.
        threads: That decode.
        queue_size: Batches that are held at most, besides the one that was handed over last.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        planned = _plan_batches(units, predictor, pool, done_batches, every)
        with closing(_prefetch(planned, queue_size)) as stream:
            for pending_batch in stream:
                frames = tuple(future.result() for future in pending_batch.frames)
                yield LoadedBatch(
                    pending_batch.unit,
                    pending_batch.batch,
                    frames,
                    pending_batch.is_last,
                    pending_batch.note,
                    pending_batch.video,
                )


def _plan_batches(
    units: Iterable[Unit],
    predictor: StreamPredictor,
    pool: ThreadPoolExecutor,
    done_batches: Set[Key],
    every: int,
) -> Iterator[_PendingBatch]:
    """Batches whose reading has begun; runs in a thread of its own, which decodes videos."""
    for unit in units:
        if unit.video is not None:
            yield from _plan_video(unit.number, unit.video, predictor, pool, done_batches, every)
            continue
        reading = tuple(pool.submit(_read_file, predictor, source) for source in unit.sources)
        yield _PendingBatch(unit.number, 0, reading, is_last=True)


def _plan_video(
    unit: int,
    video: Source,
    predictor: StreamPredictor,
    pool: ThreadPoolExecutor,
    done_batches: Set[Key],
    every: int,
) -> Iterator[_PendingBatch]:
    """The batches of a video, and at its end one without frames."""
    size, batch, note = predictor.batch_size, 0, ""
    frames: list[Future[LoadedFrame]] = []
    num_frames = 0
    video_frames = read_frames(
        video.path,
        every=every,
        channels=predictor.preparation.channels,
        is_requested=lambda i: (unit, i // size) not in done_batches,
        max_pixels=predictor.preparation.max_pixels,
    )
    try:
        for frame in video_frames:
            if frame.pixels is not None:
                frames.append(
                    pool.submit(
                        _read_frame, predictor, video, frame.number, frame.seconds, frame.pixels
                    )
                )
            num_frames += 1
            if num_frames % size == 0:
                if frames:
                    yield _PendingBatch(unit, batch, tuple(frames), is_last=False)
                batch, frames = batch + 1, []
    except DataError as error:
        note = str(error)
    if frames:
        yield _PendingBatch(unit, batch, tuple(frames), is_last=False)
    # Its own number, so that it is told apart from a last batch that a kill left.
    yield _PendingBatch(unit, batch + 1, (), is_last=True, note=note, video=str(video.path))


def _read_file(predictor: StreamPredictor, source: Source) -> LoadedFrame:
    try:
        return LoadedFrame(source, predictor.read(source.path, str(source.path)))
    except DataError as error:
        return LoadedFrame(source, None, reason=str(error))


def _read_frame(
    predictor: StreamPredictor,
    video: Source,
    number: int,
    seconds: float | None,
    pixels: NDArray[Any],
) -> LoadedFrame:
    try:
        image = predictor.read(pixels, f"frame {number} of {video.path}")
    except DataError as error:
        return LoadedFrame(video, None, number, seconds, str(error))
    return LoadedFrame(video, image, number, seconds)


def _prefetch(items: Iterator[Item], queue_size: int) -> Generator[Item]:
    """Yield the items of an iterator that runs in a thread, at most `queue_size` of them ahead.

    What the iterator raises is raised where its item would have come. When it is no longer read,
    the thread ends.
    """
    ready_queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(
        max(1, queue_size)
    )
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready_queue.put((item, error), timeout=0.1)
                return

    def fill() -> None:
        try:
            for value in items:
                put(value, None)
                if stopped.is_set():
                    return
            put(None, None)
        except BaseException as error:  # noqa: BLE001  # handed over to the thread that reads
            put(None, error)

    thread = threading.Thread(target=fill, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready_queue.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
