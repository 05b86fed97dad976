# Sessions: their files, their jobs, and whether they answer. Sourced by `launch`.
# shellcheck shell=bash

# shellcheck source=settings.sh
. "$here/settings.sh"
state=${NEUROTRALE_STATE:-$HOME/.neurotrale}
poll_s=2

# say WORDS: print a message for the user; standard output is for programs.
say() {
    printf '%s\n' "$*" >&2
}

# fail CODE WORDS
fail() {
    say "launch: ${*:2}"
    exit "$1"
}

# queue: print a line for each of my jobs: id|state|reason|time left|expected start
queue() {
    squeue --noheader --user="$(id -un)" --format='%A|%T|%r|%L|%S' ||
        fail 1 'Slurm does not answer (squeue failed).'
}

# line_of JOB: print its line of the queue, or nothing
line_of() {
    local lines
    lines=$(queue) || exit 1
    sed -n "/^$1|/p" <<<"$lines"
}

# field SESSION NAME: print the content of one of its small files, or nothing
field() {
    cat "$state/sessions/$1/$2" 2>/dev/null || true
}

# session_of JOB-OR-SESSION
session_of() {
    local session
    for session in "$state/sessions"/*/; do
        [[ -d $session ]] || continue
        session=$(basename "$session")
        case $1 in "$session" | "$(field "$session" job)" | "$(field "$session" next)") echo "$session" && return ;; esac
    done
    fail 1 "you have no session or job $1. 'launch status' lists your sessions."
}

# job_of SESSION: print the job that serves or will serve, or nothing when the session is over
job_of() {
    local id
    # The session's own id is its first job, before that has written anything.
    for id in "$(field "$1" job)" "$(field "$1" next)" "$1"; do
        if [[ -n $id ]] && ! has_ended "$id"; then
            echo "$id" && return
        fi
    done
}

# has_ended JOB: fail unless Slurm says that the job is over. That squeue does not list it is not
# enough, because the files of a session, with its token, are removed when its job has ended.
has_ended() {
    local said
    [[ -z $(line_of "$1") ]] || return 1
    if said=$(scontrol show job "$1" 2>&1); then
        said=$(sed -n '/JobState=/{s/.*JobState=\([A-Z_]*\).*/\1/p;q;}' <<<"$said")
    fi
    case $said in
        *'Invalid job id'*) ;;
        BOOT_FAIL | CANCELLED | COMPLETED | DEADLINE | FAILED | NODE_FAIL | OUT_OF_MEMORY | PREEMPTED | REVOKED | TIMEOUT) ;;
        *) return 1 ;;
    esac
}

# log_of JOB
log_of() {
    scontrol show job "$1" 2>/dev/null | sed -n 's/^ *StdOut=//p'
}

# known SESSION KEY: print a value from its connection file
known() {
    field "$1" connection.json | sed -n "s/.*\"$2\": \"\{0,1\}\([^\",}]*\).*/\1/p"
}

# token_of SESSION: print the token made for it; nothing if the user gave a token file
token_of() {
    field "$1" tokens | sed -n '1s/^.*://p'
}

# healthy NODE PORT
healthy() {
    curl --noproxy '*' --silent --fail --max-time 5 --output /dev/null "http://$1:$2/api/health"
}

# in_words REASON START: print why a job is pending
in_words() {
    local words
    words=$(reason_in_words "$1")
    case $2 in N/A | '') ;; *) words+=", expected to start at $2" ;; esac
    echo "$words"
}

reason_in_words() {
    case $1 in
        None) echo 'Slurm has not considered it yet' ;;
        Resources) echo 'it is next in line; the nodes it needs are in use' ;;
        Priority) echo 'jobs of higher priority are ahead of it' ;;
        Dependency) echo 'the job before it is still running' ;;
        BeginTime) echo 'its start time has not come yet' ;;
        PartitionTimeLimit) echo 'the partition does not allow such a long job; request less --time' ;;
        PartitionNodeLimit) echo 'the partition does not allow so many nodes; request fewer --nodes' ;;
        PartitionConfig | BadConstraints) echo 'no node of the partition has the requested resources' ;;
        PartitionDown | PartitionInactive) echo 'the partition is out of service; choose another --partition' ;;
        ReqNodeNotAvail* | *DOWN*) echo 'nodes it needs are down, drained or reserved' ;;
        JobHeldUser) echo "you put it on hold; release it with 'scontrol release'" ;;
        JobHeldAdmin) echo 'an administrator put it on hold' ;;
        Reservation) echo 'its reservation has not begun' ;;
        Licenses) echo 'the licenses it needs are in use' ;;
        QOS* | Assoc* | MaxCpuPerAccount | *Limit*) echo 'a limit of your account or quality of service is reached' ;;
        *) echo 'Slurm gives no further reason' ;;
    esac | sed "s/\$/ ($1)/"
}

# await SESSION: wait until it answers, then print its job, node, port and token. Exit code 3: it is over.
await() {
    local session job told='' words status reason start unreached=0
    session=$(session_of "$1")
    while :; do
        job=$(job_of "$session") || exit 1
        [[ -n $job ]] || over "$session"
        IFS='|' read -r _ status reason _ start <<<"$(line_of "$job")"
        case $status in
            PENDING) words="is pending: $(in_words "$reason" "$start")" ;;
            RUNNING)
                words='is running; waiting until the service answers'
                if [[ $(field "$session" job) = "$job" && -n $(known "$session" port) ]]; then
                    if healthy "$(known "$session" node)" "$(known "$session" port)"; then
                        say "job $job is running and healthy"
                        break
                    fi
                    # The service does answer on its node, because it wrote the connection file.
                    if ((++unreached > 15)); then
                        say "job $job is running, but $(hostname) cannot reach it, perhaps because of a firewall: see 'Firewalls' in README.md."
                        break
                    fi
                fi
                ;;
            *) words="is ${status:-ending}" ;;
        esac
        if [[ $words != "$told" ]]; then
            say "job $job $words"
            told=$words
        fi
        sleep "$poll_s"
    done
    echo "$job $(known "$session" node) $(known "$session" port) $(token_of "$session")"
}

# over SESSION: print how it ended, and clean up
over() {
    local job log
    job=$(field "$1" job)
    log=$(log_of "${job:-$1}")
    say "session $1 is over${log:+; the end of its log, $log:}"
    [[ -z $log ]] || tail -n 10 "$log" >&2 || true
    forget "$1"
    exit 3
}

# forget SESSION: remove its files, with the token, which is void now
forget() {
    rm -rf "${state:?}/sessions/${1:?}"
}
