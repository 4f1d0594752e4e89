import json
from fnmatch import fnmatch
from pathlib import Path

import pytest

from server.settings import Settings

Instructions = list[tuple[str, str]]


@pytest.fixture(scope="session")
def final_stage(instructions: Instructions) -> Instructions:
    """Return the instructions of the image itself, without those of the build stage."""
    starts = [index for index, (word, _) in enumerate(instructions) if word == "FROM"]
    return instructions[starts[-1] :]


def variables(stage: Instructions) -> dict[str, str]:
    """Return the environment that a stage sets."""
    pairs = (pair for word, text in stage if word == "ENV" for pair in text.split())
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def test_the_image_runs_as_a_numeric_user_that_is_not_root(final_stage: Instructions) -> None:
    users = [text for word, text in final_stage if word == "USER"]
    assert users == ["10001:10001"]


def test_the_image_starts_the_server_and_stops_it_with_sigterm(final_stage: Instructions) -> None:
    assert json.loads(dict(final_stage)["ENTRYPOINT"]) == ["nyquist-server"]
    assert dict(final_stage)["STOPSIGNAL"] == "SIGTERM"


def test_every_variable_of_the_image_is_a_setting_of_the_server(
    final_stage: Instructions,
) -> None:
    set_here = {name: value for name, value in variables(final_stage).items() if "NYQUIST" in name}
    assert set_here == {"NYQUIST_HOST": "0.0.0.0", "NYQUIST_REPOSITORY": "/models"}  # noqa: S104 - all addresses of the container
    known = {f"NYQUIST_{name.upper()}" for name in Settings.model_fields}
    assert set(set_here) <= known


def test_the_image_exposes_the_ports_of_the_server(final_stage: Instructions) -> None:
    ports = [Settings.model_fields[name].default for name in ("port", "metrics_port")]
    assert dict(final_stage)["EXPOSE"].split() == [str(port) for port in ports]


def test_the_image_copies_only_what_exists_and_reaches_the_builder(
    root: Path, instructions: Instructions
) -> None:
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")]
    assert "*" in lines
    copies = [text.split() for word, text in instructions if word == "COPY"]
    sources = [source for words in copies if "--from=build" not in words for source in words[:-1]]
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
    assert len(installs) == 3
    for step in installs:
        assert "--require-hashes" in step or "--no-index --no-deps" in step
    for lock in ("deploy/build-requirements.txt", "requirements/server-cpu.txt"):
        assert "--hash=sha256:" in (root / lock).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("runtime", "package"), [("cpu", "onnxruntime=="), ("gpu,cuda", "onnxruntime-gpu==")]
)
def test_each_runtime_has_a_lock_that_holds_its_onnxruntime(
    root: Path, instructions: Instructions, runtime: str, package: str
) -> None:
    assert any('"/locks/server-${RUNTIME%%,*}.txt"' in text for _, text in instructions)
    lock = root / "requirements" / f"server-{runtime.split(',')[0]}.txt"
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


def test_no_machine_or_registry_is_named(root: Path) -> None:
    for name in ("deploy/Dockerfile", "deploy/build-requirements.txt", "docker-compose.yml"):
        text = (root / name).read_text(encoding="utf-8")
        assert "index-url" not in text
        assert "https://" not in text


def test_the_health_check_of_the_image_is_a_module_that_it_has(
    root: Path, final_stage: Instructions
) -> None:
    command = json.loads(dict(final_stage)["HEALTHCHECK"].partition("CMD ")[2])
    assert command == ["python", "-m", "server.healthcheck"]
    assert (root / "server" / "healthcheck.py").is_file()
