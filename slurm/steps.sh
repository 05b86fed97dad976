# Prints how to reach a running service, and how to stop it. Sourced by `launch` and `balance`.
# shellcheck shell=bash

# steps JOB NODE PORT LOGIN LOCAL_PORT PATH [NOTE]
steps() {
    cat <<HELP
The service answers: job $1 on $2, port $3.
1. On your own computer, start this and leave it running:
     ssh -N -L $5:$2:$3 $4
   or, if you can log in to the nodes with ssh:
     ssh -N -L $5:localhost:$3 -J $4 $(id -un)@$2
2. Open  http://localhost:$5/$6${7:+
   $7}
3. To stop:
     scancel --signal=TERM --batch $1
HELP
}
