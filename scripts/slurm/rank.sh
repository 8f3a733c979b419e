#!/usr/bin/env bash
# One srun task: SLURM's variables under the names that torch reads, then the command in place of this shell, so that
# signals and exit codes are its own. Every task sees all GPUs of its node and takes the one of its LOCAL_RANK.
set -euo pipefail

# Tasks of this node, from a list such as "4(x2),3": 4 on nodes 0 and 1, 3 on node 2.
tasks_here() {
    local part count times node=0
    for part in ${SLURM_STEP_TASKS_PER_NODE//,/ }; do
        count="${part%%(*}" times=1
        [[ "$part" == *"(x"* ]] && times="${part##*(x}" && times="${times%)}"
        node=$((node + times))
        if [ "$SLURM_NODEID" -lt "$node" ]; then
            echo "$count"
            return
        fi
    done
}

export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS"
LOCAL_WORLD_SIZE="$(tasks_here)"
export LOCAL_WORLD_SIZE
# Until training has its own handlers: a signal during the imports kills no rank, and srun, which sends SIGTERM to the
# other ranks when one has died, leaves them the time to say which.
trap '' TERM USR1
exec "$@"
