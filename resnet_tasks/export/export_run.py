"""Export of a run into a folder that is kept only if its predictions match those of the model."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from resnet_tasks.assemble.labels import build_combined_heads
from resnet_tasks.errors import RunError
from resnet_tasks.export.graph import ExportGraph
from resnet_tasks.export.latency import measure_latency
from resnet_tasks.export.model_comparison import (
    DEFAULT_IMAGES,
    ComparisonImages,
    compare_with_model,
    load_comparison_images,
)
from resnet_tasks.export.output_comparison import EXACT
from resnet_tasks.export.quantization import Int8Options, quantize_and_evaluate
from resnet_tasks.export.write_graphs import write_onnx, write_openvino
from resnet_tasks.exported.engines import PACKAGES, import_extra
from resnet_tasks.exported.manifest import (
    GRAPHS,
    ExportedCombiner,
    ExportedHead,
    Manifest,
    PixelRange,
)
from resnet_tasks.files.atomic import replace_folder
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.plugins import copy_plugins
from resnet_tasks.runs.evaluate_run import weights_sha256
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.versions import find_versions
from resnet_tasks.structures.predictions.comparison import Tolerance

PACKAGE = __name__.partition(".")[0]
"""Name of the package of the built-in tasks and combiners."""
Format = Literal["onnx", "openvino"]


@dataclass(frozen=True)
class ExportResult:
    """Exported folder and its manifest.

    Attributes:
        folder: Folder with the graph and `export.json`.
        manifest: Contents of `export.json`.
    """

    folder: Path
    manifest: Manifest


def export_run(
    run: Run,
    out: Path,
    *,
    form: Format = "onnx",
    int8: Int8Options | None = None,
    checkpoint: str = "last",
    comparison_images: ComparisonImages = DEFAULT_IMAGES,
    data_root: Path | None = None,
    console: Console | None = None,
    tolerance: Tolerance = EXACT,
) -> ExportResult:
    """Export a run's model, compare it with the model on real images, and keep it if they agree.

    Args:
        run: Run whose model is exported.
        out: Path of the folder to create.
        form: Format of the graph, `onnx` or `openvino`.
        int8: Options of int8 quantization; None: float32 weights.
        checkpoint: `last` or `best`.
        comparison_images: Images to compare predictions on.
        data_root: Folder that holds the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: Console for progress; default: stderr.
        tolerance: Allowed differences between the float32 model and the float32 export.

    Raises:
        DataError: If there are no images to compare on.
        HeadError: If a head cannot be exported.
        RunError: If `out` exists, a package is missing, or the export differs from the model.
    """
    console = console or Console(stderr=True)
    if out.exists():
        raise RunError(f"{out} already exists; remove it or choose another --out")
    if int8 is not None and form != "openvino":
        raise RunError("int8 is available only for OpenVINO graphs; add --format openvino")
    for package in ("onnx", PACKAGES[form], *(("nncf",) if int8 else ())):
        import_extra(package)
    if int8 is not None and run.recipe.sliding is not None:
        raise RunError(
            f"{run.directory} predicts in windows, and the metric of an export cannot be measured "
            "with windows; export without --int8"
        )
    model = _copy_to_cpu(run.load_model(checkpoint))
    manifest = _build_manifest(run, model, form, checkpoint)
    graph = ExportGraph(model, manifest.pixels).eval()
    images = load_comparison_images(run, comparison_images, data_root)
    with replace_folder(out, overwrite=False) as partial:
        manifest = replace(manifest, plugins=_copy_plugins(run, model, partial))
        _write_graph(graph, manifest, partial)
        metadata, manifest = compare_with_model(
            model, manifest, partial, images, tolerance, console
        )
        if int8 is not None:
            metadata["int8"] = quantize_and_evaluate(
                run, model, manifest, partial, int8, data_root, console
            )
            manifest = replace(manifest, is_int8=True)
        metadata["latency"] = measure_latency(model, manifest, partial, images[0])
        metadata["bytes"] = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
        manifest = replace(manifest, metadata={**manifest.metadata, **metadata})
        manifest.write(partial)
    return ExportResult(out, manifest)


def _copy_to_cpu(model: TaskModel) -> TaskModel:
    plain = model if model.device.type == "cpu" else copy.deepcopy(model).cpu()
    return plain.eval()


def _build_manifest(run: Run, model: TaskModel, form: Format, checkpoint: str) -> Manifest:
    recipe, preparation = run.recipe, run.preparation
    heads = {
        name: ExportedHead(
            recipe.heads[name].type,
            head.task,
            head.classes,
            run.category_ids[name],
            getattr(head.options, "score_threshold", None),
        )
        for name, head in model.named_heads.items()
    }
    return Manifest(
        format=form,
        heads=heads,
        categories=tuple(run.labels.categories.to_json()),
        preparation=preparation,
        pixels=PixelRange.from_preparation(preparation),
        normalization={"mean": tuple(model.mean.tolist()), "std": tuple(model.std.tolist())},
        windows=None if recipe.sliding is None else recipe.sliding.model_dump(),
        combine={
            name: ExportedCombiner(
                recipe.combine[name].type,
                head.roles,
                recipe.combine[name].options,
                head.info.classes,
                head.info.category_ids,
            )
            for name, head in build_combined_heads(recipe, run.labels).items()
        },
        metadata={
            "source": {
                "recipe": recipe.name,
                "run": run.directory.name,
                "checkpoint": checkpoint,
                "weights": weights_sha256(run.find_checkpoint(checkpoint)),
            },
            "versions": find_versions(
                ("torch", "torchvision", "onnx", "onnxruntime", "openvino", "nncf")
            ),
        },
    )


def _copy_plugins(run: Run, model: TaskModel, folder: Path) -> tuple[str, ...]:
    """Copy the plugins of the run into the export if they register a task or a combiner."""
    combined = build_combined_heads(run.recipe, run.labels).values()
    parts: list[object] = [head.task_spec for head in model.named_heads.values()]
    parts += [part for head in combined for part in (head.combiner, head.info.task_spec)]
    if all(type(part).__module__.startswith(f"{PACKAGE}.") for part in parts):
        return ()
    plugins = tuple(
        str(run.directory / plugin) if plugin.endswith(".py") else plugin
        for plugin in run.recipe.plugins
    )
    return copy_plugins(plugins, folder)


def _write_graph(graph: ExportGraph, manifest: Manifest, folder: Path) -> None:
    target = folder / manifest.graph
    traced = folder / GRAPHS["onnx"]
    write_onnx(graph, manifest.preparation.channels, traced)
    if manifest.format == "openvino":
        write_openvino(traced, target)
        traced.unlink()
