#!/bin/sh
# Installs neurotrale into an image; used by both apptainer.def and Dockerfile.
#
#   install.sh requirements   install its pinned requirements and the viewer into a virtual environment
#   install.sh package        install the package itself, and its command
#
# Run it in the directory of the files that it installs.
set -eu

venv=/opt/neurotrale

# The umask differs between base images and builders; every user must be able to read the files.
umask 022

case ${1-} in
    requirements)
        # Some base images forbid pip outside of virtual environments (PEP 668).
        python3 -m venv "$venv"
        "$venv/bin/python" -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
            --progress-bar off -r requirements.txt -r container/requirements-build.txt
        # Only the built viewer in this package is used, so its Python requirements are not needed.
        "$venv/bin/python" -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
            --progress-bar off --no-deps -r requirements-viewer.txt
        ;;
    package)
        "$venv/bin/python" -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
            --no-deps --no-build-isolation .
        "$venv/bin/python" -m pip uninstall --quiet --yes setuptools pip
        # A running image is read-only: modules that are not compiled now are compiled at every start.
        "$venv/bin/python" -m compileall -q -j 0 "$venv/lib"
        ln -s "$venv/bin/neurotrale" /usr/local/bin/neurotrale
        mkdir -p /data
        ;;
    *)
        echo "usage: $0 requirements|package" >&2
        exit 2
        ;;
esac
