"""What is to be built, and why. Read without torch.

spec -> its newest version -> checksum of all that building it would read -> kept, or a reason
"""

from dataclasses import dataclass
from pathlib import Path

from nyquist.export.inputs import inputs_sha256
from nyquist.export.outcome import Built
from nyquist.export.report.record import read_report
from nyquist.models.spec import ModelSpec
from nyquist.server.artifact.layout import complete_versions
from nyquist.server.artifact.manifest import MODEL_FILE, Manifest, read_manifest
from nyquist.server.wire.errors import ArtifactError


@dataclass(frozen=True)
class Plan:
    """What is to happen to one model.

    Attributes:
        spec: of it.
        kept: what is in the repository, if building it again would give the same; else None.
        reason: why it is built, or is not.
    """

    spec: ModelSpec
    kept: Built | None
    reason: str


def is_reported(repository: Path, manifest: Manifest) -> bool:
    """Whether the measurements for the page of this version are there."""
    try:
        report = read_report(repository, manifest.name)
    except ValueError:
        return False
    return report.graph_sha256 == manifest.files[f"{manifest.version}/{MODEL_FILE}"]


def plan(spec: ModelSpec, repository: Path) -> Plan:
    """Say whether a model must be built.

    Raises:
        OSError: its weights or samples cannot be read.
    """
    folder = repository / spec.name
    versions = complete_versions(folder) if folder.is_dir() else []
    if not versions:
        return Plan(spec, None, "new")
    try:
        manifest = read_manifest(folder, versions[-1])
        if manifest.origin.inputs_sha256 != inputs_sha256(spec):
            return Plan(spec, None, "inputs changed")
        own = [path for path in manifest.files if path.startswith(f"{manifest.version}/")]
        contents = {path: manifest.read_file(folder, path) for path in own}
    except ArtifactError as error:
        return Plan(spec, None, f"damaged: {error}")
    if not is_reported(repository, manifest):
        return Plan(spec, None, "its measurements are missing")
    size = len(contents[f"{manifest.version}/{MODEL_FILE}"])
    return Plan(spec, Built(manifest, size, seconds=0.0), "unchanged")
