"""python export/build.py: the same as nyquist build, from a checkout."""

import sys

from nyquist.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(["build", *sys.argv[1:]]))
