from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from data_tools import catalog
from resnet_tasks.cli import app, recipes
from resnet_tasks.errors import DataError

RUN_RECIPE = """\
name: cells
data: {root: cells, train: [{annotations: train.json}], val: [{annotations: val.json}]}
heads: {scene: {type: unet}}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def mistake(*arguments: object) -> str:
    """What a wrong command says on standard error; one that is not answered with 2 fails."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stderr.startswith("error: ")
    return result.stderr


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "cells-1"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RUN_RECIPE, encoding="utf-8")
    labels = {"categories": [{"id": 1, "name": "cell", "isthing": 1}], "heads": {}}
    (folder / "classes.json").write_text(json.dumps(labels), encoding="utf-8")
    return folder


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `finetune` hands to the loop, in place of training."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "resnet_tasks.training.finetune_recipe.finetune_recipe",
        lambda recipe, **rest: calls.append({"recipe": recipe, **rest}),
    )
    return calls


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["finetune", "--help"], ["recipes", "list"], ["data", "--help"], ["--version"]],
)
def test_help_and_lists_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from resnet_tasks.__main__ import main\n"
        f"sys.argv = ['resnet-tasks', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'timm', 'numpy', 'resnet_tasks.recipe.schema'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_process_answers_a_mistake_with_one_line_and_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resnet_tasks", "finetune", "quikstart"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: recipe 'quikstart' is neither a file")
    assert done.stderr.rstrip().endswith("did you mean 'quickstart'?")
    assert done.stderr.count("\n") == 1


def test_version() -> None:
    assert run("--version").stdout == f"resnet-tasks {version('resnet-tasks')}\n"


def test_recipes(tmp_path: Path) -> None:
    listed = run("recipes", "list").stdout.splitlines()
    assert listed[0].startswith("quickstart ")
    assert len(listed) >= 8
    assert "type: faster_rcnn" in run("recipes", "show", "quickstart").stdout
    assert run("recipes", "copy", "quickstart", tmp_path / "my.yaml").exit_code == 0
    assert "already exists" in mistake("recipes", "copy", "quickstart", tmp_path / "my.yaml")
    assert json.loads(run("recipes", "schema").stdout)["properties"]["heads"]


def test_recipes_fit_the_terminal_and_a_pipe_gets_one_line_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    piped = run("recipes", "list").stdout.splitlines()
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout", terminal)
    recipes.list_all()
    assert max(map(len, piped)) > 80 >= max(map(len, terminal.getvalue().splitlines()))
    assert terminal.getvalue().split() == " ".join(piped).split()


def test_validate_reports_the_recipe_and_the_options_of_heads(tmp_path: Path) -> None:
    command = ("recipes", "validate", "quickstart")
    good = run(*command, "--data-root", tmp_path)
    assert good.stdout.startswith("valid: cells_multitask_resnet18: resnet18 with objects")
    assert "training.epochs: got 0" in mistake(*command, "training.epochs=0")
    told = mistake(
        *command,
        "heads.objects.options.nms=1",
        "heads.scene.options.dropout=3",
        "--data-root",
        tmp_path,
    )
    assert "heads.objects" in told
    assert "nms" in told
    assert "heads.scene" in told
    assert "dropout" in told
    assert "albumentations" in mistake(*command, "augment=[{HorizontalFlop: {}}]")


