# `launch` on your own computer: copies itself to the login node, and keeps the tunnel open.
# Sourced by `launch`; also runs in the old bash of macOS.
# shellcheck shell=bash

files=(launch session.sh settings.sh steps.sh serve.sbatch container.sh resubmit balance)
there=.neurotrale/slurm
# NEUROTRALE_SSH: another ssh command, or options for it
read -ra ssh <<<"${NEUROTRALE_SSH:-ssh}"

# on_login WORDS: run this version of launch on the login node
on_login() {
    COPYFILE_DISABLE=1 tar -C "$here" -cf - "${files[@]}" | "${ssh[@]}" "$login" \
        "sh -c 'umask 077 && mkdir -p $there && tar -C $there -xf -' && $(call "$@")"
}

# call WORDS: print the command line of launch on the login node, quoted for a shell
call() {
    printf 'env NEUROTRALE_LOGIN=%q %q/launch --local-port %q' "$login" "$there" "$local_port"
    printf ' %q' "$@"
}

# refuse_taken_port: fail before anything is queued
refuse_taken_port() {
    ! (exec 3<>"/dev/tcp/127.0.0.1/$local_port") 2>/dev/null ||
        fail 1 "port $local_port of this computer is in use. Choose another with --local-port."
}

# follow SESSION: keep a tunnel to the job that serves, and to each that continues it
follow() {
    local session=$1 facts code told='' job node port token
    # An empty input that stays open: when this computer disconnects, `hold` sees its end.
    local pipe
    pipe=$(mktemp -u)
    mkfifo "$pipe"
    exec 3<>"$pipe"
    rm "$pipe"
    while :; do
        code=0
        facts=$(on_login await "$session") || code=$?
        case $code in
            0) ;;
            255)
                say "no connection to $login; trying again"
                sleep 5
                continue
                ;;
            3) exit 3 ;;
            *)
                # A session that was served until now was stopped.
                [[ -z $told ]] || fail 3 "session $session is over"
                exit "$code"
                ;;
        esac
        read -r job node port token <<<"$facts"
        if [[ -z $told ]]; then
            printf '%s\n' "" "The tunnel is open while this command runs. Ctrl-C closes it; the job goes on." \
                "Open  http://localhost:$local_port/${token:+token/$token/}" \
                "Stop  launch --login $login stop $session"
            told=yes
        fi
        say "tunnel to job $job on $node, port $port"
        "${ssh[@]}" -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 -L "$local_port:$node:$port" "$login" \
            "$(call hold "$session" "$job")" <&3 &
        trap 'kill $! 2>/dev/null || true' EXIT
        wait $! || say 'the tunnel was closed; trying again'
        trap - EXIT
        sleep 1
    done
}

case $command in
    submit)
        if [[ -z $tunnel ]]; then
            on_login submit ${words[@]+"${words[@]}"} ${no_wait:+"$no_wait"} -- ${options[@]+"${options[@]}"}
            exit
        fi
        refuse_taken_port
        session=$(on_login submit ${words[@]+"${words[@]}"} --no-wait -- ${options[@]+"${options[@]}"})
        follow "$session"
        ;;
    tunnel)
        ((${#words[@]})) || fail 2 "the session is missing; 'launch --login $login status' lists your sessions."
        refuse_taken_port
        follow "${words[0]}"
        ;;
    status | stop)
        on_login "$command" ${words[@]+"${words[@]}"}
        exit
        ;;
    *) usage >&2 && exit 2 ;;
esac
