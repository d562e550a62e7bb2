from __future__ import annotations

import re
import subprocess
import sys

import pytest
import timm
from torch import nn

from resnet_tasks.backbone.build_catalog import list_weight_sets, measure_cost
from resnet_tasks.backbone.catalog import forbids_commercial_use, list_variants, read_sources
from resnet_tasks.backbone.family import list_backbones
from resnet_tasks.backbone.pretrained import load_weights
from resnet_tasks.errors import WeightsError
from tests.support.paths import ROOT

KNOWN = {each.name: each for each in list_variants()}
SAMPLES = ["resnet18", "resnetv2_50x1_bit", "nf_resnet26", "legacy_seresnet50"]
LIMITED = [
    (variant.name, each.spec)
    for variant in KNOWN.values()
    for each in variant.weights
    if forbids_commercial_use(each.license)
]
has_the_catalogs_timm = pytest.mark.skipif(
    f"timm {timm.__version__};" not in read_sources()["licenses"],
    reason="the catalog was made with another timm: resnet_tasks.backbone.build_catalog",
)


@has_the_catalogs_timm
def test_every_variant_is_listed() -> None:
    assert list(KNOWN) == list_backbones()


@has_the_catalogs_timm
def test_every_weight_set_has_its_license_and_default() -> None:
    for name, variant in KNOWN.items():
        found = list_weight_sets(name, {})
        assert [(each.spec, each.license, each.is_default) for each in variant.weights] == [
            (each.spec, each.license, each.is_default) for each in found
        ]
        for listed, each in zip(variant.weights, found, strict=True):
            if each.spec.startswith("torchvision:"):
                assert (listed.top1, listed.image_size) == (each.top1, each.image_size)
        assert sum(each.is_default for each in variant.weights) == bool(variant.weights)


@pytest.mark.parametrize(
    "name", [*SAMPLES, *(pytest.param(each, marks=pytest.mark.slow) for each in KNOWN)]
)
def test_sizes_and_work_are_those_of_the_built_net(name: str) -> None:
    assert measure_cost(name) == (KNOWN[name].parameters, KNOWN[name].multiply_adds)


def test_counts_agree_with_a_count_by_hand() -> None:
    """He et al. 2015, Table 1, gives 1.8e9 for ResNet-18; here layer by layer."""
    stem = 64 * 3 * 49 * 112**2
    convolutions = 4 * 64 * 64 * 9 * 56**2
    for width, size in ((128, 28), (256, 14), (512, 7)):
        entry = (width // 2) * width * (9 + 1)
        convolutions += (entry + 3 * width * width * 9) * size**2
    assert KNOWN["resnet18"].multiply_adds == stem + convolutions
    assert KNOWN["resnet18"].parameters == 11_689_512 - 513_000  # torchvision's, less its fc


def test_published_figures_are_read_at_the_largest_images() -> None:
    row = {"model": "resnet18.a1_in1k", "top1": "71.498", "img_size": "224"}
    larger = row | {"top1": "73.164", "img_size": "288"}
    first, *others = list_weight_sets("resnet18", {"resnet18.a1_in1k": [row, larger]})
    assert (first.spec, first.top1, first.image_size) == ("timm:a1_in1k", 0.73164, 288)
    assert all(each.top1 is None for each in others if each.spec.startswith("timm:"))
    assert KNOWN["resnet18"].weights[0] == first


def test_figures_are_fractions_or_absent() -> None:
    sets = [each for variant in KNOWN.values() for each in variant.weights]
    assert len(sets) > 240
    for each in sets:
        assert (each.top1 is None) == (each.image_size is None), each
        assert each.top1 is None or 0.4 < each.top1 < 0.9, each
    unknown = [each.spec for each in sets if each.top1 is None]
    assert unknown.count("timm:goog_in21k") == 6  # no ImageNet-1k classifier, so no figure


def test_the_weights_known_to_be_limited_are_limited() -> None:
    """Facebook's (semi-, weakly) supervised ones: CC BY-NC 4.0, say timm's cards."""
    every = [(variant.name, each.spec) for variant in KNOWN.values() for each in variant.weights]
    pattern = re.compile(r"timm:fb_(ssl|swsl|wsl)_")
    assert sorted(LIMITED) == sorted(each for each in every if pattern.match(each[1]))
    assert len(LIMITED) == 15


@pytest.mark.parametrize(("name", "spec"), LIMITED)
def test_limited_weights_are_refused_without_consent(name: str, spec: str) -> None:
    with pytest.raises(WeightsError, match=r"cc-by-nc-4\.0.*backbone\.accept_license=true"):
        load_weights(nn.Module(), spec, name)


def test_a_limited_default_is_refused_too() -> None:
    names = [
        each.name
        for each in KNOWN.values()
        if each.weights and forbids_commercial_use(each.weights[0].license)
    ]
    assert names
    for name in names:
        with pytest.raises(WeightsError, match=r"'imagenet'.*cc-by-nc-4\.0"):
            load_weights(nn.Module(), "imagenet", name)


@pytest.mark.parametrize(
    ("license_name", "limited"),
    [
        ("cc-by-nc-4.0", True),
        ("CC BY-NC-SA 4.0", True),
        ("cc_by_nc", True),
        ("Non-Commercial use only", True),
        ("noncommercial", True),
        ("apache-2.0", False),
        ("mit", False),
        ("bsd-3-clause", False),
        ("ncsa", False),
        ("not stated", False),
    ],
)
def test_licenses_are_read(license_name: str, limited: bool) -> None:
    assert forbids_commercial_use(license_name) == limited


def test_listing_does_not_import_torch() -> None:
    code = (
        "import sys; from resnet_tasks.backbone.catalog import list_variants; "
        "assert len(list_variants('resnet18*')) == 2; "
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_about_backbones_tells_the_same() -> None:
    page = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) at (\d+) px", page)
    assert len(rows) == 11
    for name, parameters, work, top1, pixels in rows:
        variant = KNOWN[name]
        default = variant.weights[0]
        assert default.is_default
        assert default.top1 is not None
        assert (parameters, work, top1, pixels) == (
            f"{variant.parameters / 1e6:.1f}",
            f"{variant.multiply_adds / 1e9:.2f}",
            f"{100 * default.top1:.2f}",
            str(default.image_size),
        ), name
    total = sum(len(variant.weights) for variant in KNOWN.values())
    assert f"{len(KNOWN)} variants by name, with {total} weight sets" in page
    figures = {each.spec: each.top1 for each in KNOWN["resnet50"].weights if each.top1}
    assert f"has {len(KNOWN['resnet50'].weights)} sets" in page
    for best in (min(figures, key=figures.__getitem__), max(figures, key=figures.__getitem__)):
        assert f"{100 * figures[best]:.2f} (`{best}`)" in page
