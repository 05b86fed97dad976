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

# answer WORDS: print what a program reads; marked for `launch` on another computer, where the login
# shell may print something, too
answer() {
    printf '%s%s\n' "${mark-}" "$*"
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
    fail 1 "you have no session or job $1 in $state/sessions. It is over, or was started with another NEUROTRALE_STATE. 'launch status' lists your sessions."
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

# reach SESSION: set `address` to where this machine reaches its service. If it does not, fail, and
# set `obstacle` to the reason: loopback, unresolved, refused, silent or unwell.
reach() {
    local one code
    address='' obstacle=loopback
    for one in $(addresses "$1"); do
        code=0
        [[ $one != *:* ]] || one="[$one]"
        curl --noproxy '*' --silent --fail --max-time 5 --output /dev/null "http://$one:$(known "$1" port)/api/health" || code=$?
        case $code in
            0) address=$one && return ;;
            6) [[ $obstacle != loopback ]] || obstacle=unresolved ;;
            7) obstacle=refused ;;
            28) obstacle=silent ;;
            *) obstacle=unwell ;;
        esac
    done
    return 1
}

# addresses SESSION: print where its service may be reached: by the name that the node has for itself,
# and by the address that Slurm has for it
addresses() {
    local host node
    host=$(known "$1" host) node=$(known "$1" node)
    case $host in
        127.* | ::1 | localhost) [[ $node != "$(hostname)" ]] || echo "$host" ;;
        '' | 0.0.0.0 | ::)
            echo "$node"
            node=$(scontrol show job "$(field "$1" job)" 2>/dev/null | sed -n 's/.*\bBatchHost=\([^ ]*\).*/\1/p')
            [[ -z $node ]] || scontrol show node "$node" 2>/dev/null | sed -n 's/.*\bNodeAddr=\([^ ]*\).*/\1/p'
            ;;
        *) echo "$host" ;;
    esac | awk '!seen[$0]++'
}

# target_of SESSION: print where its own node reaches the service
target_of() {
    case $(known "$1" host) in
        '' | 0.0.0.0 | :: | 127.0.0.1 | ::1) echo localhost ;;
        *) known "$1" host ;;
    esac
}

# why OBSTACLE NODE PORT LOGIN: print it in words
why() {
    case $1 in
        loopback) echo "the service listens on the loopback address of $2 alone (HOST)" ;;
        unresolved) echo "$4 does not know the name $2" ;;
        refused) echo "$2 refuses connections to port $3 from $4; a firewall may be the reason" ;;
        silent) echo "nothing comes back from port $3 of $2; a firewall may be the reason" ;;
        unwell) echo "what answers on port $3 of $2 is not healthy; the log of the job may say why" ;;
        forbidden) echo "$4 forbids the forwarding of ports (AllowTcpForwarding or PermitOpen of its sshd)" ;;
        *) echo "the service was not reached through $4" ;;
    esac
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

# await SESSION: wait until it answers. Then print its job, node, address, port, token, obstacle, user, and
# the address of the service on its own node; - for what there is not. Exit code 3: it is over.
await() {
    local session job told='' words status reason start unreached=0 address='' obstacle=''
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
                    if reach "$session"; then
                        say "job $job is running and healthy"
                        break
                    fi
                    # The service does answer on its node, because it wrote the connection file.
                    if [[ $obstacle = loopback ]] || ((++unreached > 3)); then
                        say "job $job is running, but $(hostname) does not reach it: $(why "$obstacle" "$(known "$session" node)" "$(known "$session" port)" "$(hostname)"). See 'Firewalls' in README.md."
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
    local token
    token=$(token_of "$session")
    answer "$job $(known "$session" node) ${address:--} $(known "$session" port) ${token:--} ${obstacle:--} $(id -un) $(target_of "$session")"
}

# over SESSION: print how it ended, and clean up
over() {
    local job log state_of_job
    job=$(field "$1" job)
    log=$(log_of "${job:-$1}")
    say "session $1 is over${log:+; the end of its log, $log:}"
    [[ -z $log ]] || tail -n 10 "$log" >&2 || true
    state_of_job=$(scontrol show job "${job:-$1}" 2>/dev/null | sed -n '/JobState=/{s/.*JobState=\([A-Z_]*\).*/\1/p;q;}')
    case $state_of_job in
        OUT_OF_MEMORY) say "It used more memory than the job has: submit it with more, such as -- --mem-per-cpu=4G, or with fewer WORKERS." ;;
        TIMEOUT) say 'It reached its time limit: submit it with a longer one (-- --time=04:00:00), or with RESUBMIT=5.' ;;
        NODE_FAIL | BOOT_FAIL) say 'Its node failed: submit it again.' ;;
        PREEMPTED) say 'A job of higher priority took its place: submit it again, or with another --partition or --qos.' ;;
    esac
    forget "$1"
    exit 3
}

# forget SESSION: remove its files, with the token, which is void now
forget() {
    rm -rf "${state:?}/sessions/${1:?}"
}