def test_finetune_hands_over_what_was_asked(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    (tmp_path / "cells").mkdir()
    out = tmp_path / "out"
    result = run(
        "finetune",
        "quickstart",
        "training.epochs=2",
        "--out",
        out,
        "--data-root",
        tmp_path,
        "--dry-run",
    )
    assert result.exit_code == 0, result.output
    (call,) = trained
    assert call["recipe"].training.epochs == 2
    assert (call["out"], call["data_root"], call["resume"]) == (out, tmp_path, None)
    assert call["dry_run"] is True


def test_the_quickstart_draws_its_data_once(
    tmp_path: Path, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, drawn = catalog.prepare, []

    def small(name: str, source: Path | None, out: Path, **rest: Any) -> Any:
        drawn.append((name, source, out))
        return real(name, source, out, train=2, val=1, size=(96, 96), **rest)

    monkeypatch.setattr(catalog, "prepare", small)
    monkeypatch.setenv("RESNET_TASKS_DATA", str(tmp_path))
    for _ in range(2):
        assert run("finetune", "quickstart").exit_code == 0
    assert drawn == [("cells", None, tmp_path / "cells")]
    assert (tmp_path / "cells" / "train.json").is_file()
    assert len(trained) == 2


def test_other_recipes_say_how_to_prepare_their_data(tmp_path: Path) -> None:
    told = mistake("finetune", "medical/bccd_faster_rcnn_resnet18", "--data-root", tmp_path)
    assert f"{tmp_path / 'bccd'} does not exist" in told
    assert "resnet-tasks data prepare bccd --source DIR" in told


def test_resume_takes_the_recipe_of_the_run_and_no_changes(
    run_folder: Path, trained: list[dict[str, Any]]
) -> None:
    assert run("finetune", "--resume", run_folder).exit_code == 0
    assert trained[0]["recipe"].name == "cells"
    assert trained[0]["resume"].directory == run_folder
    assert trained[0]["resume"].recipe is trained[0]["recipe"]
    assert trained[0]["accept_changed_data"] is False
    assert run("finetune", "--resume", run_folder, "--accept-changed-data").exit_code == 0
    assert trained[1]["accept_changed_data"] is True
    assert "needs --resume RUN" in mistake("finetune", "quickstart", "--accept-changed-data")
    for option, folder in (("--seeds", "seed-N"), ("--folds", "fold-N")):
        told = mistake("finetune", "quickstart", "--accept-changed-data", option, 2, "--out", "a")
        assert f"{option} compares runs on the same data and excludes --accept-changed-data" in told
        assert f"finetune --resume DIR/{folder} --accept-changed-data" in told
    told = mistake("finetune", "training.epochs=3", "--resume", run_folder)
    assert "omit training.epochs=3" in told
    told = mistake("finetune", "quickstart", "training.seed=3", "--resume", run_folder)
    assert "omit training.seed=3" in told
    assert "not of cells_multitask_resnet18" in mistake(
        "finetune", "quickstart", "--resume", run_folder
    )
    assert "omit --out" in mistake("finetune", "--resume", run_folder, "--out", "x")
    assert "is not a run folder" in mistake("finetune", "--resume", run_folder.parent)
    assert len(trained) == 2


def test_finetune_needs_a_recipe() -> None:
    assert "resnet-tasks recipes list" in mistake("finetune")


def test_plugins_run_only_when_trusted(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    recipe, trace = tmp_path / "mine.yaml", tmp_path / "trace"
    recipe.write_text("plugins: [heads.py]\n" + RUN_RECIPE, encoding="utf-8")
    (tmp_path / "heads.py").write_text(f"open({str(trace)!r}, 'w').close()\n", encoding="utf-8")
    told = mistake("finetune", recipe)
    assert str(tmp_path / "heads.py") in told
    assert "--trust-plugins" in told
    assert not trace.exists()
    assert not trained
    assert run("finetune", recipe, "--trust-plugins").exit_code == 0
    assert trace.exists()
    assert len(trained) == 1


def test_stopping_is_answered_with_130(monkeypatch: pytest.MonkeyPatch, run_folder: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnet_tasks.training.finetune_recipe.finetune_recipe", stop)
    result = run("finetune", "--resume", run_folder)
    assert result.exit_code == 130
    assert result.stderr.startswith("stopped: ")
    assert "Traceback" not in result.output


def test_a_message_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch, run_folder: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DataError("a[/b] [red]c[/red] " + "word " * 60 + "end")

    monkeypatch.setattr("resnet_tasks.training.finetune_recipe.finetune_recipe", fail)
    told = mistake("finetune", "--resume", run_folder)
    assert told.startswith("error: a[/b] [red]c[/red] word")
    assert told.count("\n") == 1


@pytest.mark.parametrize("verb", [["evaluate"], ["predict", "--score", "0.5"]])
def test_verbs_on_runs_refuse_other_folders(verb: list[str], tmp_path: Path) -> None:
    images = [tmp_path] if verb[0] == "predict" else []
    assert f"{tmp_path} is not a run folder" in mistake(*verb, tmp_path, *images)


def test_images_without_annotations_are_refused(tmp_path: Path) -> None:
    assert "--annotations" in mistake("evaluate", tmp_path, "--images", tmp_path)


def test_heads_and_backbones() -> None:
    listed = run("heads").stdout
    assert "detection, reads C2, C3, C4, C5" in listed
    assert "options: pooling, dropout" in listed
    assert listed.endswith("resnet-tasks heads NAME\n")
    rows = [line.split() for line in run("backbones", "resnet18*").stdout.splitlines()[1:]]
    assert {row[0] for row in rows} == {"resnet18", "resnet18d"}
    listed = [" ".join(row) for row in rows]
    assert listed[0] == "resnet18 11.2 1.81 timm:a1_in1k (imagenet) 73.16 288 apache-2.0"
    assert "resnet18 11.2 1.81 timm:fb_swsl_ig1b_ft_in1k 73.29 224 cc-by-nc-4.0*" in listed
    assert run("backbones", "skresnet50").stdout.split()[-5:] == ["4.09", *"----"]
    assert "no backbone matches 'vgg*'" in mistake("backbones", "vgg*")


def test_prepare_cells_and_check_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_TASKS_DATA", str(tmp_path))
    command = ("data", "prepare", "cells", "train=2", "val=1", "size=[96,128]")
    made = run(*command)
    assert made.exit_code == 0, made.output
    assert "train: 2 images; objects: granular" in made.stdout
    assert "overwrite" in mistake(*command)
    assert run(*command, "--overwrite").exit_code == 0
    checked = run("data", "check", tmp_path / "cells" / "train.json", "--read-images")
    assert checked.exit_code == 0
    assert "2 images, granular, striated, lobed; " in checked.stdout
    assert "error" not in checked.stdout


def test_a_data_set_is_measured(tmp_path: Path) -> None:
    run("data", "prepare", "cells", "train=2", "val=1", "--out", tmp_path / "cells")
    file = tmp_path / "cells" / "train.json"
    result = run("data", "stats", file, "data.channels=1", "--out", tmp_path / "drawn.png")
    assert result.exit_code == 0, result.output
    assert "2 images" in result.output
    assert "normalize: {mean: [0." in result.output
    assert (tmp_path / "drawn.png").is_file()
    renamed = file.with_name("renamed.json")
    renamed.write_text(file.read_text().replace('"granular"', '"background"'))
    for command in ("stats", "preview"):
        result = run("data", command, renamed, "--out", tmp_path / f"{command}.png")
        assert result.exit_code == 0, result.output
    assert "has 3 channel" in mistake("data", "stats", file, "data.channels=5")
    assert "only data.channels" in mistake("data", "stats", file, "training.epochs=2")
    assert "does not exist" in mistake("data", "stats", tmp_path / "none.json")


def test_check_exits_with_2_for_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text("[1]", encoding="utf-8")
    result = run("data", "check", file)
    assert result.exit_code == 2
    assert "error:" in result.stdout
    assert str(file) in result.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["prepare", "cels"], "did you mean 'cells'?"),
        (["prepare", "cells", "trian=2"], "has no option 'trian'"),
        (
            ["prepare", "cells", "train=two"],
            "option train of the format 'cells': got 'two'; allowed",
        ),
        (["prepare", "cells", "train"], "not of the form key=value"),
        (
            ["prepare", "bccd"],
            "needs a source, the folder that the dataset was unpacked to or its archive: clone",
        ),
        (["prepare", "own.yaml"], "the dataset own.yaml cannot be read"),
        (["convert", "vox", "x", "y"], "did you mean 'voc'?"),
        (["convert", "voc", "x"], "data convert voc needs SOURCE, the data to read, and OUT"),
        (["convert", "voc", "/nowhere", "y"], "/nowhere"),
    ],
)
def test_data_mistakes(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in mistake("data", *arguments)
    assert not list(tmp_path.iterdir())


def test_data_sets_are_listed() -> None:
    listed = run("data", "prepare").stdout
    for name in ("bccd", "camvid", "dsb2018", "cells"):
        assert f"\n  {name} " in f"\n{listed}"
    assert "(MIT)\n" in listed
    assert "  https://github.com/Shenggan/BCCD_Dataset\n" in listed
    assert "  voc             Pascal VOC" in (formats := run("data", "convert").stdout)
    options = "options: classes, one_based, relative, copy_images, license_name"
    assert options in " ".join(formats.split())


def test_a_format_is_converted(tmp_path: Path, shared_data: Path) -> None:
    made = run("data", "convert", "voc", shared_data / "bccd", tmp_path / "out", "license_name=MIT")
    assert made.exit_code == 0, made.output
    assert "train: 205 images" in made.stdout
    assert (tmp_path / "out" / "val.json").is_file()


def test_coco_is_exported_and_converted_back(tmp_path: Path) -> None:
    assert (
        run("data", "prepare", "cells", "train=1", "val=1", "--out", tmp_path / "coco").exit_code
        == 0
    )
    made = run("data", "export", "yolo", tmp_path / "coco", tmp_path / "yolo", "shapes=polygons")
    assert made.exit_code == 0, made.output
    assert "val: 1 image;" in made.stdout
    back = run("data", "convert", "yolo", tmp_path / "yolo", tmp_path / "again")
    assert back.exit_code == 0, back.output
    # Numbers as keys are what the message of another format proposes.
    keyed = ("data", "convert", "nifti", tmp_path / "yolo", tmp_path / "no", "classes={1: liver}")
    assert "has no volumes with labels" in mistake(*keyed)
    assert "yolo  data.yaml" in run("data", "export").stdout
    assert "needs SOURCE, a COCO file" in mistake("data", "export", "voc", tmp_path / "coco")
    assert "did you mean 'yolo'" in mistake("data", "export", "yool", tmp_path, tmp_path / "x")


def test_one_of_several_processes_says_which_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(app, ["recipes", "show", "nonsense"])
    assert result.exit_code == 2
    assert result.stderr.startswith("process 1: error: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "{run}", ""), "the argument after '{run}' is empty"),
        (("predict", "{run}", "a.png", "--out="), "'--out=' has no value"),
        (("evaluate", ""), "the argument after 'evaluate' is empty"),
        (("", "finetune"), "the argument after 'resnet-tasks' is empty"),
    ],
)
def test_empty_arguments_are_not_the_current_folder(
    run_folder: Path, words: tuple[str, ...], said: str
) -> None:
    told = mistake(*(each.format(run=run_folder) for each in words))
    assert said.format(run=run_folder) in told
    assert "is a shell variable unset?" in told


def test_predict_says_what_is_lacking(run_folder: Path, tmp_path: Path) -> None:
    assert "give images, videos or folders, or --list FILE" in mistake("predict", run_folder)
    told = mistake("predict", run_folder, tmp_path, "--actors", 2)
    assert "--actors requires a Ray cluster" in told
