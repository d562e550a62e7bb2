"""All targets by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzz.target import Target
from tests.fuzz.targets.annotations import ANNOTATIONS
from tests.fuzz.targets.checkpoints import CHECKPOINTS
from tests.fuzz.targets.coco import COCO
from tests.fuzz.targets.images import IMAGES
from tests.fuzz.targets.run_files import RUN_FILES

TARGETS: Mapping[str, Target] = {
    target.name: target for target in (*ANNOTATIONS, *COCO, *IMAGES, *RUN_FILES, *CHECKPOINTS)
}
