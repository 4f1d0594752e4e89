"""Render overlays and chart: run by the Python that has kubectl and Helm.

root of the repository -> JSON: objects of each overlay twice, and what is wrong with them
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import helm_python  # type: ignore[import-not-found] # of its own environment
import kubernetes_validate  # type: ignore[import-not-found] # likewise
import yaml

VERSION = "1.37"
VALUES = {"cpu": "values.yaml", "gpu": "gpu.yaml", "ha": "ha.yaml"}
KUBECTL = Path(sys.executable).with_name("kubectl")

Objects = list[dict[str, Any]]


def kustomized(folder: Path) -> Objects:
    """Return what `kubectl apply -k` would send."""
    command: list[str | Path] = [KUBECTL, "kustomize", folder]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(yaml.load_all(text, yaml.CSafeLoader))


def rendered(chart: Any, values: Any, name: str = "nyquist") -> Objects:
    """Return what a release in the namespace nyquist would send."""
    chart.validate_schema(values)
    texts = chart.render(values, name=name, namespace="nyquist").values()
    return [one for text in texts for one in yaml.load_all(text, yaml.CSafeLoader) if one]


def refusal(chart: Any, values: Any) -> str:
    """Return what Helm says against values, or nothing."""
    try:
        rendered(chart, values)
    except helm_python.HelmError as error:
        return str(error)
    return ""


def judged(objects: Objects) -> dict[str, list[str]]:
    """Return what Kubernetes would not take, and the kinds whose schema is not its own."""
    wrong, foreign = [], set()
    for one in objects:
        try:
            kubernetes_validate.validate(one, VERSION, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            foreign.add(one["kind"])
        except kubernetes_validate.ValidationError as error:
            wrong.append(f"{one['kind']} {one['metadata']['name']}: {error.message}")
    return {"wrong": wrong, "foreign": sorted(foreign)}


def main(root: Path, refused: list[Any]) -> None:
    """Print everything as one JSON object."""
    kubernetes, chart_folder = root / "deploy" / "kubernetes", root / "deploy" / "helm" / "nyquist"
    overlays = {name: kustomized(kubernetes / "overlays" / name) for name in VALUES}
    kserve = kustomized(kubernetes / "kserve")
    with helm_python.Chart.load(str(chart_folder)) as chart:
        charts = {
            name: rendered(chart, yaml.safe_load((chart_folder / file).read_text()))
            for name, file in VALUES.items()
        }
        everything = {
            "overlays": overlays,
            "charts": charts,
            "kserve": kserve,
            "other": rendered(chart, {"scaling": {"by": "none"}}, name="fashion"),
            "judged": judged([one for each in (*overlays.values(), kserve) for one in each]),
            "refusals": [refusal(chart, values) for values in refused],
            "lint": helm_python.lint(str(chart_folder))["errors"],
        }
    print(json.dumps(everything))  # noqa: T201 - its only way to answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
