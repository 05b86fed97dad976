# Prints how to reach a running service, and how to stop it; asks whether one answers. Sourced by
# `launch` and `balance`.
# shellcheck shell=bash

# steps JOB NODE ADDRESS PORT LOGIN LOCAL_PORT PATH [NOTE]: ADDRESS is where the login node reaches the
# service; - if it does not.
steps() {
    local through_node="     ssh -N -L $6:localhost:$4 -J $5 $(id -un)@$2"
    printf '%s\n' "The service answers: job $1 on $2, port $4." \
        '1. On your own computer, start this and leave it running:'
    if [[ $3 != - ]]; then
        printf '%s\n' "     ssh -N -L $6:$3:$4 $5" '   or, if you can log in to the nodes with ssh:'
    fi
    cat <<HELP
$through_node
2. Open  http://localhost:$6/$7${8:+
   $8}
3. To stop:
     scancel --signal=TERM --batch $1
HELP
}

# answer_of ADDRESS PORT: print the first line that the service answers
answer_of() {
    local line
    exec 3<>"/dev/tcp/$1/$2" || return 1
    printf 'GET /api/health HTTP/1.0\r\n\r\n' >&3
    read -r -t 5 line <&3 || line=''
    exec 3>&-
    printf '%s\n' "$line"
} 2>/dev/null
