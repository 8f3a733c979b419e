# What the .sbatch files in this folder share. The repository, the environment, data, outputs and LOG_DIR must be on a
# shared filesystem, with the same paths on all nodes.
#
# Training runs as one srun task for each GPU, without torchrun, so that it gets signals directly. Exit code 75 means
# that it was preempted and wrote a checkpoint. The job is then requeued and goes on from it, at most MAX_REQUEUES
# times.

# Variables of the job. The environment can set each of them.
: "${NODES:=1}"
: "${GPUS_PER_NODE:=8}"          # 0: a CPU job
: "${TASKS_PER_NODE:=$((GPUS_PER_NODE > 0 ? GPUS_PER_NODE : 1))}"
: "${CPUS_PER_TASK:=8}"
: "${TIME:=1-00:00:00}"
: "${ACCOUNT:=}"
: "${PARTITION:=}"
: "${SIGNAL_SECONDS:=300}"       # SIGUSR1 comes this long before the time limit; a checkpoint must fit into it
: "${MAX_REQUEUES:=50}"
: "${LOG_DIR:=runs/slurm}"       # the job's log, and a folder of its number with the resolved recipe
: "${SBATCH_FLAGS:=}"            # more flags of sbatch, such as "--qos=long --mem=0 --exclude=node7"

# shellcheck source=scripts/launch.sh
source "$LLAVA_MOCLE_ROOT/scripts/launch.sh"

# Whether this is the copy of the file that SLURM runs. SLURM_JOB_ID does not say so: it is also set in an interactive
# allocation, from which jobs can be submitted too.
in_job() { [ "$(basename "$0")" = slurm_script ]; }

# submit FILE [ARGUMENT ...]: submit the file with sbatch and the variables above. SUBMIT=(...) adds flags.
submit() {
    local flags=(--nodes="$NODES" --ntasks-per-node="$TASKS_PER_NODE" --cpus-per-task="$CPUS_PER_TASK" --time="$TIME")
    [ "$GPUS_PER_NODE" -gt 0 ] && flags+=(--gpus-per-node="$GPUS_PER_NODE")
    [ -n "$ACCOUNT" ] && flags+=(--account="$ACCOUNT")
    [ -n "$PARTITION" ] && flags+=(--partition="$PARTITION")
    flags+=(--signal="USR1@$SIGNAL_SECONDS" --requeue --open-mode=append --output="$LOG_DIR/%x-%j.log")
    mkdir -p "$LOG_DIR"
    export LLAVA_MOCLE_ROOT LOG_DIR MAX_REQUEUES
    # shellcheck disable=SC2206 # flags in a variable: split at spaces on purpose
    flags+=("${SUBMIT[@]}" $SBATCH_FLAGS)
    sbatch "${flags[@]}" "$@"
}

# submit_training DEFAULT_RECIPE [RECIPE] [--key value ...]: submit this file. With --help or --dry-run, run that here.
submit_training() {
    local recipe="$1"
    shift
    local words=("$@")
    if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
        recipe="$1"
        shift
    fi
    only_shows "$recipe" "$@"
    submit "$0" "${words[@]}"
}

# train_job prepare|"" DEFAULT_RECIPE [RECIPE] [--key value ...]: the whole of a training job.
train_job() {
    local steps="$1" recipe="$2" code=0
    shift 2
    if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
        recipe="$1"
        shift
    fi
    start_job
    [ -n "${SLURM_NTASKS:-}" ] || usage_error "this job has no number of tasks; give sbatch --ntasks-per-node, one a GPU"
    # The first start reads the recipe and the flags. A requeued job uses what they were then.
    if [ "$restarts" -eq 0 ] || [ ! -f "$job_dir/prepared" ]; then
        once=(srun --export=ALL --nodes=1 --ntasks=1 --ntasks-per-node=1)
        watch_step prepare_job "$steps" "$recipe" "$@" || code=$?
        [ "$code" -eq 0 ] || end_job "$(signalled_early "$code")"
        touch "$job_dir/prepared"
    fi
    echo "job $SLURM_JOB_ID: $SLURM_NTASKS processes on $SLURM_JOB_NODELIST, rank 0 at $MASTER_ADDR port" \
        "$MASTER_PORT; where srun says task N, it is rank N"
    local again=()
    # `resume: never` concerns what was in output_dir before the job's first start.
    if [ "$restarts" -gt 0 ] && grep -qx 'resume: never' "$job_dir/recipe.yaml"; then again=(--resume auto); fi
    watch_step srun --export=ALL --kill-on-bad-exit=1 "$LLAVA_MOCLE_ROOT/scripts/slurm/rank.sh" \
        "${LLAVA_MOCLE[@]}" train "$job_dir/recipe.yaml" "${again[@]}" || code=$?
    end_job "$code"
}

