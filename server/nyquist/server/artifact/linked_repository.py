"""ONNX files that lie anywhere, as a repository: links in a folder of their own, while they serve.

model.onnx -> model/1/model.onnx, and the files beside it that hold its weights
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from nyquist.server.artifact.graph_facts import read_graph_facts
from nyquist.server.artifact.manifest import MODEL_FILE
from nyquist.server.artifact.model_files import check_weight_names
from nyquist.server.wire.errors import ArtifactError


@contextmanager
def linked_repository(files: Sequence[Path]) -> Iterator[Path]:
    """Lay ONNX files out as models, each by the name of its file without the ending.

    Args:
        files: each to be exchanged while it is served, since it is a link that is read.

    Raises:
        ArtifactError: there is no such file, it is no ONNX file, or two have one name.
    """
    with TemporaryDirectory(prefix="nyquist-") as name:
        repository = Path(name)
        for file in files:
            _link(file, repository)
        yield repository


def _link(file: Path, repository: Path) -> None:
    version = repository / file.stem / "1"
    if version.exists():
        raise ArtifactError(f"two files are called {file.name}; each model needs its own name")
    try:
        weights = read_graph_facts(file.read_bytes()).weight_files
        check_weight_names(weights)
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {error.strerror}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    for link, source in {
        MODEL_FILE: file,
        **{name: file.parent / name for name in weights},
    }.items():
        (version / link).parent.mkdir(parents=True, exist_ok=True)
        (version / link).symlink_to(source.absolute())
