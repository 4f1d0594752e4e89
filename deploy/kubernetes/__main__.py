"""Write components/monitoring/rules.yaml from the rules that Prometheus reads in compose.

deploy/prometheus/rules/*.yml -> PrometheusRule, which the Helm chart reads too
"""

from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
SOURCES = FOLDER.parent / "prometheus" / "rules"
TARGET = FOLDER / "components" / "monitoring" / "rules.yaml"
HEAD = "# Written by `python -m deploy.kubernetes` from deploy/prometheus/rules; change those.\n"


class Dumper(yaml.SafeDumper):
    """Queries of several lines stay readable."""


def _text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _text)


def rules() -> str:
    """Return the PrometheusRule as YAML."""
    labels = {"app.kubernetes.io/name": "nyquist", "app.kubernetes.io/instance": "nyquist"}
    groups = [
        group
        for path in sorted(SOURCES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "nyquist", "labels": labels},
        "spec": {"groups": groups},
    }
    return HEAD + yaml.dump(rule, Dumper=Dumper, sort_keys=False, width=110, allow_unicode=True)


if __name__ == "__main__":
    TARGET.write_text(rules(), encoding="utf-8")
