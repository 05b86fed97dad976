#!/bin/sh
# Installs neurotrale into an image; apptainer.def and Dockerfile run the same steps.
#
#   install.sh requirements   what it needs and the viewer, pinned, into a virtual environment
#   install.sh package        the package itself, and its command
#
# Both work in a directory that holds the files they install.
set -eu

place=/opt/neurotrale

# Bases differ in what their umask and the builder's leave behind: any user must be able to read it.
umask 022

case ${1-} in
    requirements)
        # A base may forbid pip outside of virtual environments (PEP 668).
        python3 -m venv "$place"
        "$place/bin/python" -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
            --progress-bar off -r requirements.txt -r container/requirements-build.txt
        # Of this package only the built viewer is used, not what its Python needs.
        "$place/bin/python" -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
            --progress-bar off --no-deps -r requirements-viewer.txt
        ;;
    package)
        "$place/bin/python" -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
            --no-deps --no-build-isolation .
        "$place/bin/python" -m pip uninstall --quiet --yes setuptools pip
        # The image is read-only when it runs: what is not compiled now is compiled at every start.
        "$place/bin/python" -m compileall -q -j 0 "$place/lib"
        ln -s "$place/bin/neurotrale" /usr/local/bin/neurotrale
        mkdir -p /data
        ;;
    *)
        echo "usage: $0 requirements|package" >&2
        exit 2
        ;;
esac
