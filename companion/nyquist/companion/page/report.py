"""The build report of a model repository, served as it lies there, to read only."""

import os
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""As the report's pages have it themselves: their style stands in them."""


class ReportFiles(StaticFiles):
    """The files of one folder, and nothing beside it; no link is followed.

    Args:
        folder: of the report; where it is missing, nothing is found.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=True, check_dir=False)
        self._folder = folder

    async def check_config(self) -> None:
        """Let the folder be missing: a repository need not have a report."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Find a file that is no link, nor hidden, in a folder that is none."""
        full, status = super().lookup_path(path)
        linked = Path(full) != Path(os.path.realpath(self._folder), path)
        hidden = any(part.startswith(".") for part in Path(path).parts)
        if linked or hidden or self._folder.is_symlink():
            return "", None
        return full, status

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer with the policy that the pages of a report need."""
        response = await super().get_response(path, scope)
        response.headers["content-security-policy"] = POLICY
        return response


def has_page(folder: Path, name: str) -> bool:
    """Say whether a report has a page of this name, which is one part of a path."""
    page = folder / f"{name}.html"
    return page.parent == folder and page.is_file() and not page.is_symlink()
