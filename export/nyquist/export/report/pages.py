"""The pages of a model repository: an index and one for each model, whole files without links out.

manifests and records of model_report/ -> ModelPage -> families -> a page each, and index.html
"""

from collections.abc import Mapping, Set
from math import isfinite, log10
from pathlib import Path

from jinja2 import Environment, PackageLoader

from nyquist.companion.page.kit import report_folder
from nyquist.companion.page.kit.templates import page_templates
from nyquist.companion.page.kit.wording import built, decade, milliseconds, percent, share, short
from nyquist.export.report import wording
from nyquist.export.report.families import group
from nyquist.export.report.model_page import ModelPage, read_page
from nyquist.export.report.record import write_whole
from nyquist.server.artifact.built import circular_of, one_pixel_of
from nyquist.server.artifact.layout import model_folders
from nyquist.server.wire.errors import ArtifactError

INDEX = "index"


def write_pages(repository: Path) -> Path:
    """Write the report of a repository, a page a model and the index; return the path of that.

    Measures nothing and takes a fraction of a second, so that it runs after every build: a changed
    template is seen without building again. The same manifests and records give the same bytes.
    Pages and records of models that are gone are deleted. A model with a damaged manifest has no
    page, and its reason on the index.

    Args:
        repository: holds the models; beside it lie the records of those that were measured.

    Raises:
        ArtifactError: the repository is no folder.
        OSError: a page cannot be written.
    """
    pages: list[ModelPage] = []
    damaged: dict[str, str] = {}
    for model in model_folders(repository):
        try:
            pages.append(read_page(repository, model))
        except (ArtifactError, FileNotFoundError) as error:
            damaged[model.name] = str(error).replace(f"{repository}/", "")
    families = group(pages)
    environment = page_environment()
    folder = report_folder(repository)
    for family in families:
        for page in family.pages:
            text = environment.get_template("model.html").render(page=page, family=family)
            _write_changed(folder / f"{page.name}.html", text)
    text = environment.get_template("index.html").render(
        families=families, pages=pages, damaged=damaged
    )
    _write_changed(folder / f"{INDEX}.html", text)
    names = {page.name for page in pages}
    _remove_strangers(folder, {".html": names | {INDEX}, ".json": names | set(damaged)})
    return folder / f"{INDEX}.html"


def _write_changed(path: Path, text: str) -> None:
    """Write a page, unless it reads so already."""
    if not path.is_file() or path.read_bytes() != text.encode():
        write_whole(path, text)


def _remove_strangers(folder: Path, kept: Mapping[str, Set[str]]) -> None:
    """Delete pages and records of other models, and what was left half written."""
    for path in folder.iterdir():
        gone = path.suffix in kept and path.stem not in kept[path.suffix]
        if gone or path.suffix == ".partial":
            path.unlink()


def page_environment() -> Environment:
    """Return the templates, with the words for figures."""
    environment = page_templates(PackageLoader("nyquist.export", "report/templates"))
    environment.filters |= {
        "built": built,
        "circular_of": circular_of,
        "compact": wording.compact,
        "share": share,
        "decade": decade,
        "figure": wording.figure,
        "log10": log10,
        "measured": wording.measured,
        "milliseconds": milliseconds,
        "one_pixel_of": one_pixel_of,
        "percent": percent,
        "meaning": wording.meaning,
        "short": short,
        "words": lambda name: name.replace("_", " ").replace(".", ", "),
    }
    environment.tests["plottable"] = lambda value: isfinite(value) and value > 0
    environment.globals["response"] = wording.response
    return environment
