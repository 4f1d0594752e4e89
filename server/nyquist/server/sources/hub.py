"""Models on the Hugging Face Hub, at one commit at a time.

revision -> commit -> files of that commit, however often the revision moves meanwhile
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nyquist.server.sources.address import Address
from nyquist.server.sources.store import FileStore, RemoteFile
from nyquist.server.sources.watch import Watch


class HubStore(FileStore):
    """A revision of a repository.

    Args:
        files: its file system, of huggingface_hub.
        address: org/name@revision/folder.
        watch: hears of every file; the library of the Hub has its own ways of fetching one.
    """

    def __init__(self, files: Any, address: Address, watch: Watch) -> None:  # noqa: ANN401 - fsspec has no types
        super().__init__(files, address, watch)
        org, name, *folders = address.place.split("/")
        name, _, self._revision = name.partition("@")
        self._repository, self._folder = f"{org}/{name}", "".join(f"/{one}" for one in folders)

    def listing(self) -> Mapping[str, RemoteFile]:
        from huggingface_hub import HfApi

        commit = HfApi().repo_info(self._repository, revision=self._revision or None).sha
        self._root = f"{self._repository}@{commit}{self._folder}"
        return super().listing()

    def fetch(self, path: str, target: Path) -> None:
        self._files.get_file(f"{self._root}/{path}", str(target))
        self._watch.received(target.stat().st_size)
