r"""Draw the dashboards: python -m tests.deploy.draw --prometheus URL --modules FOLDER.

dashboards/*.json -> draw.jsx, bundled by esbuild -> Chromium -> one PNG for each and each theme

It needs Chromium, Node, and Grafana's panel components in a folder of their own:

    npm install --prefix FOLDER --legacy-peer-deps @grafana/ui@13.2.2 @grafana/data@13.2.2 \
        react@18 react-dom@18 rxjs esbuild
    node FOLDER/node_modules/esbuild/install.js
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.deploy.promql import DASHBOARDS

HERE = Path(__file__).parent
THEMES = ("light", "dark")
ROW_PX, GAP_PX = 30, 8  # of Grafana's grid
STEPS = 180
JOBS = {"job": "nyquist", "companion": "nyquist-companion"}
LOADERS = ("svg", "woff2", "woff", "ttf")
PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="draw.css">
<body style="margin: 0"><div id="root" style="position: relative"></div>
<script>window.JOB = {job};</script><script src="draw.js"></script>
"""


def bundle(modules: Path, folder: Path) -> None:
    """Write draw.js: draw.jsx with Grafana's components.

    Raises:
        subprocess.CalledProcessError: esbuild complained, as stderr has said.
    """
    (folder / "draw.jsx").write_text((HERE / "draw.jsx").read_text(encoding="utf-8"))
    (folder / "node_modules").symlink_to(modules.resolve() / "node_modules")
    command = [
        str(modules.resolve() / "node_modules" / ".bin" / "esbuild"),
        "draw.jsx",
        *("--bundle", "--outfile=draw.js", "--jsx=automatic", "--log-level=error"),
        *(f"--loader:.{ending}=dataurl" for ending in LOADERS),
        *("--define:global=window", '--define:process.env.NODE_ENV="production"'),
    ]
    subprocess.run(command, cwd=folder, check=True, timeout=600)


def make_job(dashboard: dict[str, Any], options: argparse.Namespace, theme: str) -> dict[str, Any]:
    """Return what draw.jsx draws: a dashboard, its time and the values of its variables."""
    step_s = max(1, round(options.minutes * 60 / STEPS))
    to = int(time.time()) // step_s * step_s
    return {
        "dashboard": dashboard,
        "prometheus": options.prometheus.rstrip("/"),
        "from": to - STEPS * step_s,
        "to": to,
        "step": step_s,
        "scrape": options.scrape_s,
        "variables": JOBS | _model(dashboard, options),
        "theme": theme,
        "width": options.width,
    }


def _model(dashboard: dict[str, Any], options: argparse.Namespace) -> dict[str, str]:
    (variable,) = [one for one in dashboard["templating"]["list"] if one["name"] == "model"]
    return {"model": ".+" if variable["multi"] else options.model}


def height_px(dashboard: dict[str, Any]) -> int:
    """Return how tall a dashboard is."""
    ends = (panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    return max(ends) * (ROW_PX + GAP_PX) + GAP_PX


def picture(page: Path, size: tuple[int, int], target: Path) -> None:
    """Take a picture of a page.

    Raises:
        subprocess.CalledProcessError: Chromium failed.
        SystemExit: the page has an error, which is the message.
    """
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}"),
            *("--enable-logging=stderr", "--log-level=0"),
            *(f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=15000"),
            *(f"--screenshot={target.resolve()}", page.as_uri()),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    if errors := re.findall(r'CONSOLE.*?"(draw\.jsx: .*|Uncaught .*)"', done.stderr, re.DOTALL):
        sys.exit(f"{page.stem}: {errors[0]}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; see `python -m tests.deploy.draw --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.deploy.draw",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prometheus", required=True, metavar="URL", help="http://HOST:PORT")
    parser.add_argument(
        "--modules", required=True, type=Path, metavar="FOLDER", help="that has node_modules"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="for the pictures (here)"
    )
    parser.add_argument("--model", default="fashion_blur", help="where one is shown (%(default)s)")
    parser.add_argument("--minutes", type=float, default=15, help="up to now (%(default)s)")
    parser.add_argument(
        "--scrape-s", type=int, default=5, help="scrape interval of Prometheus (%(default)s)"
    )
    parser.add_argument("--width", type=int, default=1600, help="pixels (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every dashboard, light and dark."""
    options = parse(arguments)
    if not (options.modules / "node_modules" / "@grafana" / "ui").is_dir():
        sys.exit(f"{options.modules} has no node_modules/@grafana/ui; see --help")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle(options.modules, folder)
        for path in sorted(DASHBOARDS.glob("*.json")):
            dashboard = json.loads(path.read_text(encoding="utf-8"))
            for theme in THEMES:
                page = folder / f"{path.stem}-{theme}.html"
                job = json.dumps(make_job(dashboard, options, theme)).replace("</", "<\\/")
                page.write_text(PAGE.format(title=dashboard["title"], job=job), encoding="utf-8")
                target = options.out / f"{path.stem}-{theme}.png"
                picture(page, (options.width, height_px(dashboard)), target)
                sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main()
