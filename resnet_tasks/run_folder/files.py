"""List of all files of run folders, exports and predictions, with schema and format version.

Files without an entry here (plugins, drawings, `report.html`, files of trackers) are written and
never read back, or are read by other packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from resnet_tasks.recipe.format_version import FORMAT_VERSION
from resnet_tasks.run_folder import export_schemas, schemas

Kind = Literal["yaml", "json", "json lines", "npz", "torch", "safetensors"]
Migration = Callable[[dict[str, Any]], dict[str, Any]]

VERSION_KEY = "format_version"
"""Key of a file's format version; files without it have version 1."""
_MB = 1_000_000


@dataclass(frozen=True)
class RunFile:
    """Description of one file of a run folder.

    Attributes:
        name: Path in the folder; `*` stands for the name of a checkpoint, evaluation, head or step.
        content: Content, in a few words.
        remedy: Advice for the message if the file is damaged.
        kind: Format of the file.
        schema: Type of the content; of one line if the file has lines.
        version: Format version that this package writes.
        version_key: Key of the format version; empty if `version_place` states it.
        version_place: Place of the format version if it is not a key of the file itself.
        migrations: Version -> function that converts content of this version to the next version.
        max_bytes: Maximum size; larger files are damaged or something else.
    """

    name: str
    content: str
    remedy: str
    kind: Kind = "json"
    schema: Any = None
    version: int = 1
    version_key: str = VERSION_KEY
    version_place: str = ""
    migrations: Mapping[int, Migration] = field(default_factory=dict)
    max_bytes: int = 1000 * _MB

    def add_version(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of a new file: its format version, then `value`."""
        return {self.version_key: self.version, **value}


_FROM_COPY = "restore it from a copy"
_EVALUATE = "evaluate the run again"
_EXPORT = "export the run again"
_OVERWRITE = "start over with --overwrite, or choose another --out"
_CHECKPOINT = "use another checkpoint of the run"

RECIPE = RunFile(
    "recipe.yaml",
    "resolved recipe",
    _FROM_COPY,
    kind="yaml",
    version=FORMAT_VERSION,
    version_key="",
    version_place="comment in the first line",
)
CLASSES = RunFile(
    "classes.json",
    "categories of the dataset and classes of every head",
    _FROM_COPY,
    schema=schemas.Classes,
)
LOG = RunFile(
    "log.jsonl",
    "start, steps, evaluations and end of the training",
    "restore it from a copy, or remove it for a report without training curves",
    kind="json lines",
    schema=schemas.EVENTS,
    version_place="line `start`",
)
UNREADABLE_IMAGES = RunFile(
    "unreadable_images.jsonl",
    "training images that could not be read",
    "remove it, and training lists the images again",
    kind="json lines",
    schema=schemas.UnreadableImageLine,
    version_key="",
    version_place="line `start` of log.jsonl",
)
WEIGHTS = RunFile(
    "checkpoints/*/model.safetensors",
    "weights of a checkpoint",
    _CHECKPOINT,
    kind="safetensors",
    version_place="metadata of the file",
    max_bytes=10**15,
)
AVERAGED_WEIGHTS = RunFile(
    "checkpoints/*/ema.safetensors",
    "averaged weights of a checkpoint",
    _CHECKPOINT,
    kind="safetensors",
    version_place="metadata of the file",
    max_bytes=10**15,
)
STATE = RunFile(
    "checkpoints/last/state.pt",
    "state of optimizer and progress, from which a run resumes",
    "start a new run, or restore it from a copy",
    kind="torch",
    schema=schemas.TrainingState,
    max_bytes=10**15,
)
OPERATING_POINT = RunFile(
    "operating_point.json",
    "score thresholds chosen by `operating-point`",
    "choose new thresholds with `resnet-tasks operating-point RUN`",
    schema=schemas.OperatingPoints,
)
CALIBRATION = RunFile(
    "calibration.json",
    "scaling of the confidences by `calibrate`",
    "run `resnet-tasks calibrate RUN` again",
    schema=schemas.Calibration,
)
METRICS = RunFile(
    "evaluations/*/metrics.json",
    "metrics with intervals, protocol, data and versions",
    _EVALUATE,
    schema=schemas.Metrics,
)
DETAILS = RunFile(
    "evaluations/*/details.json",
    "curves, confusion matrices and quality of every image",
    _EVALUATE,
    schema=schemas.Details,
    version_key="",
    version_place="metrics.json of the evaluation",
)
RESAMPLES = RunFile(
    "evaluations/*/resamples.npz",
    "metrics on the resampled datasets, for paired comparisons",
    _EVALUATE,
    kind="npz",
    schema=schemas.Resamples,
    version=2,  # version 1 had images drawn with replacement
    version_place="array `about`",
)
RESULTS = RunFile(
    "evaluations/*/predictions/*.json",
    "predictions of a head in the results format of COCO",
    _EVALUATE,
    schema=schemas.Results,
    version_key="",
    version_place="metrics.json of the evaluation",
    max_bytes=10**11,
)
DATA = RunFile(
    "data.json",
    "fingerprints of the training data, which a resumed run compares",
    "restore it from a copy, or accept the data as it is: `resnet-tasks finetune --resume RUN "
    "--accept-changed-data`",
    schema=schemas.Data,
    version_key="format",
)
REPLAY = RunFile(
    "replays/*/replay.json",
    "step whose loss or gradient was not finite",
    "pass a folder below RUN/replays, as named in the message about the non-finite loss",
    schema=schemas.Replay,
    version_key="format",
)
REPLAY_BATCH = RunFile(
    "replays/*/batch.safetensors",
    "images and targets of this step",
    "pass another folder below RUN/replays",
    kind="safetensors",
    version_key="",
    version_place="replay.json",
    max_bytes=10**15,
)
REPLAY_WEIGHTS = RunFile(
    "replays/*/model.safetensors",
    "weights before this step",
    "pass another folder below RUN/replays",
    kind="safetensors",
    version_key="",
    version_place="replay.json",
    max_bytes=10**15,
)
TRACKERS = RunFile(
    "trackers.json",
    "ids of the run in its trackers",
    "remove it, and the trackers start new curves",
    schema=dict[str, Any],
)
EXPORT = RunFile(
    "export.json",
    "classes, preparation and input of an exported graph (folder of `export`)",
    _EXPORT,
    schema=export_schemas.Export,
    version=2,
    version_key="layout",
)
STREAM_SETTINGS = RunFile(
    "stream.json",
    "settings of an unfinished prediction (folder of `predict`)",
    _OVERWRITE,
    schema=dict[str, Any],
    version_key="version",
)
STREAM_LINES = RunFile(
    "stream.jsonl",
    "finished batches of an unfinished prediction (folder of `predict`)",
    _OVERWRITE,
    kind="json lines",
    schema=schemas.StreamLine,
    version_key="",
    version_place="stream.json",
    max_bytes=10**15,
)

REQUESTED = RunFile(
    "asked.json",
    "requested recipes (parent folder of the runs of several seeds or folds)",
    "choose another --out, or remove the file if you know the recipe",
    schema=dict[str, dict[str, Any]],
    version_key="",
    version_place="first line of recipe.yaml of the runs",
)

RUN_FILES = (
    RECIPE,
    CLASSES,
    DATA,
    LOG,
    UNREADABLE_IMAGES,
    WEIGHTS,
    AVERAGED_WEIGHTS,
    STATE,
    OPERATING_POINT,
    CALIBRATION,
    METRICS,
    DETAILS,
    RESAMPLES,
    RESULTS,
    REPLAY,
    REPLAY_BATCH,
    REPLAY_WEIGHTS,
    TRACKERS,
    EXPORT,
    STREAM_SETTINGS,
    STREAM_LINES,
    REQUESTED,
)
"""All files that commands read back."""
