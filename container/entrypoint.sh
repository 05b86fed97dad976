#!/bin/sh
# Starts the service, or any other command of neurotrale, in a container; images have this file as
# /apps/entrypoint.sh.
#
#   docker run IMAGE [OPTIONS]
#   apptainer run IMAGE.sif [OPTIONS]
#   apptainer run IMAGE.sif /apps/entrypoint.sh [OPTIONS]
#
# OPTIONS are those of `neurotrale serve`. Another command may stand before them: a first word
# without a slash is one, a directory is written with a slash.
set -eu

# `apptainer run` puts the command after the image's own, which is this file already.
if [ "${1-}" = /apps/entrypoint.sh ] || [ "${1-}" = "$0" ]; then
    shift
fi

case ${1-} in
    --version) ;;
    '' | -* | . | */*) set -- serve "$@" ;;
esac

# Apptainer shares the network of its host, where 127.0.0.1 is enough and every other address is
# open to the cluster. Docker gives a network of its own, where no published port reaches 127.0.0.1;
# there the health check finds the service by its ready file.
if [ -z "${APPTAINER_CONTAINER-}${SINGULARITY_CONTAINER-}" ]; then
    export NEUROTRALE_HOST="${NEUROTRALE_HOST:-0.0.0.0}"
    if { [ -e /.dockerenv ] || [ -e /run/.containerenv ]; } && [ -w /tmp ]; then
        export NEUROTRALE_READY_FILE="${NEUROTRALE_READY_FILE:-/tmp/neurotrale-ready.json}"
    fi
fi

# Apptainer passes the host's environment on: a module of the cluster's must not bring its packages.
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP

# exec: signals of the container's runtime, or of Slurm, reach the service itself.
exec neurotrale "$@"
