# Settings: of the site file, of the environment, and what jobs are given of them. Sourced by
# `session.sh` and `ingest`.
# shellcheck shell=bash

site=${NEUROTRALE_SITE:-$HOME/.neurotrale/site}
if [[ -r $site ]]; then
    set +eu # for `module` and the like, which use variables that are not set
    # shellcheck source=/dev/null
    . "$site"
    set -eu
fi

# What users set for their own eyes would change what is read here.
for name in $(compgen -v SQUEUE_) $(compgen -v SCONTROL_) SLURM_TIME_FORMAT SBATCH_WAIT SBATCH_ARRAY_INX CDPATH; do
    unset "$name"
done

scripts='DATA IMAGE COMMAND HOST PORT TOKEN_FILE RESUBMIT STATE HAPROXY SITE LOGIN SSH SESSION SHARDS NODE_NAME BIND_LINKS'
# Written by `make options`.
service='ACCESS_LOG ALLOWED_HOSTS BASE_PATH CHUNK_CACHE COMPRESS CONNECTIONS CORS_ORIGINS DRAIN_TIMEOUT FOLLOW_SYMLINKS GUARD HOST LOCK LOCK_TIMEOUT LOG_FORMAT LOG_LEVEL MAX_BODY_MB METRICS_PUBLIC PORT QUEUE READY_FILE READ_ONLY SHARE SPOOL STALL_TIMEOUT THREADS TOKEN_FILE TRUSTED_PROXY UI UNIX_SOCKET WORKERS'

# is_setting NAME: without NEUROTRALE_
is_setting() {
    [[ " $scripts $service " = *" $1 "* ]]
}

# similar NAME: print the settings that one may have meant
similar() {
    local name
    for name in $scripts $service; do
        case ${name//_/} in "${1//_/}"* | *"${1//_/}") printf ' %s' "$name" && continue ;; esac
        case ${1//_/} in "${name//_/}"* | *"${name//_/}") printf ' %s' "$name" ;; esac
    done
}

# absolute PATH: print it from the root; a leading ~ is the home directory
absolute() {
    # shellcheck disable=SC2088 # no shell expands what stands in a setting
    case $1 in
        '' | /*) printf '%s\n' "$1" ;;
        '~') printf '%s\n' "$HOME" ;;
        '~/'*) printf '%s\n' "$HOME/${1#??}" ;;
        *) printf '%s\n' "$PWD/$1" ;;
    esac
}

# exports [WANTED]: print the value of sbatch's --export, so that a job gets its settings also where
# it is given nothing of the environment, as with SBATCH_EXPORT=NONE. Variables are named without
# their values, which may contain commas.
exports() {
    local names wanted=${1:-${SBATCH_EXPORT:-ALL}}
    names=$(compgen -e | grep -E '^(NEUROTRALE|APPTAINER|SINGULARITY)' | tr '\n' ',')
    case $wanted in
        [Nn][Oo][Nn][Ee] | [Nn][Ii][Ll]) echo "${names%,}" ;;
        [Aa][Ll][Ll]) echo ALL ;;
        *) echo "$wanted,${names%,}" ;;
    esac
}

# memory OPTIONS...: print what sbatch is to ask for, unless its options or variables name it. In the
# job scripts it would exclude --mem.
memory() {
    local option
    for option in "$@"; do
        case $option in --mem | --mem=* | --mem-per-*) return ;; esac
    done
    [[ -n ${SBATCH_MEM_PER_CPU-}${SBATCH_MEM_PER_NODE-}${SBATCH_MEM_PER_GPU-} ]] || echo --mem-per-cpu=1G
}
