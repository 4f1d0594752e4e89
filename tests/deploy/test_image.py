import json
from fnmatch import fnmatch
from pathlib import Path

import pytest
from pydantic import BaseModel

from nyquist.companion.settings import Settings as CompanionSettings
from nyquist.server.settings import COMPANION_PREFIX, PREFIX, Settings

Instructions = list[tuple[str, str]]


def stages(instructions: Instructions) -> dict[str, Instructions]:
    """Return the instructions of each stage by its name, with those of its parent."""
    found: dict[str, Instructions] = {}
    name = ""
    for word, text in instructions:
        if word == "FROM":
            parent, _, name = text.partition(" AS ")
            found[name] = list(found.get(parent, []))
        else:
            found[name].append((word, text))
    return found


IMAGES = {"server-cpu": "serve", "server-gpu": "serve", "companion": "companion"}
"""The targets that are run, and what each does unless it is told otherwise."""


@pytest.fixture(scope="session")
def images(instructions: Instructions) -> dict[str, Instructions]:
    """Return what the images are made by; the last, which no target asks for, is the server's."""
    found = stages(instructions)
    assert list(found)[-1] == "server-cpu"
    return {name: found[name] for name in IMAGES}


def variables(stage: Instructions) -> dict[str, str]:
    """Return the environment that a stage sets."""
    pairs = (pair for word, text in stage if word == "ENV" for pair in text.split())
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


every = pytest.mark.parametrize("image", list(IMAGES))


@every
def test_an_image_runs_as_a_numeric_user_that_is_not_root(
    images: dict[str, Instructions], image: str
) -> None:
    users = [text for word, text in images[image] if word == "USER"]
    assert users == ["10001:10001"]


@every
def test_an_image_starts_its_program_and_stops_it_with_sigterm(
    images: dict[str, Instructions], image: str
) -> None:
    assert json.loads(dict(images[image])["ENTRYPOINT"]) == ["nyquist"]
    assert json.loads(dict(images[image])["CMD"]) == [IMAGES[image]]
    assert dict(images[image])["STOPSIGNAL"] == "SIGTERM"


@pytest.mark.parametrize(
    ("image", "prefix", "settings"),
    [
        ("server-cpu", PREFIX, Settings),
        ("server-gpu", PREFIX, Settings),
        ("companion", COMPANION_PREFIX, CompanionSettings),
    ],
)
def test_every_variable_of_an_image_is_a_setting_of_its_program(
    images: dict[str, Instructions], image: str, prefix: str, settings: type[BaseModel]
) -> None:
    set_here = {
        name: value for name, value in variables(images[image]).items() if "NYQUIST" in name
    }
    assert set_here == {f"{prefix}HOST": "0.0.0.0", f"{prefix}REPOSITORY": "/models"}  # noqa: S104 - all addresses of the container
    known = {f"{prefix}{name.upper()}" for name in settings.model_fields}
    assert set(set_here) <= known


@pytest.mark.parametrize(
    ("image", "settings", "names"),
    [
        ("server-cpu", Settings, ("port", "metrics_port")),
        ("server-gpu", Settings, ("port", "metrics_port")),
        ("companion", CompanionSettings, ("port", "http_port")),
    ],
)
def test_an_image_exposes_the_ports_of_its_program(
    images: dict[str, Instructions], image: str, settings: type[BaseModel], names: tuple[str, ...]
) -> None:
    ports = [settings.model_fields[name].default for name in names]
    assert dict(images[image])["EXPOSE"].split() == [str(port) for port in ports]


def test_the_image_copies_only_what_exists_and_reaches_the_builder(
    root: Path, instructions: Instructions
) -> None:
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")]
    assert "*" in lines
    copies = [text.split() for word, text in instructions if word == "COPY"]
    sources = [
        source for words in copies if not words[0].startswith("--from=") for source in words[:-1]
    ]
    assert len(sources) > 4
    for source in sources:
        assert any(root.glob(source)), f"{source} does not exist"
        top = source.split("/")[0]
        assert any(fnmatch(source, one) or top == one for one in allowed), f"{source} is ignored"


