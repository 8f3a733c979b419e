# Sourced by launch.sh: run a launcher so that signals reach training, and so that its exit code comes back.
PREEMPTED=75

# run_and_forward launcher|ranks COMMAND...: SIGTERM, SIGUSR1, SIGHUP and Ctrl-C become one SIGTERM, to the launcher
# (which passes it on) or straight to the ranks. Returns the command's exit code, or the one that it left in a file.
run_and_forward() {
    receiver="$1"
    shift
    rm -f "$LLAVA_MOCLE_EXIT_FILE"
    told=0
    set -m # a process group of its own, so that Ctrl-C reaches training once, as SIGTERM
    "$@" </dev/null &
    child=$!
    set +m
    trap 'forward TERM' TERM USR1 HUP
    trap 'forward INT' INT
    local code=0
    wait_out "$child" || code=$?
    trap - TERM USR1 HUP INT
    if [ "$code" -ne 0 ] && grep -qsx '[1-9][0-9]*' "$LLAVA_MOCLE_EXIT_FILE"; then
        code="$(<"$LLAVA_MOCLE_EXIT_FILE")" # launchers replace their workers' exit codes by 1
    fi
    if [ "$code" -eq "$PREEMPTED" ]; then
        echo "preempted: a checkpoint was written, and the same command goes on from it (exit code $PREEMPTED)" >&2
    fi
    return "$code"
}

# wait_out PID: a child's exit code, however often a trap ends `wait` before the child has ended.
wait_out() {
    while kill -0 "$1" 2>/dev/null; do
        wait "$1" || true
    done
    wait "$1"
}

# Only once: a second SIGTERM would interrupt a launcher that is waiting for its workers.
forward() {
    if [ "$told" -eq 0 ]; then
        told=1
        if [ "$1" = INT ] && [ -z "${before_training:-}" ]; then
            echo "saving a checkpoint; once more Ctrl-C kills the run without one" >&2
        fi
        if [ "$receiver" = ranks ]; then
            local runner
            for runner in $(children "$child"); do
                # shellcheck disable=SC2046 # several process ids
                kill -TERM $(children "$runner") 2>/dev/null || true
            done
        else
            kill -TERM "$child" 2>/dev/null || true
        fi
    elif [ "$1" = INT ]; then
        kill_tree "$child"
    fi
}

# children PID: the ids of its direct child processes.
children() {
    local file fields
    for file in /proc/[0-9]*/stat; do
        { read -r fields <"$file"; } 2>/dev/null || continue
        fields="${fields##*) }" # after the name, which may hold spaces: state, parent, ...
        fields="${fields#* }"
        if [ "${fields%% *}" = "$1" ]; then
            file="${file#/proc/}"
            echo "${file%/stat}"
        fi
    done
}

kill_tree() {
    local one
    for one in $(children "$1"); do
        kill_tree "$one"
    done
    kill -KILL "$1" 2>/dev/null || true
}
