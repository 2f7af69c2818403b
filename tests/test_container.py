"""Dockerfile and compose.yaml, without an engine: their lines are run in an empty folder."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier.export.onnx import write
from classifier.formats import FILES
from tests.export.folders import order_of, small_model, write_photos

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
Line = tuple[str, str]


def stages() -> dict[str, list[Line]]:
    """Name -> instructions and their arguments, those of the stage that it is made from first."""
    found: dict[str, list[Line]] = {}
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            parent, _, name = rest.partition(" AS ")
            found[name] = [("FROM", parent), *found.get(parent, [])]
            current = found[name]
        else:
            current.append((instruction, rest.strip()))
    return found


STAGES = stages()


def of(stage: str, instruction: str) -> list[str]:
    return [rest for name, rest in STAGES[stage] if name == instruction]


def sources(stage: str) -> list[tuple[str, str]]:
    return [(words[0], words[-1]) for words in map(shlex.split, of(stage, "COPY"))]


def test_base_image_is_pinned_and_slim() -> None:
    first = [rest for stage in STAGES for rest in of(stage, "FROM") if rest not in STAGES]
    assert first and all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", name) for name in first)


@pytest.mark.parametrize("stage", STAGES)
def test_lines_are_in_order(stage: str) -> None:
    known = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}  # fmt: skip
    assert {instruction for instruction, _ in STAGES[stage]} <= known
    for line in of(stage, "RUN"):
        subprocess.run(["bash", "-n", "-c", line], check=True)
        assert "sudo" not in line and "curl" not in line
        assert "pip install" not in line or "--require-hashes" in line
    if stage != "base":
        assert of(stage, "USER") == ["classifier"]
        order = [instruction for instruction, _ in STAGES[stage]]
        assert order.index("USER") > max(n for n, name in enumerate(order) if name == "RUN")
        for command in [*of(stage, "ENTRYPOINT"), *of(stage, "CMD")]:
            assert isinstance(json.loads(command), list)  # no shell between it and the signals


@pytest.mark.parametrize("stage", ["serve", "train"])
def test_sources_are_there_and_are_sent_to_the_engine(stage: str) -> None:
    sent = [line.removeprefix("!") for line in IGNORED if line.startswith("!")]
    assert IGNORED[1] == "*"  # a white list: what is not named stays outside
    for source, _ in sources(stage):
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, f"{name}*") for name in sent), source
    assert all((ROOT / name).exists() for name in sent)
    assert not [name for name in sent if name.startswith((".", "data", "runs"))]


def test_services_are_made_from_the_stages() -> None:
    for name, service in SERVICES.items():
        service = {**SERVICES[service["extends"]["service"]], **service} if "extends" in service else service  # fmt: skip
        assert service["build"]["target"] in STAGES, name
        assert service["cap_drop"] == ["ALL"] and "privileged" not in service
        for volume in service["volumes"]:
            where = volume.split(":")[0]
            assert where.startswith("./") or where in COMPOSE["volumes"]
    assert SERVICES["train-gpu"]["profiles"] == ["gpu"]
    (device,) = SERVICES["train-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["serve"]["ports"])


def test_no_secret_has_a_value() -> None:
    for service in SERVICES.values():
        environment = service.get("environment", [])
        assert all("=" not in name for name in environment)
    assert not re.search(r"(TOKEN|KEY|PASSWORD|SECRET)=", DOCKERFILE)


def built(stage: str, folder: Path) -> Path:
    """The folder /app of an image, but for what was installed."""
    for source, target in sources(stage):
        to = folder / (source if target == "./" else target)
        to.parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, to, ignore=ignored)
        else:
            shutil.copy(ROOT / source, to)
    return folder


def environment(python: Path) -> dict[str, str]:
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": os.environ.get("HOME", "/tmp"), "OMP_NUM_THREADS": "1"}


@pytest.mark.long
def test_training_image_holds_the_program(tmp_path: Path) -> None:
    folder = built("train", tmp_path)
    run = environment(Path(sys.executable))
    subprocess.run(["bash", "-ec", of("train", "RUN")[-1]], cwd=folder, env=run, check=True)
    entry = json.loads(of("train", "ENTRYPOINT")[0])
    shown = subprocess.run(
        [*entry, *json.loads(of("train", "CMD")[0])], cwd=folder, env=run, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "--ckpt_path" in shown.stdout
    words = ["--config", "configs/quickstart.yaml", "--print_config"]
    shown = subprocess.run(
        [*entry, *words], cwd=folder, env=run, check=True, capture_output=True, text=True
    )
    assert "timm/resnet10t" in shown.stdout


@pytest.mark.long
def test_serving_image_answers_with_what_its_lock_file_installs(tmp_path: Path) -> None:
    folder = built("serve", tmp_path / "app")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    run = environment(tmp_path / "venv" / "bin" / "python")
    for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY"):
        if name in os.environ:
            run[name] = os.environ[name]
    for line in of("serve", "RUN")[len(of("base", "RUN")) :]:
        subprocess.run(["bash", "-ec", line], cwd=folder, env=run, check=True)
    (folder / "models").mkdir()
    model = small_model("timm/test_resnet", write_photos(tmp_path / "photos"))
    write(order_of(model, format="onnx"), folder / "models")
    assert (folder / "models" / FILES["onnx"]).is_file()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [*json.loads(of("serve", "ENTRYPOINT")[0]), *json.loads(of("serve", "CMD")[0])]
    process = subprocess.Popen([*words, "--port", str(port)], cwd=folder, env=run)
    try:
        check = of("serve", "HEALTHCHECK")[0].partition("CMD ")[2].replace(":8000", f":{port}")
        for _ in range(300):
            assert process.poll() is None
            health = subprocess.run(json.loads(check), env=run, check=False, capture_output=True)
            if health.returncode == 0:
                break
            time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/info") as answer:
            assert json.load(answer)["model"]["format"] == "onnx"
        process.send_signal(signal.SIGTERM)  # as an engine stops a container
        assert process.wait(20) == 143
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
