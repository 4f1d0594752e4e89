#!/bin/sh
# In a builder of deploy/Dockerfile: put the packages at hand into /opt/nyquist, beside the locked ones.
set -eu
pip --python /build/bin/python wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels .
pip --python /opt/nyquist/bin/python install --no-index --no-deps /wheels/*.whl
/build/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
    --output-file /opt/nyquist/sbom.cdx.json /opt/nyquist/bin/python
# Bound to the hashes of the sources and not to their times, with sets in one order, so that two builds of one
# commit have the same files; torch has files for newer Pythons, which this one cannot compile.
PYTHONHASHSEED=0 python -m compileall -qq -f --invalidation-mode unchecked-hash /opt/nyquist/lib || :
