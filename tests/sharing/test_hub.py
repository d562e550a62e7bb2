"""Push and pull against a server of our own that speaks the hub's protocol."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import _http as client
from PIL import Image
from typer.testing import CliRunner, Result

import resnet_tasks
from resnet_tasks.backbone.weights_folders import read_license
from resnet_tasks.cli import app
from resnet_tasks.errors import HubError, RecipeError, RunError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.sharing.contents import strip_paths
from resnet_tasks.sharing.hub import HubUpload, pull
from resnet_tasks.sharing.model_card import CardOptions
from resnet_tasks.training.finetune_recipe import finetune_recipe
from tests.support.half_bright import RIGHT_HALF, write_recipe, write_split
from tests.support.hub_server import Server, point_at

# The hub's client uploads in a way that its own http library calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
REPO = "lab/bright"
PLUGIN = """
from resnet_tasks.heads.base import HEADS
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that may be shared, and much that may not."""
    base = tmp_path_factory.mktemp("secret place") / "bright"
    base.mkdir()
    write_split(base / "a.json", dict.fromkeys(map(str, range(1, 13)), RIGHT_HALF))
    (base / "mine.py").write_text(PLUGIN)
    write_recipe(
        base / "mine.yaml",
        base,
        plugins=["mine.py"],
        data={"val": [{"annotations": str(base / "a.json")}]},
        training={"epochs": 1, "batch_size": 4, "ema": 0.5},
        evaluation={"resamples": 20},
    )
    run = base / "runs" / "mine-1"
    finetune_recipe(load_recipe(base / "mine.yaml"), out=run)
    (run / "report.html").write_text("<p>images</p>")
    about = {"data": {str(base / "a.json"): "0"}, "heads": {}, "weights": "0"}
    (run / "calibration.json").write_text(json.dumps(about))
    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    made = Server()
    made.tokens.add("hf_right")
    point_at(made.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield made
    made.close()


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_there_and_back(server: Server, trained: Path, tmp_path: Path) -> None:
    sent = _run("push", trained, REPO, "--license", "apache-2.0", "--data-license", "CC0")
    assert sent.exit_code == 0, sent.output
    assert "to lab/bright, private" in sent.output
    assert "checkpoints/last/model.safetensors" in sent.output
    repository = server.repositories[REPO]
    assert repository.private
    _, files = repository.commits[-1]
    assert sorted(files) == [
        "README.md",
        "calibration.json",
        "checkpoints/best/model.safetensors",
        "checkpoints/last/model.safetensors",
        "classes.json",
        "evaluations/val/metrics.json",
        "log.jsonl",
        "plugins/0_mine.py",
        "recipe.yaml",
    ]
    for name, content in files.items():
        assert b"secret place" not in content, name
    assert any(each.startswith("PUT /storage/") for each in server.requests)

    brought = _run("pull", REPO, "--out", tmp_path / "mine")
    assert brought.exit_code == 0, brought.output
    assert "note: the recipe of this run names code" in brought.output
    with pytest.raises(RecipeError, match="needs to run this code"):
        resnet_tasks.load(tmp_path / "mine")
    ours = resnet_tasks.load(trained, trust_plugins=True)
    theirs = resnet_tasks.load(tmp_path / "mine", trust_plugins=True)
    image = np.asarray(Image.open(trained.parents[1] / "1.png"))
    one, other = (each.predict(image)["scene"] for each in (ours, theirs))
    assert torch.equal(one.probs, other.probs)
    value = ours.evaluate("val").metrics["scene/mIoU"].value
    annotations = trained.parents[1] / "a.json"
    assert theirs.evaluate(annotations=annotations).metrics["scene/mIoU"].value == value
    assert read_license(tmp_path / "mine") == "your own (trained from random weights)"
    resumed = _run("finetune", "--resume", tmp_path / "mine", "--trust-plugins")
    assert resumed.exit_code == 2
    source = json.loads((tmp_path / "mine/pulled.json").read_text())
    assert source["commit"] == repository.commits[-1][0]
    assert not (tmp_path / "mine/.cache").exists()
    with pytest.raises(RunError, match="already exists"):
        pull(REPO, tmp_path / "mine")


def test_an_older_commit_can_be_pinned_and_nothing_old_stays(
    server: Server, trained: Path, tmp_path: Path
) -> None:
    HubUpload.from_run(trained, REPO, report=True).upload()
    first = server.repositories[REPO].commits[-1][0]
    server.repositories[REPO].commits[-1][1]["notes.txt"] = b"theirs"
    HubUpload.from_run(trained, REPO, best=False).upload()
    _, files = server.repositories[REPO].commits[-1]
    assert "report.html" not in files
    assert "checkpoints/best/model.safetensors" not in files
    assert files["notes.txt"] == b"theirs"
    folder, left_out = pull(REPO, tmp_path / "old", revision=first)
    assert (folder / "report.html").is_file()
    assert left_out == ("notes.txt",)
    with pytest.raises(HubError, match="lab/bright has no revision 'v9'"):
        pull(REPO, tmp_path / "new", revision="v9")


def test_the_card_tells_numbers_data_and_licenses(trained: Path) -> None:
    options = CardOptions("apache-2.0", "CC0 1.0", "lab/images")
    (card,) = (each.content for each in HubUpload.from_run(trained, REPO, options).files[:1])
    assert isinstance(card, bytes)
    _, head, text = card.decode().split("---\n", 2)
    about = yaml.safe_load(head)
    assert about["license"] == "apache-2.0"
    assert about["library_name"] == "resnet-tasks"
    assert about["pipeline_tag"] == "image-segmentation"
    assert about["datasets"] == ["lab/images"]
    metrics = json.loads((trained / "evaluations/val/metrics.json").read_text())["metrics"]
    results = about["model-index"][0]["results"][0]
    stated = {each["name"]: each["value"] for each in results["metrics"]}
    assert stated["scene/mIoU"] == pytest.approx(metrics["scene/mIoU"]["value"], abs=1e-6)
    low, high = metrics["scene/mIoU"]["interval"]
    value = metrics["scene/mIoU"]["value"]
    assert f"| scene/mIoU | {value:.4f} | {low:.3f} to {high:.3f} |" in text
    assert "- License: CC0 1.0" in text
    assert "resnet-tasks pull lab/bright --out bright" in text
    assert "your own (trained from random weights)" in text
    assert "decoder_channels" in text
    assert "Not for commercial use" not in text


def test_evaluations_with_options_are_results_of_their_split(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    shutil.copytree(run / "evaluations/val", run / "evaluations/val-calibrated")
    shutil.copytree(run / "evaluations/val", run / "evaluations/file-a-01234567")
    (card,) = (shared.content for shared in HubUpload.from_run(run, REPO).files[:1])
    assert isinstance(card, bytes)
    about = yaml.safe_load(card.decode().split("---\n", 2)[1])
    names = [
        (result["dataset"]["split"], metric["name"])
        for result in about["model-index"][0]["results"]
        for metric in result["metrics"]
        if metric["name"].startswith("scene/mIoU")
    ]
    assert sorted(names) == [("val", "scene/mIoU"), ("val", "scene/mIoU (val-calibrated)")]


def test_a_license_without_commerce_is_told_and_not_contradicted(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = {"source": "timm:x", "license": "cc-by-nc-4.0"}
    monkeypatch.setattr("resnet_tasks.sharing.model_card.read_license", lambda _: began["license"])
    card = HubUpload.from_run(trained, REPO).files[0].content
    assert isinstance(card, bytes)
    assert "license: cc-by-nc-4.0" in card.decode()
    assert "**Not for commercial use.** The run started from weights under the license cc-by" in (
        card.decode()
    )
    with pytest.raises(
        HubError, match=r"--license is mit, but the run started from .* cc-by-nc-4\.0"
    ):
        HubUpload.from_run(trained, REPO, CardOptions("mit"))


def test_a_dry_run_asks_nobody(server: Server, trained: Path) -> None:
    made = _run("push", trained, REPO, "--dry-run")
    assert made.exit_code == 0, made.output
    assert "nothing was sent" in made.output
    assert "library_name: resnet-tasks" in made.output
    assert server.requests == []


def test_refusals_are_sentences(
    server: Server, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: object) -> str:
        made = _run(*arguments)
        assert made.exit_code == 2, made.output
        assert "Traceback" not in made.output
        return " ".join(made.stderr.split())

    assert "has no repository no/body that you may read" in said("pull", "no/body")
    assert "'../x' is not a repository name; write OWNER/NAME" in said("pull", "../x")
    assert "is not a repository name" in said("push", trained, "mine")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token" in said("push", trained, REPO)
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no token with write access" in said("push", trained, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    server.refusal = (403, "")
    assert "the token may not write to lab/bright" in said("push", trained, REPO)
    server.refusal = None
    HubUpload.from_run(trained, REPO).upload(public=True)
    assert "is public; nothing was sent" in said("push", trained, REPO)
    assert len(server.repositories[REPO].commits) == 2
    assert _run("push", trained, REPO, "--public").exit_code == 0
    assert "it has no recipe.yaml" in said("push", tmp_path, REPO)


def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the client try again at once."""
    quick = SimpleNamespace(**{**vars(client.time), "sleep": lambda _: None})
    monkeypatch.setattr(client, "time", quick)


