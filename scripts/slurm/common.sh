# Sourced by the .sbatch files beside it: what they share. All nodes need the same paths: repository, environment, data,
# outputs and LOG_DIR on a shared filesystem.
#
# Training runs as one srun task a GPU, without torchrun, so that signals reach it directly. Its exit code 75 means that
# it was preempted and wrote a checkpoint: the job is requeued and goes on from it, at most MAX_REQUEUES times.

# Variables of the job, each taken from the environment where it is set there.
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

# Whether this is the copy that SLURM makes of the file. SLURM_JOB_ID alone is also set in an interactive allocation,
# from which a job is submitted like from anywhere else.
in_job() { [ "$(basename "$0")" = slurm_script ]; }

# submit FILE [WORD ...]: hand the file to sbatch with the variables above. SUBMIT=(...) adds flags.
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

# submit_training DEFAULT_RECIPE [RECIPE] [--key value ...]: submit this file; with --help or --dry-run, run that here.
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
    # The first start reads recipe and flags; a requeued job goes on with what they were.
    if [ "$restarts" -eq 0 ] || [ ! -f "$job_dir/prepared" ]; then
        once=(srun --export=ALL --nodes=1 --ntasks=1 --ntasks-per-node=1)
        watch_step prepare_job "$steps" "$recipe" "$@" || code=$?
        [ "$code" -eq 0 ] || end_job "$(signalled_early "$code")"
        touch "$job_dir/prepared"
    fi
    echo "job $SLURM_JOB_ID: $SLURM_NTASKS processes on $SLURM_JOB_NODELIST, rank 0 at $MASTER_ADDR port" \
        "$MASTER_PORT; where srun says task N, it is rank N"
    local again=()
    # `never` is about what lay there before the job's first start.
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

# start_job: what every job needs before its first step.
start_job() {
    unset NODE_RANK NNODES HOSTFILE # of a launch by hand, they would keep a job from preparing
    restarts="${SLURM_RESTART_COUNT:-0}" terminated=""
    job_dir="$LOG_DIR/$SLURM_JOB_ID"
    mkdir -p "$job_dir"
    job_dir="$(cd "$job_dir" && pwd)"
    export LLAVA_MOCLE_EXIT_FILE="$job_dir/exit-$restarts"
    rm -f "$LLAVA_MOCLE_EXIT_FILE"
    export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # since 22.05, srun doesn't take it over from sbatch
    export MASTER_ADDR="${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"
    # Derived from the job's number, so that two jobs on a node don't meet; below the range of outgoing connections.
    export MASTER_PORT="${MASTER_PORT:-$((15000 + SLURM_JOB_ID % 15000))}"
}

# watch_step COMMAND...: its exit code. SLURM may send SIGTERM to this shell as well: the step comes first.
watch_step() {
    local code=0 child
    trap 'terminated=yes' TERM
    trap : USR1
    "$@" &
    child=$!
    wait_out "$child" || code=$?
    return "$code"
}

# end_job CODE: requeue after a preemption, else end with training's exit code.
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
        # Preemption with a GraceTime signals the steps alone. A signal to this shell: for SLURM, the job is over.
        echo "job $SLURM_JOB_ID is not requeued by itself, for SLURM is ending it: it was cancelled, or was at its" \
            "time limit, or was preempted without a GraceTime (SLURM then requeues it)"
    elif [ "$restarts" -ge "$MAX_REQUEUES" ]; then
        echo "job $SLURM_JOB_ID was requeued $restarts times already (MAX_REQUEUES), so not again; submit it once" \
            "more if it makes progress between two signals"
    else
        # Said first: SLURM ends this shell, and may do so before scontrol has returned.
        echo "job $SLURM_JOB_ID is requeued (time $((restarts + 1)) of at most $MAX_REQUEUES) and goes on from its" \
            "newest checkpoint"
        if scontrol requeue "$SLURM_JOB_ID" || [ -n "$terminated" ]; then
            local left # a signal that comes before `wait` would not cut one long sleep short
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

# signalled_early CODE: 75 for a step that died of SIGUSR1 or SIGTERM: nothing is lost, run it again.
signalled_early() {
    if died_of_signal "$1"; then echo "$PREEMPTED"; else echo "$1"; fi
}
