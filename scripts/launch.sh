# Sourced by the other scripts. It finds the environment, prepares a run once, and starts it on one machine or several.
# docs/distributed.md explains everything. These variables control it:
#
#   LLAVA_MOCLE_ENV=FILE           sourced first: conda, venv or modules (default: scripts/environment.sh, if it exists)
#   PYTHON=FILE                    the interpreter (default: .venv/bin/python, or else python)
#   NPROC=N                        number of processes on this machine (default: its visible GPUs, at least 1)
#   NNODES=N NODE_RANK=I MASTER_ADDR=HOST [MASTER_PORT=29500]
#                                  several machines: start the script on each, with its own NODE_RANK
#   HOSTFILE=FILE                  several machines with the deepspeed launcher: start the script once, and it uses ssh;
#                                  or, with NODE_RANK and MASTER_ADDR, start it on each machine, without ssh
#   TORCHRUN_FLAGS, DEEPSPEED_FLAGS   more flags of the launcher, such as "--ssh_port 2222"
#
# After SIGTERM, SIGUSR1 or Ctrl-C, the run saves a checkpoint and the script exits with 75. The same command goes on.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -z "${LLAVA_MOCLE_ENV:-}" ] && [ -f "$root/scripts/environment.sh" ]; then
    LLAVA_MOCLE_ENV="$root/scripts/environment.sh"
fi
if [ -n "${LLAVA_MOCLE_ENV:-}" ]; then
    if [ ! -f "$LLAVA_MOCLE_ENV" ]; then
        echo "error: LLAVA_MOCLE_ENV is $LLAVA_MOCLE_ENV, and there is no such file" >&2
        exit 2
    fi
    set +eu # activation scripts are rarely written for these
    # shellcheck source=/dev/null
    source "$LLAVA_MOCLE_ENV"
    set -eu
fi
python="${PYTHON:-python}"
if [ -z "${PYTHON:-}" ] && [ -z "${LLAVA_MOCLE_ENV:-}" ] && [ -x "$root/.venv/bin/python" ]; then
    python="$root/.venv/bin/python"
fi
LLAVA_MOCLE=("$python" -m llava_mocle.cli.main)
once=() # the command in front of the steps of `prepare`; in SLURM, an srun with one task

# shellcheck source=scripts/signals.sh
source "$root/scripts/signals.sh"

usage_error() {
    echo "error: $1" >&2
    exit 2
}

visible_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true # set and empty hides them all
    else
        nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true
    fi
}

# only_shows RECIPE [--key value ...]: with --help or --dry-run, run that and end.
only_shows() {
    local word
    for word in "${@:2}"; do
        case "$word" in
            -h | --help | --dry-run) exec "${LLAVA_MOCLE[@]}" train "$@" ;;
        esac
    done
}

# make_scratch: make a folder for the resolved recipe and the exit code, in $scratch. It is removed at the end.
make_scratch() {
    local parent="${TMPDIR:-/tmp}"
    if [ -n "${HOSTFILE:-}" ] && [ -z "${NODE_RANK:-}" ]; then
        parent="$PWD/runs" # the other machines read it, so it can't be this machine's own disk
        mkdir -p "$parent"
    fi
    scratch="$(mktemp -d "$parent/.launch.XXXXXX")"
    trap 'rm -rf "$scratch"' EXIT
    export LLAVA_MOCLE_EXIT_FILE="${LLAVA_MOCLE_EXIT_FILE:-$scratch/exit}"
}

