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

# picked: print the answers in standard input; what else is there, such as a greeting of the login
# shell, goes to the terminal
picked() {
    local line mark='neurotrale-answer: '
    while IFS= read -r line || [[ -n $line ]]; do
        if [[ $line = *"$mark"* ]]; then
            [[ -z ${line%%"$mark"*} ]] || say "${line%%"$mark"*}"
            printf '%s\n' "${line#*"$mark"}"
        else
            say "$line"
        fi
    done
}

# start_ssh WORDS: start ssh with a connection of its own, because a shared one would keep the port of
# a tunnel after its end. What it says also goes to a file. When this process dies, in whatever
# way, standard input of the command that ssh runs ends, and with it the tunnel.
start_ssh() {
    (
        exec 4>&-
        exec "${ssh[@]}" -S none -o LogLevel=INFO -o ExitOnForwardFailure=yes -o ConnectTimeout=30 \
            -o ServerAliveInterval=15 "$@" <&5 5<&- >/dev/null 2> >(exec tee -a "$place/said" >&2)
    ) &
}

# pause SECONDS: sleep, but end at a signal at once
pause() {
    sleep "$1" 4>&- &
    wait $!
}

# alive PROCESS...: succeed if all of them run
alive() {
    local process
    for process in "$@"; do
        kill -0 "$process" 2>/dev/null || return 1
    done
}

# works PROCESS...: wait until the service answers through the tunnel; fail if it does not, and set
# `obstacle` to the reason that ssh gives
works() {
    local tries
    for ((tries = 0; tries < 20; tries++)); do
        [[ $(answer_of 127.0.0.1 "$local_port") != HTTP/* ]] || return 0
        obstacle=$(obstacle_in "$place/said")
        [[ -z $obstacle ]] && alive "$@" || return 1
        pause 0.5
    done
    obstacle=silent
    return 1
}

# obstacle_in FILE: find the reason for the end of a tunnel in what ssh said
obstacle_in() {
    case $(cat "$1") in
        *'cannot listen to port'* | *'Address already in use'* | *'request local forwarding'*) echo taken ;;
        *'dministratively prohibited'*) echo forbidden ;;
        *'ame or service not known'* | *'name resolution'* | *'unknown host'* | *'resolve hostname'*) echo unresolved ;;
        *'Connection refused'*) echo refused ;;
        *'timed out'* | *'No route to host'*) echo silent ;;
    esac
}

# open_tunnel: open it to the service that the facts of `follow` name, and succeed if that answers
open_tunnel() {
    local first
    : >"$place/said"
    if [[ $address != - ]]; then
        start_ssh -L "$local_port:$address:$port" "$login" "$(call hold "$session" "$job")"
        tunnel=($!)
        works "${tunnel[@]}" && return
        close_tunnel
        [[ $obstacle != taken ]] || return 1
        [[ -n $obstacle ]] || return 1 # the job has just ended
    fi
    first=$obstacle
    say "launch: $(why "$first" "$node" "$port" "$login"); trying to log in to $node through it"
    : >"$place/said"
    start_ssh "$login" "$(call hold "$session" "$job")"
    tunnel=($!)
    start_ssh -L "$local_port:$target:$port" -J "$login" "$user@$node" 'cat >/dev/null'
    tunnel+=($!)
    works "${tunnel[@]}" && return
    close_tunnel
    if [[ $obstacle != taken && $obstacle != forbidden ]]; then
        # What remains is that nodes take no logins.
        say "launch: $node does not take this login, either; see the message of ssh above."
        obstacle=$first
    fi
    return 1
}

close_tunnel() {
    kill ${tunnel[@]+"${tunnel[@]}"} 2>/dev/null || true
    wait ${tunnel[@]+"${tunnel[@]}"} 2>/dev/null || true
    tunnel=()
}

# follow SESSION: keep a tunnel to the job that serves, and to each that continues it
follow() {
    local session=$1 facts code told='' job node address port token obstacle user target tunnel=() pause_s=1
    place=$(mktemp -d)
    trap 'close_tunnel; rm -rf "$place"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' HUP TERM
    # The end that is written to is open in this process alone; see start_ssh.
    mkfifo "$place/pipe"
    exec 3<>"$place/pipe" 4>"$place/pipe" 5<"$place/pipe" 3>&-
    while :; do
        code=0
        facts=$(on_login --marked await "$session" | picked) || code=$?
        case $code in
            0) ;;
            255)
                # The first time it may be the password, and must not be tried again and again.
                [[ -n $told ]] || fail 1 "no connection to $login; see the message of ssh above. 'launch --login $login tunnel $session' tries again."
                ((pause_s = pause_s < 30 ? 2 * pause_s : 60))
                say "no connection to $login; trying again in $pause_s seconds"
                pause "$pause_s"
                continue
                ;;
            3) exit 3 ;;
            *)
                # A session that was served until now was stopped.
                [[ -z $told ]] || fail 3 "session $session is over"
                exit "$code"
                ;;
        esac
        read -r job node address port token obstacle user target <<<"$facts"
        [[ -n ${target-} ]] || fail 1 "$login did not say where the session is, but: $facts"
        token=${token#-}
        if open_tunnel; then
            pause_s=1
            if [[ -z $told ]]; then
                printf '%s\n' "" "The tunnel is open while this command runs. Ctrl-C closes it; the job goes on." \
                    "Open  http://localhost:$local_port/${token:+token/$token/}" \
                    "Stop  launch --login $login stop $session"
                told=yes
            fi
            say "tunnel to job $job on $node, port $port"
            while alive "${tunnel[@]}"; do
                pause 1
            done
            close_tunnel
        elif [[ $obstacle = taken ]]; then
            fail 1 "port $local_port of this computer is in use. Choose another: launch --login $login --local-port $((local_port + 1)) tunnel $session"
        elif [[ -n $obstacle && -z $told ]]; then
            fail 1 "there is no tunnel: $(why "$obstacle" "$node" "$port" "$login"). See 'Firewalls' in slurm/README.md. The job goes on: launch --login $login stop $session"
        else
            ((pause_s = pause_s < 30 ? 2 * pause_s : 60))
            pause "$pause_s"
        fi
        pause 1
    done
}

case $command in
    submit)
        if [[ -z $tunnel ]]; then
            on_login submit ${words[@]+"${words[@]}"} ${no_wait:+"$no_wait"} -- ${options[@]+"${options[@]}"}
            exit
        fi
        refuse_taken_port
        session=$(on_login --marked submit ${words[@]+"${words[@]}"} --no-wait -- ${options[@]+"${options[@]}"} | picked)
        [[ $session =~ ^[0-9]+$ ]] || fail 1 "$login did not say which job it submitted, but: $session"
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
