"""Write the dashboards for Grafana: python -m deploy.grafana [FOLDER].

promql + panels -> overview, model, validation, rollout -> dashboards/*.json
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.model import model
from deploy.grafana.overview import overview
from deploy.grafana.rollout import rollout
from deploy.grafana.validation import validation

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS: dict[str, Callable[[], dashboard.Dashboard]] = {
    "overview": overview,
    "model": model,
    "validation": validation,
    "rollout": rollout,
}


def main(folder: Path) -> None:
    """Write each dashboard to a file of its own in a folder."""
    for name, make in DASHBOARDS.items():
        text = json.dumps(make().build(), cls=JSONEncoder, indent=2, sort_keys=True)
        (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