def test_every_package_is_installed_by_hash(root: Path, instructions: Instructions) -> None:
    installs = [
        step
        for word, text in instructions
        if word == "RUN"
        for step in text.split("&&")
        if " install " in step
    ]
    assert len(installs) == 4
    assert [step for step in installs if "--require-hashes" not in step] == []
    script = (root / "deploy/install.sh").read_text(encoding="utf-8")
    local = [line for line in script.splitlines() if " install " in line or " wheel " in line]
    assert len(local) == 2
    assert [line for line in local if "--no-index --no-deps" not in line] == []
    for lock in (
        "deploy/build-requirements.txt",
        "requirements/server-cpu.txt",
        "requirements/companion-cpu.txt",
    ):
        assert "--hash=sha256:" in (root / lock).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("runtime", "package"), [("cpu", "onnxruntime=="), ("gpu", "onnxruntime-gpu==")]
)
def test_each_runtime_has_a_lock_that_holds_its_onnxruntime(
    root: Path, instructions: Instructions, runtime: str, package: str
) -> None:
    builder = stages(instructions)[f"build-server-{runtime}"]
    assert any(f"-r /locks/server-{runtime}.txt" in text for _, text in builder)
    lock = root / "requirements" / f"server-{runtime}.txt"
    runtimes = [
        line.split(" ")[0]
        for line in lock.read_text(encoding="utf-8").splitlines()
        if line.startswith("onnxruntime")
    ]
    assert [line for line in runtimes if not line.startswith((package, package[:-2] + "["))] == []
    assert len(runtimes) == 1


def test_the_wheel_is_built_by_the_backend_that_the_project_names(root: Path) -> None:
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    lock = (root / "deploy" / "build-requirements.txt").read_text(encoding="utf-8")
    (backend,) = [line.split()[0] for line in lock.splitlines() if line.startswith("hatchling")]
    assert f'requires = ["{backend}"]' in project


def test_no_registry_is_named_but_pytorchs_own_index_of_cpu_wheels(root: Path) -> None:
    for name in ("deploy/Dockerfile", "deploy/build-requirements.txt", "docker-compose.yml"):
        text = (root / name).read_text(encoding="utf-8")
        assert "index-url" not in text
        index = "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu\n"
        assert ("https://" in text.replace(index, "")) is False
        assert (index in text) is (name == "deploy/Dockerfile")


def test_the_health_check_of_the_server_is_a_module_that_its_image_has(
    root: Path, images: dict[str, Instructions]
) -> None:
    command = json.loads(dict(images["server-cpu"])["HEALTHCHECK"].partition("CMD ")[2])
    assert command == ["python", "-m", "nyquist.server.healthcheck"]
    assert (root / "server/nyquist/server/healthcheck.py").is_file()


def test_the_health_check_of_the_companion_asks_it_at_its_port(
    images: dict[str, Instructions],
) -> None:
    python, flag, program = json.loads(
        dict(images["companion"])["HEALTHCHECK"].partition("CMD ")[2]
    )
    assert (python, flag) == ("python", "-c")
    compile(program, "HEALTHCHECK", "exec")
    port = CompanionSettings.model_fields["http_port"].default
    assert f"http://127.0.0.1:{port}/healthz" in program
    assert "ProxyHandler({})" in program, "a proxy of the environment is asked for itself"


def test_the_companions_lock_has_torch_for_the_processor_alone(root: Path) -> None:
    lock = (root / "requirements" / "companion-cpu.txt").read_text(encoding="utf-8")
    names = [line.split(" ")[0] for line in lock.splitlines() if line[:1].isalnum()]
    assert [name for name in names if name.startswith("torch")] == ["torch==2.13.0+cpu"]
    assert not [name for name in names if name.startswith(("nvidia", "onnxruntime-gpu", "cuda"))]
    assert [name for name in names if name.startswith("onnxruntime==")], "runs ONNX references"