# step COMMAND...: run a command that comes before training. A signal ends it; the script then exits with 75, and
# nothing is lost.
step() {
    local code=0
    if [ ${#once[@]} -gt 0 ]; then
        "${once[@]}" "$@"
        return
    fi
    before_training=yes
    run_and_forward launcher "$@" || code=$?
    before_training=""
    if [ "$told" -eq 1 ] && [ "$code" -ne 0 ] && [ "$code" -ne "$PREEMPTED" ]; then
        echo "stopped before training; the same command starts again (exit code $PREEMPTED)" >&2
        code=$PREEMPTED
    fi
    return "$code"
}

# resolve RECIPE [--key value ...]: write one recipe that contains all flags, to $resolved.
resolve() {
    make_scratch
    resolved="$scratch/recipe.yaml"
    step "${LLAVA_MOCLE[@]}" train "$@" --resolve "$resolved"
}

# prepare RECIPE: check the rows and cluster the instructions. If there are several nodes, only the first one does it.
prepare() {
    if [ "${NODE_RANK:-0}" -eq 0 ]; then
        step "${LLAVA_MOCLE[@]}" data check "$1" --no-images --allow-duplicate-ids \
            && step "${LLAVA_MOCLE[@]}" cluster --recipe "$1"
    fi
}

# launch RECIPE: train it with all processes. The exit code is that of the training: 0, 1, 2 or 75.
launch() {
    local count module=(llava_mocle.cli.main train "$1") torchrun=("$python" -m torch.distributed.run)
    count="${NPROC:-$(visible_gpus)}"
    [ "${count:-0}" -ge 1 ] || count=1
    # torchrun kills its workers this many seconds after it has passed on SIGTERM. A checkpoint can take minutes.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
    # shellcheck disable=SC2206 # flags in a variable: split at spaces on purpose
    torchrun+=(${TORCHRUN_FLAGS:-})
    if [ -n "${HOSTFILE:-}" ]; then
        launch_hostfile "${module[@]}"
    elif [ "${NNODES:-1}" -gt 1 ]; then
        [ -n "${NODE_RANK:-}" ] || usage_error "with NNODES, NODE_RANK must be set: 0 on the first machine, 1 ..."
        [ -n "${MASTER_ADDR:-}" ] || usage_error "with NNODES, MASTER_ADDR must be set: the first machine's address"
        wait_for_first_node "$MASTER_ADDR" "${MASTER_PORT:-29500}"
        run_and_forward launcher "${torchrun[@]}" --nnodes "$NNODES" --node_rank "$NODE_RANK" \
            --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" \
            --nproc_per_node "$count" -m "${module[@]}"
    elif [ "$count" -gt 1 ]; then
        run_and_forward launcher "${torchrun[@]}" --standalone --nproc_per_node "$count" -m "${module[@]}"
    else
        run_and_forward launcher "$python" -m "${module[@]}"
    fi
}

launch_hostfile() {
    local words=(--hostfile "$HOSTFILE" --no_local_rank)
    [ -f "$HOSTFILE" ] || usage_error "HOSTFILE is $HOSTFILE, and there is no such file; its lines: HOST slots=GPUS"
    [ -n "${MASTER_ADDR:-}" ] && words+=(--master_addr "$MASTER_ADDR")
    [ -n "${MASTER_PORT:-}" ] && words+=(--master_port "$MASTER_PORT")
    # shellcheck disable=SC2206
    words+=(${DEEPSPEED_FLAGS:-})
    if [ -n "${NODE_RANK:-}" ]; then
        [ -n "${MASTER_ADDR:-}" ] || usage_error "with NODE_RANK, MASTER_ADDR must be set: the first machine's address"
        wait_for_first_node "$MASTER_ADDR" "${MASTER_PORT:-29500}"
        # Without ssh, this launcher does not pass on signals, so the ranks get them directly.
        run_and_forward ranks "$python" -m deepspeed.launcher.runner "${words[@]}" \
            --no_ssh --node_rank "$NODE_RANK" --module "$@"
    else
        [ -n "${LLAVA_MOCLE_ENV:-}" ] && words+=(--venv_script "$LLAVA_MOCLE_ENV")
        worker_environment >"$scratch/environment"
        export DS_ENV_FILE="$scratch/environment"
        run_and_forward launcher "$python" -m deepspeed.launcher.runner "${words[@]}" --module "$@"
    fi
}

# worker_environment: print NAME=VALUE of what the processes on other machines need. The launcher puts these on a
# command line, which every user of the machine can read. So secrets are left out; they belong in the environment file.
worker_environment() {
    local name own="${DS_ENV_FILE:-$HOME/.deepspeed_env}"
    for name in $(compgen -e); do
        case "$name" in
            *KEY* | *TOKEN* | *SECRET* | *PASSWORD*) [ "$name" = TOKENIZERS_PARALLELISM ] || continue ;;
        esac
        case "$name" in
            LLAVA_MOCLE_* | HF_* | TRANSFORMERS_* | TOKENIZERS_PARALLELISM | WANDB_* | NCCL_* | GLOO_* | TORCH_* | \
                UCX_* | PYTORCH_* | DS_ACCELERATOR | OMP_NUM_THREADS | CUDA_HOME | LD_LIBRARY_PATH | PATH)
                [[ "${!name}" == *$'\n'* ]] || echo "$name=${!name}"
                ;;
        esac
    done
    if [ -f "$own" ]; then grep = "$own" || true; fi # the user's own file wins
}

# wait_for_first_node HOST PORT: on the other nodes, wait until the first has prepared the run and its launcher listens.
wait_for_first_node() {
    [ "$NODE_RANK" -gt 0 ] || return 0
    local limit="${LLAVA_MOCLE_PREPARE_TIMEOUT:-7200}" start=$SECONDS said=-60
    until timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null; do
        if [ $((SECONDS - start)) -ge "$limit" ]; then
            echo "error: nothing listens on $1 port $2 after $limit s. Did node 0 fail while it checked or clustered" \
                "the data? Does this machine reach MASTER_ADDR? (LLAVA_MOCLE_PREPARE_TIMEOUT is the limit)" >&2
            exit 1
        fi
        if [ $((SECONDS - said)) -ge 60 ]; then
            echo "node $NODE_RANK waits for node 0 at $1 port $2 (checking and clustering the data come first)" >&2
            said=$SECONDS
        fi
        sleep 1
    done
}