@pytest.mark.parametrize("where", ["/storage/", "/commit/"])
def test_a_push_that_breaks_leaves_the_repository_as_it_was(
    server: Server, trained: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    _no_waiting(monkeypatch)
    HubUpload.from_run(trained, REPO).upload()
    before = list(server.repositories[REPO].commits)
    server.hang_up_at = where
    server.large.clear()
    parcel = HubUpload.from_run(trained, REPO, CardOptions(data_license="other"))
    with pytest.raises(HubError, match=r"the connection to .* broke"):
        parcel.upload()
    assert server.repositories[REPO].commits == before
    server.hang_up_at = ""
    parcel.upload()
    assert len(server.repositories[REPO].commits) == len(before) + 1


def test_a_pull_that_breaks_goes_on(
    server: Server, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_waiting(monkeypatch)
    HubUpload.from_run(trained, REPO).upload()
    server.hang_up_at = "checkpoints/best"
    with pytest.raises(HubError, match=r"the connection to .* broke"):
        pull(REPO, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    server.hang_up_at = ""
    server.requests.clear()
    pull(REPO, tmp_path / "mine")
    fetched = [each for each in server.requests if each.startswith("GET") and "/resolve/" in each]
    assert not any("checkpoints/last" in each for each in fetched), "that one was here already"


@pytest.mark.parametrize(
    "name", ["../evil.sh", "plugins/../../evil.py", "/etc/evil", "C:\\evil", "a\\..\\..\\evil"]
)
def test_files_outside_the_folder_are_refused(
    server: Server, trained: Path, tmp_path: Path, name: str
) -> None:
    HubUpload.from_run(trained, REPO).upload()
    server.repositories[REPO].commits[-1][1][name] = b"x"
    with pytest.raises(HubError, match="would be written outside the folder"):
        pull(REPO, tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_refused(server: Server, trained: Path, tmp_path: Path) -> None:
    HubUpload.from_run(trained, REPO).upload()
    files: dict[str, Any] = server.repositories[REPO].commits[-1][1]
    files["recipe.yaml"] = b"data: {}"
    with pytest.raises(HubError, match="lab/bright is not a run that this version can use"):
        pull(REPO, tmp_path / "mine")
    del files["classes.json"]
    with pytest.raises(HubError, match=r"is not a run of resnet-tasks: it has no classes\.json"):
        pull(REPO, tmp_path / "other")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("file", ["recipe.yaml", "classes.json"])
@pytest.mark.parametrize("name", ["../../escaped", "/abs/x", "stream"])
def test_head_names_that_are_paths_are_refused(
    server: Server, trained: Path, tmp_path: Path, file: str, name: str
) -> None:
    HubUpload.from_run(trained, REPO).upload()
    files: dict[str, bytes] = server.repositories[REPO].commits[-1][1]
    old, new = {
        "recipe.yaml": (b"\n  scene:", f"\n  {name}:"),
        "classes.json": (b'"scene":', f'"{name}":'),
    }[file]
    assert old in files[file]
    files[file] = files[file].replace(old, new.encode())
    brought = _run("pull", REPO, "--out", tmp_path / "mine")
    assert brought.exit_code == 2
    said = " ".join(brought.output.split())
    assert "lab/bright is not a run that this version can use" in said
    assert f"the head name '{name}'" in said
    assert list(tmp_path.iterdir()) == []


def test_plugins_outside_the_run_are_not_sent(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (tmp_path / "other.py").write_text(PLUGIN)
    text = (run / "recipe.yaml").read_text()
    assert "plugins/0_mine.py" in text
    (run / "recipe.yaml").write_text(text.replace("plugins/0_mine.py", "../other.py"))
    with pytest.raises(RunError, match=r"names the plugin .*other\.py, which lies outside the run"):
        HubUpload.from_run(run, REPO)


@pytest.mark.parametrize(
    "name",
    [
        "classes.json",
        "log.jsonl",
        "calibration.json",
        "evaluations/val/metrics.json",
        "evaluations/val",
        "checkpoints",
        "checkpoints/best",
        "checkpoints/best/ema.safetensors",
        "plugins/0_mine.py",
        "plugins/1_other.py",
    ],
)
def test_links_out_of_the_run_are_not_followed(trained: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    target = tmp_path / "other" / Path(name).name
    target.parent.mkdir()
    if (run / name).exists():
        (run / name).rename(target)
    else:
        target.write_text("secret")
    (run / name).symlink_to(target)
    linked = tmp_path / "linked"
    linked.symlink_to(run)
    for folder in (run, linked):
        with pytest.raises(RunError) as error:
            HubUpload.from_run(folder, REPO)
        assert "links that lead out of the run" in str(error.value) or "plugin" in str(error.value)
        assert Path(name).name in str(error.value)
        if name.startswith("plugins/0"):
            continue  # refused before, because the recipe names it
        assert f"{name} -> {target}; nothing is sent" in str(error.value)


def test_links_inside_the_run_and_links_that_are_not_shared_are_fine(
    trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "checkpoints/best").rename(run / "checkpoints/first")
    (run / "checkpoints/best").symlink_to("first")
    (run / "notes").symlink_to("/etc")
    linked = tmp_path / "linked"
    linked.symlink_to(run)
    names = [file.name for file in HubUpload.from_run(linked, REPO).files]
    assert "checkpoints/best/model.safetensors" in names


def test_paths_become_names() -> None:
    value = {
        "/home/me/a.json": ["run /home/me/runs/x (last)", "https://example.org/a/b", "a/b", 3],
        "/home/you/a.json": {"C:\\data\\b.json": None},
    }
    assert strip_paths(value) == {
        "a.json": ["run x (last)", "https://example.org/a/b", "a/b", 3],
        "a.json (2)": {"b.json": None},
    }


def test_a_file_that_tells_a_folder_is_not_sent(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "plugins/0_mine.py").write_text(f"DATA = '{tmp_path}/data'\n")
    with pytest.raises(HubError, match=r"plugins/0_mine\.py of .* contains the local path"):
        HubUpload.from_run(run, REPO)