prepare_job() {
    local steps="$1"
    shift
    "${once[@]}" "${LLAVA_MOCLE[@]}" train "$@" --resolve "$job_dir/recipe.yaml" || return
    if [ "$steps" = prepare ]; then prepare "$job_dir/recipe.yaml"; fi
}

# start_job: set the variables that every job needs before its first step.
start_job() {
    unset NODE_RANK NNODES HOSTFILE # they belong to a launch without SLURM, and would stop the job from preparing
    restarts="${SLURM_RESTART_COUNT:-0}" terminated=""
    job_dir="$LOG_DIR/$SLURM_JOB_ID"
    mkdir -p "$job_dir"
    job_dir="$(cd "$job_dir" && pwd)"
    export LLAVA_MOCLE_EXIT_FILE="$job_dir/exit-$restarts"
    rm -f "$LLAVA_MOCLE_EXIT_FILE"
    export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # since 22.05, srun doesn't take it over from sbatch
    export MASTER_ADDR="${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"
    # Derived from the job's number, so that two jobs on a node have different ports. Below the range of outgoing
    # connections.
    export MASTER_PORT="${MASTER_PORT:-$((15000 + SLURM_JOB_ID % 15000))}"
}

# watch_step COMMAND...: run a step and return its exit code. If SLURM also signals this shell, the shell still waits
# for the step to end.
watch_step() {
    local code=0 child
    trap 'terminated=yes' TERM
    trap : USR1
    "$@" &
    child=$!
    wait_out "$child" || code=$?
    return "$code"
}

# end_job CODE: requeue the job after a preemption, or else end with the training's exit code.
end_job() {
    local code="$1"
    [ "$code" -eq 0 ] && exit 0
    if grep -qsx "$PREEMPTED" "$LLAVA_MOCLE_EXIT_FILE"; then
        code=$PREEMPTED # srun returns the highest code, and may have killed the slower ranks
    fi
    if [ "$code" -ne "$PREEMPTED" ]; then
        echo "job $SLURM_JOB_ID failed with exit code $code; the first error above is the cause. Once it is mended," \
            "submit again with the same output_dir: it goes on from the newest checkpoint"
    elif [ -n "$terminated" ]; then
        # A preemption with a GraceTime signals only the steps. If this shell got a signal, SLURM is ending the job.
        echo "job $SLURM_JOB_ID is not requeued by itself, for SLURM is ending it: it was cancelled, or was at its" \
            "time limit, or was preempted without a GraceTime (SLURM then requeues it)"
    elif [ "$restarts" -ge "$MAX_REQUEUES" ]; then
        echo "job $SLURM_JOB_ID was requeued $restarts times already (MAX_REQUEUES), so not again; submit it once" \
            "more if it makes progress between two signals"
    else
        # The message comes first, because SLURM may end this shell before scontrol has returned.
        echo "job $SLURM_JOB_ID is requeued (time $((restarts + 1)) of at most $MAX_REQUEUES) and goes on from its" \
            "newest checkpoint"
        if scontrol requeue "$SLURM_JOB_ID" || [ -n "$terminated" ]; then
            local left # short sleeps: a signal just before `wait` would not end a long one
            for ((left = 60; left > 0; left--)); do
                [ -z "$terminated" ] || break
                sleep 1 >/dev/null 2>&1 &
                wait $! || true
            done
            exit 0
        fi
        echo "job $SLURM_JOB_ID could not be requeued (above, scontrol says why); submit it once more"
    fi
    exit "$code"
}

# signalled_early CODE: print 75 for a step that died of SIGUSR1 or SIGTERM (nothing is lost; run it again), else CODE.
signalled_early() {
    if died_of_signal "$1"; then echo "$PREEMPTED"; else echo "$1"; fi
}
