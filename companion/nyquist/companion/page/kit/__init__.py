"""What the companion's pages and the build report share: words, pictures, frame and look."""

from pathlib import Path


def report_folder(repository: Path) -> Path:
    """Return where the report of a repository lies: beside it, as `model_report` does.

    Not inside: Triton takes every folder of a repository for a model, and by default does not start
    when one is none.
    """
    repository = repository.absolute()
    return repository.with_name(f"{repository.name.removesuffix('_repository')}_report")
