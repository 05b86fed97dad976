#!/bin/sh
# Starts the service in a container; images have this file as /apps/entrypoint.sh.
#
#   docker run IMAGE [OPTIONS]
#   apptainer run IMAGE.sif [OPTIONS]
#   apptainer run IMAGE.sif /apps/entrypoint.sh [OPTIONS]
#
# OPTIONS are those of `neurotrale serve`; a command (serve, demo) may stand before them.
set -eu

# On 127.0.0.1 no published port would reach the service.
NEUROTRALE_HOST=${NEUROTRALE_HOST:-0.0.0.0}
export NEUROTRALE_HOST

# `apptainer run` puts the command after the image's own, which is this file already.
if [ "${1-}" = /apps/entrypoint.sh ] || [ "${1-}" = "$0" ]; then
    shift
fi

case ${1-} in
    serve | demo | --version) ;;
    *) set -- serve "$@" ;;
esac

# exec: signals of the container's runtime, or of Slurm, reach the service itself.
exec neurotrale "$@"
