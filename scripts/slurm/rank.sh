#!/usr/bin/env bash
# One srun task: give SLURM's variables the names that torch reads, then replace this shell by the command, which so
# gets signals itself and sets the exit code. Every task sees all GPUs of its node and takes the one of its LOCAL_RANK.
set -euo pipefail

# The number of tasks on this node, from a list such as "4(x2),3": 4 on nodes 0 and 1, 3 on node 2.
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
# Ignored until training sets its own handlers, so that a signal during the imports kills no rank. And when a rank has
# died, srun sends SIGTERM to the others, which then still have the time to say which one.
trap '' TERM USR1
exec "$@"
