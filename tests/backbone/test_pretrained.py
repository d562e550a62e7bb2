"""Weights from servers, against a small one of our own that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save

from resnet_tasks.backbone.downloads import fetch_hub_file
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import WeightsError
from tests.support.hub_server import Server, point_at

TINY = "test_resnet"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def hub(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """Points hub client and torch.hub at the server and at empty caches."""
    point_at(server.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return server


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    torch.manual_seed(5)
    return save(timm.create_model(TINY).state_dict())


@pytest.fixture(scope="module")
def pth(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("pth") / "a.pth"
    torch.save(timm.create_model(TINY).state_dict(), file)
    return file.read_bytes()


@pytest.mark.parametrize("spec", ["imagenet", "timm:r160_in1k"])
def test_timm_weights_bring_constants_and_license(
    spec: str, server: Server, checkpoint: bytes
) -> None:
    server.add(f"timm/{TINY}.r160_in1k", "model.safetensors", checkpoint)
    backbone = ResNet(TINY, weights=spec, frozen_stages=1)
    # timm states 0.5 for this variant, unlike ImageNet's usual constants.
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    assert backbone.license == "apache-2.0"
    assert f"timm/{TINY}.r160_in1k" in backbone.weights_description


def test_cached_weights_need_no_server(
    server: Server, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(f"timm/{TINY}.r160_in1k", "model.safetensors", checkpoint)
    first = ResNet(TINY, weights="imagenet").state_dict()
    asked = len(server.requests)
    point_at(f"http://127.0.0.1:{_closed_port()}", monkeypatch)
    second = ResNet(TINY, weights="imagenet").state_dict()
    assert len(server.requests) == asked > 0
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("spec", ["imagenet", "hf-hub:some/model"])
def test_without_network_one_sentence_names_the_choices(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = _closed_port()
    point_at(f"http://127.0.0.1:{port}", monkeypatch)
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        ResNet(TINY, weights=spec)
    assert time.perf_counter() - start < 10
    message = str(caught.value)
    assert "\n" not in message
    for part in (spec, f"127.0.0.1:{port}", "backbone.weights=PATH", "backbone.weights=none"):
        assert part in message


def test_a_silent_server_is_given_up_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_tasks.backbone.downloads.PROBE_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        point_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        start = time.perf_counter()
        with pytest.raises(WeightsError, match="timed out"):
            ResNet(TINY, weights="imagenet")
        assert time.perf_counter() - start < 5


def test_the_environment_of_a_user_fails_fast_too(tmp_path: Path) -> None:
    code = (
        "import time; from resnet_tasks.backbone.resnet import ResNet\n"
        "start = time.perf_counter()\n"
        "try: ResNet('resnet18', weights='imagenet')\n"
        "except Exception as error: print(type(error).__name__, time.perf_counter() - start)"
    )
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{_closed_port()}",
        "HF_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    kind, seconds = done.stdout.split()
    assert kind == "WeightsError"
    assert float(seconds) < 10


def test_hub_offline_mode_is_honored(
    server: Server, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(f"timm/{TINY}.r160_in1k", "model.safetensors", checkpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        ResNet(TINY, weights="imagenet")
    assert server.requests == []


def test_hub_repositories_state_constants_and_license(server: Server, checkpoint: bytes) -> None:
    config = {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    server.add("lab/cells", "model.safetensors", checkpoint)
    server.add("lab/cells", "config.json", json.dumps(config).encode())
    server.add("lab/cells", "README.md", b"---\nlicense: mit\ntags: [a]\n---\n# Cells\n")
    backbone = ResNet(TINY, weights="hf-hub:lab/cells")
    assert backbone.mean == (0.1, 0.2, 0.3)
    assert backbone.std == (0.4, 0.5, 0.6)
    assert backbone.license == "mit"


def test_hub_repositories_without_safetensors_give_their_bin(server: Server, pth: bytes) -> None:
    server.add("lab/cells", "pytorch_model.bin", pth)
    backbone = ResNet(TINY, weights="hf-hub:lab/cells")
    assert backbone.license == "not stated in the repository"
    assert "GET /lab/cells/resolve/main/pytorch_model.bin" in server.requests


def test_non_commercial_weights_have_to_be_accepted(server: Server, checkpoint: bytes) -> None:
    server.add("lab/cells", "model.safetensors", checkpoint)
    server.add("lab/cells", "README.md", b"---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.raises(WeightsError, match=r"cc-by-nc-4\.0.*backbone\.accept_license=true"):
        ResNet(TINY, weights="hf-hub:lab/cells")
    accepted = ResNet(TINY, weights="hf-hub:lab/cells", accept_license=True)
    assert accepted.license == "cc-by-nc-4.0"


@pytest.mark.parametrize("tag", ["fb_swsl_ig1b_ft_in1k", "fb_ssl_yfcc100m_ft_in1k"])
def test_timms_non_commercial_tags_are_known(tag: str, server: Server) -> None:
    with pytest.raises(WeightsError, match="cc-by-nc"):
        ResNet("resnet18", weights=f"timm:{tag}")
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "spec", "said"),
    [
        (TINY, "hf-hub:no/body", "no repository no/body"),
        (TINY, "hf-hub:not a repo/at/all", "hf-hub:OWNER/NAME"),
        ("resnet18", "timm:a1_in2k", "did you mean timm:a1_in1k?"),
        ("seresnet18", "imagenet", "its tags are none"),
        ("resnet18", "torchvision:IMAGENET1K_V9", "torchvision:IMAGENET1K_V1"),
        ("resnet18", "torchvision:ResNet50_Weights.IMAGENET1K_V2", "torchvision:IMAGENET1K_V1"),
        ("resnet18d", "torchvision:IMAGENET1K_V1", "no resnet18d at all"),
        ("resnet18", "imagnet", "did you mean 'imagenet'?"),
        ("resnet18", "runs/mistyped", "runs/mistyped is not a folder; allowed: none, imagenet"),
        ("resnet18", "nowhere/a.pth", "there is no file"),
        ("resnet18", "https://example.org/a.pth", "a.pth#sha256=HEX"),
        ("resnet18", "https://example.org/a.pth#sha256=12", "64 hexadecimal digits"),
    ],
)
def test_wrong_specs_are_explained(name: str, spec: str, said: str) -> None:
    with pytest.raises(WeightsError) as caught:
        ResNet(name, weights=spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hub_repository_without_weights(server: Server) -> None:
    server.add("lab/cells", "config.json", b"{}")
    with pytest.raises(WeightsError, match=r"none of model\.safetensors, pytorch_model\.bin"):
        ResNet(TINY, weights="hf-hub:lab/cells")


def test_hub_files_are_held_to_the_digits_that_the_hub_states(
    server: Server, checkpoint: bytes
) -> None:
    server.add("lab/cells", "model.safetensors", checkpoint)
    server.other_etag = True
    with pytest.raises(WeightsError, match="a different sha256 than the hub states"):
        ResNet(TINY, weights="hf-hub:lab/cells")
    with pytest.raises(
        WeightsError, match="a different sha256"
    ):  # the cache is not believed either
        ResNet(TINY, weights="hf-hub:lab/cells")


def test_a_file_that_was_damaged_in_the_cache_is_fetched_anew(
    server: Server, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("lab/cells", "model.safetensors", checkpoint)
    ResNet(TINY, weights="hf-hub:lab/cells")
    blob = Path(constants.HF_HUB_CACHE) / "models--lab--cells" / "blobs"
    blob = blob / hashlib.sha256(checkpoint).hexdigest()
    blob.write_bytes(checkpoint[:-8] + b"12345678")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="is damaged in the cache"):
        ResNet(TINY, weights="hf-hub:lab/cells")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    ResNet(TINY, weights="hf-hub:lab/cells")
    assert blob.read_bytes() == checkpoint


@pytest.mark.parametrize(
    ("refusal", "said"),
    [((403, "GatedRepo"), "accepted its terms"), ((401, ""), "401")],
)
def test_hub_repositories_that_may_not_be_read(
    refusal: tuple[int, str], said: str, server: Server
) -> None:
    server.refusal = refusal
    with pytest.raises(WeightsError, match=said) as caught:
        ResNet(TINY, weights="hf-hub:lab/cells")
    assert "\n" not in str(caught.value)


def test_a_hub_out_of_order_is_told(server: Server) -> None:
    server.refusal = (503, "")
    with pytest.raises(WeightsError, match="503"):
        ResNet(TINY, weights="imagenet")


def test_a_hub_that_stops_in_mid_file_is_given_up(
    server: Server, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_tasks.backbone.downloads.HUB_STILL_SECONDS", 0.4)
    server.add("lab/cells", "model.safetensors", checkpoint)
    server.stop_after = 1000
    start = time.perf_counter()
    with pytest.raises(WeightsError, match=r"bytes in \d+\.\d s"):
        fetch_hub_file(
            "lab/cells", ("model.safetensors",), request=WeightsRequest("hf-hub:lab/cells")
        )
    assert time.perf_counter() - start < 15
    # The hub's client cannot be stopped: let it finish before the next test begins.
    server.stop_after = None
    server.closing.set()
    for thread in threading.enumerate():
        if thread.name == "fetch lab/cells":
            thread.join(timeout=20)


def test_pickles_of_the_hub_never_run(server: Server, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Attack()}, tmp_path / "evil.bin")
    server.add("lab/evil", "pytorch_model.bin", (tmp_path / "evil.bin").read_bytes())
    with pytest.raises(WeightsError, match="run code"):
        ResNet(TINY, weights="hf-hub:lab/evil")
    assert not (tmp_path / "ran").exists()


def test_url_with_sha256(server: Server, pth: bytes) -> None:
    server.files["/files/a.pth"] = pth
    digits = hashlib.sha256(pth).hexdigest()
    spec = f"{server.url}/files/a.pth#sha256={digits}"
    first = ResNet(TINY, weights=spec)
    assert first.weights_description == spec
    asked = len(server.requests)
    ResNet(TINY, weights=spec)
    assert len(server.requests) == asked


def test_url_with_another_sha256_is_not_kept(server: Server, pth: bytes) -> None:
    server.files["/files/a.pth"] = pth
    found = hashlib.sha256(pth).hexdigest()
    with pytest.raises(WeightsError) as caught:
        ResNet(TINY, weights=f"{server.url}/files/a.pth#sha256={'0' * 64}")
    assert found in str(caught.value)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    assert [each for each in folder.iterdir() if each.is_file()] == []


@pytest.mark.parametrize("fault", ["404", "cut", "refused"])
def test_url_that_fails(fault: str, server: Server, pth: bytes) -> None:
    if fault == "cut":
        server.files["/a.pth"] = pth
        server.cut_short = True
    base = f"http://127.0.0.1:{_closed_port()}" if fault == "refused" else server.url
    spec = f"{base}/a.pth#sha256={hashlib.sha256(pth).hexdigest()}"
    with pytest.raises(WeightsError) as caught:
        ResNet(TINY, weights=spec)
    assert {"404": "404", "cut": "ended after", "refused": "cannot be fetched"}[fault] in str(
        caught.value
    )


def test_torchvision_weights(server: Server, pth: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = hashlib.sha256(pth).hexdigest()[:8]
    server.files[f"/models/tiny-{digits}.pth"] = pth
    constants_ = SimpleNamespace(mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])
    entry = SimpleNamespace(
        url=f"{server.url}/models/tiny-{digits}.pth", transforms=lambda: constants_
    )
    monkeypatch.setattr(torchvision.models, "get_weight", lambda _: entry)
    backbone = ResNet(TINY, weights="torchvision:Tiny_Weights.IMAGENET1K_V1")
    assert backbone.mean == (0.1, 0.2, 0.3)
    assert "BSD-3-Clause" in backbone.license
    # The file lies where torch.hub itself would put and find it.
    assert (Path(torch.hub.get_dir()) / "checkpoints" / f"tiny-{digits}.pth").is_file()
    server.files[f"/models/tiny-{digits}.pth"] = pth + b" "
    (Path(torch.hub.get_dir()) / "checkpoints" / f"tiny-{digits}.pth").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="sha256"):
        ResNet(TINY, weights="torchvision:Tiny_Weights.IMAGENET1K_V1")
