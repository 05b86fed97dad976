# The container that a job runs in, and the directories it sees. Sourced by `serve.sbatch` and
# `ingest.sbatch`, which have `fail`; the command is in the array `run`.
# shellcheck shell=bash

bound=()

# begin IMAGE: go on with `bind`, and with `run+=(IMAGE)` at the end
begin() {
    local engine
    [[ -r $1 ]] || fail "there is no image $1 on $(hostname). Set NEUROTRALE_IMAGE or NEUROTRALE_COMMAND."
    engine=$(command -v apptainer || command -v singularity) ||
        fail "there is neither apptainer nor singularity on $(hostname). Add its directory to PATH in ${NEUROTRALE_SITE:-$HOME/.neurotrale/site}, or set NEUROTRALE_COMMAND."
    run=("$engine" run)
    # Without FUSE an image can only be used when it is unpacked first, which takes some seconds.
    if ! [[ -r /dev/fuse && -w /dev/fuse ]] && ! "$engine" exec "$1" true >/dev/null 2>&1; then
        echo 'neurotrale: the image cannot be mounted here, so it is unpacked at each start' >&2
        export APPTAINER_UNSQUASH=1 SINGULARITY_UNSQUASH=1
    fi
}

# bind DIRECTORY: show it to the container under this name and under its real one, so that absolute
# links inside the data lead to the same place as outside, whichever of the two they have.
bind() {
    local place known
    for place in "$1" "$(realpath "$1")"; do
        for known in ${bound[@]+"${bound[@]}"}; do
            [[ $place != "$known" ]] || continue 2
        done
        bound+=("$place")
        case $place in
            *[,:\"]*) # --bind would take these for its own punctuation
                place="\"source=${place//\"/\"\"}\",\"destination=${place//\"/\"\"}\""
                run+=(--mount "type=bind,$place")
                ;;
            *) run+=(--bind "$place") ;;
        esac
    done
}

# bind_links DIRECTORY LEVELS: also bind what the links in its upper levels lead to. Deeper ones, where
# chunks are, are not looked at: that would take too long.
bind_links() {
    local link target real
    real=$(realpath "$1")
    while IFS= read -r -d '' link; do
        target=$(realpath -e "$link" 2>/dev/null) || continue # `check` finds those that lead nowhere
        [[ $target/ != "$real"/* ]] || continue
        # Under the name that the link has for it, too, if that goes through other links.
        case $(readlink "$link") in
            /*) [[ ! -d $target ]] || bind "$(readlink "$link")" ;;
        esac
        [[ -d $target ]] || target=$(dirname "$target")
        bind "$target"
    done < <(find "$real" -maxdepth "$2" -type l -print0)
}

# existing PATH: print it, or the nearest directory above it that exists
existing() {
    local place=$1
    [[ $place = /* ]] || place=$PWD/$place
    while ! [[ -d $place ]]; do
        place=$(dirname "$place")
    done
    printf '%s\n' "$place"
}
