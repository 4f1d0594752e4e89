"""The pages of a model repository: an index and one for each model, whole files without links out.

manifests and report/<name>.json -> ModelPage -> families -> report/<name>.html, report/index.html
"""

from math import isfinite, log10
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from export.report import wording
from export.report.families import group
from export.report.model_page import read_page
from export.report.record import REPORT_FOLDER, write_whole
from server.repository import model_folders

TEMPLATES = Path(__file__).parent / "templates"
INDEX = "index"


def write_pages(repository: Path) -> Path:
    """Write report/<name>.html for each model of a repository, and the index; return its path.

    The same manifests and records give the same bytes. Pages and records of models that are gone
    are deleted.

    Args:
        repository: holds the models, and report/<name>.json of those that were measured.

    Raises:
        ArtifactError: the repository is no folder, or a manifest in it is damaged.
        OSError: a page cannot be written.
    """
    pages = [read_page(repository, folder) for folder in model_folders(repository)]
    families = group(pages)
    environment = page_environment()
    folder = repository / REPORT_FOLDER
    for family in families:
        for page in family.pages:
            text = environment.get_template("model.html").render(page=page, family=family)
            write_whole(folder / f"{page.name}.html", text)
    text = environment.get_template("index.html").render(families=families, pages=pages)
    write_whole(folder / f"{INDEX}.html", text)
    _remove_strangers(folder, {INDEX, *(page.name for page in pages)})
    return folder / f"{INDEX}.html"


def _remove_strangers(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        ours = path.suffix in (".html", ".json") and path.stem not in names
        if ours or path.name.endswith(".partial"):
            path.unlink()


def page_environment() -> Environment:
    """Return the templates: everything that is written into a page is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compact": wording.compact,
        "decade": wording.decade,
        "figure": wording.figure,
        "log10": log10,
        "milliseconds": wording.milliseconds,
        "percent": wording.percent,
        "short": wording.short,
        "words": lambda name: name.replace("_", " ").replace(".", ", "),
    }
    environment.tests["plottable"] = lambda value: isfinite(value) and value > 0
    environment.globals["response"] = wording.response
    return environment
