"""Name the fields that KServe does not know: run by the Python that has its client.

objects as JSON on stdin -> a JSON list of paths
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from kserve import models as kserve_models  # type: ignore[import-not-found] # of its own environment
from kubernetes.client import (  # type: ignore[import-not-found] # likewise
    models as kubernetes_models,
)

KINDS = {
    "ClusterServingRuntime": "V1alpha1ClusterServingRuntime",
    "InferenceService": "V1beta1InferenceService",
}


def unknown(value: Any, kind: str, path: str) -> Iterator[str]:
    """Go through a value along the types that the client declares."""
    if kind.startswith("list["):
        for one in value:
            yield from unknown(one, kind[5:-1], path)
        return
    declared = getattr(kserve_models, kind, None) or getattr(kubernetes_models, kind, None)
    if declared is None:
        return
    fields = {sent: name for name, sent in declared.attribute_map.items()}
    for name, inner in value.items():
        if name not in fields:
            yield f"{path}.{name}"
        else:
            yield from unknown(inner, declared.openapi_types[fields[name]], f"{path}.{name}")


paths = [
    path for one in json.load(sys.stdin) for path in unknown(one, KINDS[one["kind"]], one["kind"])
]
print(json.dumps(paths))  # noqa: T201 - its only way to answer
