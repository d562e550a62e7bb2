from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from resnet_tasks.errors import RunError
from resnet_tasks.recipe.schema.evaluation import SlidingRecipe
from resnet_tasks.report.datasets import read_evaluated_files
from resnet_tasks.report.run_view import SPLITS, EvaluationView, read_run
from resnet_tasks.runs.inference_options import InferenceOptions
from resnet_tasks.runs.run import Run


def test_metrics_come_with_their_intervals_units_and_direction(made: Any) -> None:
    evaluation = read_run(made.folder).find_evaluation("val")
    assert evaluation is not None
    ap = evaluation.heads["objects"]["AP"]
    assert (ap.value, ap.interval) == (0.5, (0.4, 0.6))
    assert ap.per_class[made.names[0]].interval == (0.4, 0.6)
    assert evaluation.heads["objects"]["AP_large"].interval is None
    distance = evaluation.heads["scene"]["HD95"]
    assert (distance.unit, distance.lower_is_better) == ("px", True)
    assert evaluation.has_intervals
    assert evaluation.split == "val"


def test_the_latest_evaluation_leads_and_unknown_ones_get_a_sentence(made: Any) -> None:
    other = made.folder / "evaluations" / "test-best"
    other.mkdir()
    raw = json.loads((made.evaluation / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps({**raw, "date": "2027-01-01 00:00:00"}))
    run = read_run(made.folder)
    assert [each.name for each in run.evaluations] == ["test-best", "val"]
    chosen = run.find_evaluation()
    assert chosen is not None
    assert (chosen.name, chosen.split, chosen.details) == ("test-best", "test", {})
    with pytest.raises(RunError, match=r"no evaluation 'tset' \(it has: test-best, val\)"):
        run.find_evaluation("tset")


@pytest.mark.parametrize("checkpoint", ["last", "best"])
@pytest.mark.parametrize(
    "inference",
    [
        InferenceOptions(),
        InferenceOptions(calibrated=True),
        InferenceOptions(calibrated=True, tta_views="flips+scales"),
        InferenceOptions(windows=SlidingRecipe(height=64, width=96, overlap=0.5)),
    ],
)
def test_the_split_is_that_of_the_request_with_any_options(
    made: Any, checkpoint: str, inference: InferenceOptions
) -> None:
    run = Run.read(made.folder)
    for split in SPLITS:
        folder = run.get_evaluation_folder(split, checkpoint=checkpoint, inference=inference)
        assert EvaluationView(folder.name, folder, {}, {}, {}).split == split
    for name in ("train.json", "val.json"):
        folder = run.get_evaluation_folder(
            annotations=made.data / name, checkpoint=checkpoint, inference=inference
        )
        assert EvaluationView(folder.name, folder, {}, {}, {}).split is None


def test_an_evaluation_with_options_is_of_the_files_of_its_split(made: Any) -> None:
    made.evaluation.rename(made.folder / "evaluations" / "val-best-calibrated")
    run = read_run(made.folder)
    (evaluation,) = run.evaluations
    # With folds, the file that the metadata name holds more images than the split.
    evaluation.metadata["data"] = {str(made.data / "absent.json"): "0"}
    (file,) = read_evaluated_files(run, evaluation, None)
    assert file.path == made.data / "val.json"


def test_parameters_are_counted_from_the_weights_without_buffers(made: Any) -> None:
    assert read_run(made.folder).parameters == {}
    weights = {
        "backbone.conv1.weight": np.zeros((2, 3, 1, 1), np.float32),
        "backbone.bn1.running_mean": np.zeros(5, np.float32),
        "heads.objects.rpn.weight": np.zeros((4, 2), np.float32),
        "mean": np.zeros(3, np.float32),
    }
    folder = made.folder / "checkpoints" / "last"
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    assert read_run(made.folder).parameters == {"backbone": 6, "objects": 8}


def test_damage_gets_a_sentence(made: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run folder: it has no recipe\.yaml"):
        read_run(tmp_path / "nothing")
    metrics = made.evaluation / "metrics.json"
    for text, message in (
        ("{", r"metrics\.json is damaged \(it is not JSON: .*column 2\)"),
        ("[]", r"metrics\.json is damaged \(expected an object, got a list\)"),
        ('{"metrics": {"a/AP": {}}}', r"metrics\.json is damaged .*evaluate the run again"),
    ):
        metrics.write_text(text)
        with pytest.raises(RunError, match=message):
            read_run(made.folder)
    (made.folder / "classes.json").write_text("{}")
    with pytest.raises(RunError, match=r"classes\.json is damaged"):
        read_run(made.folder)


@pytest.mark.parametrize("damage", [{"value": "high"}, {"value": 0.5, "interval": [1]}, {}])
def test_numbers_that_are_none_are_refused(made: Any, damage: dict[str, Any]) -> None:
    made.edit("metrics.json", lambda value: value["metrics"].update({"objects/AP": damage}))
    with pytest.raises(RunError, match=r"metrics\.json is damaged .*; evaluate the run again"):
        read_run(made.folder)
