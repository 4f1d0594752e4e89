"""python export/build.py: the same as nyquist.export.build, from a checkout."""

from nyquist.export.build import main

if __name__ == "__main__":
    raise SystemExit(main())
