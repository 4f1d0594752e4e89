"""How the reference shows docstrings: a griffe extension, loaded by mkdocs.yml."""

import re
from typing import Any

from griffe import Extension, Module, Object

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).+)*", re.MULTILINE)


class Reference(Extension):
    """Examples as code, and everything once."""

    def on_object(self, *, obj: Object, **_: Any) -> None:  # noqa: ANN401 - griffe's own are many
        """Fence what begins with `>>>`, which Markdown would take for a quotation."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)

    def on_module_members(self, *, mod: Module, **_: Any) -> None:  # noqa: ANN401 - as above
        """Leave out what a room takes from its own modules: it is shown where it is made."""
        if mod.path.count(".") > 1:
            taken = [
                name
                for name, member in mod.members.items()
                if member.is_alias and member.target_path.startswith(f"{mod.path}.")
            ]
            for name in taken:
                del mod.members[name]
