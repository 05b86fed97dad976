#!/bin/sh
# Starts the service, or any other command of neurotrale, in a container. Installed in images as
# /apps/entrypoint.sh.
#
#   docker run IMAGE [OPTIONS]
#   apptainer run IMAGE.sif [OPTIONS]
#   apptainer run IMAGE.sif /apps/entrypoint.sh [OPTIONS]
#
# OPTIONS are those of `neurotrale serve`. To run another command, put its name before them: a first
# word without a slash is a command, so write directories with a slash.
set -eu

# `apptainer run` appends the command to the runscript, which already runs this file.
if [ "${1-}" = /apps/entrypoint.sh ] || [ "${1-}" = "$0" ]; then
    shift
fi

case ${1-} in
    --version) ;;
    '' | -* | . | */*) set -- serve "$@" ;;
esac

# Apptainer shares the network of its host, where 127.0.0.1 is sufficient and any other address would
# be open to the cluster. A Docker container has its own network, where published ports do not reach
# 127.0.0.1; its health check finds the service through the ready file.
if [ -z "${APPTAINER_CONTAINER-}${SINGULARITY_CONTAINER-}" ]; then
    export NEUROTRALE_HOST="${NEUROTRALE_HOST:-0.0.0.0}"
    if { [ -e /.dockerenv ] || [ -e /run/.containerenv ]; } && [ -w /tmp ]; then
        export NEUROTRALE_READY_FILE="${NEUROTRALE_READY_FILE:-/tmp/neurotrale-ready.json}"
    fi
fi

# Apptainer passes the environment of the host on: a cluster's environment module must not add its
# Python packages.
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP

# exec, so that signals of the container runtime or of Slurm reach the service itself.
exec neurotrale "$@"
