# Sourced by launch.sh: run a launcher so that signals reach the training, and return the training's exit code.
PREEMPTED=75

# run_and_forward launcher|ranks COMMAND...: run a command. SIGTERM, SIGUSR1, SIGHUP and Ctrl-C become one SIGTERM to
# the launcher (which passes it on) or to the ranks themselves. Returns the command's exit code, or the one that the
# training has written into $LLAVA_MOCLE_EXIT_FILE. Before that, this file says "Ctrl-C" if that is what the signal means.
run_and_forward() {
    receiver="$1"
    shift
    rm -f "$LLAVA_MOCLE_EXIT_FILE"
    told=0 stopped="" child="" early=""
    trap 'forward TERM' TERM USR1 HUP
    trap 'forward INT' INT
    set -m # a process group of its own, so that Ctrl-C reaches training once, as SIGTERM
    "$@" </dev/null &
    child=$!
    set +m
    [ -z "$early" ] || forward "$early"
    local code=0
    wait_out "$child" || code=$?
    trap - TERM USR1 HUP INT
    if [ "$code" -ne 0 ] && grep -qsx '[1-9][0-9]*' "$LLAVA_MOCLE_EXIT_FILE"; then
        code="$(<"$LLAVA_MOCLE_EXIT_FILE")" # launchers replace their workers' exit codes by 1
    elif [ "$told" -eq 1 ] && died_of_signal "$code"; then
        stopped=yes # training handles these signals, so it had not started
    fi
    if [ -n "$stopped" ]; then
        echo "stopped before training; the same command starts again (exit code $PREEMPTED)" >&2
        return "$PREEMPTED"
    fi
    if [ "$code" -eq "$PREEMPTED" ]; then
        echo "preempted: nothing is lost, and the same command goes on (exit code $PREEMPTED)" >&2
    fi
    return "$code"
}

# wait_out PID: wait until a child has ended, and return its exit code. A trap can end a single `wait` earlier.
wait_out() {
    while kill -0 "$1" 2>/dev/null; do
        wait "$1" || true
    done
    wait "$1"
}

# died_of_signal CODE: whether SIGUSR1 or SIGTERM ended a process that had no handler for it.
died_of_signal() {
    case "$1" in
        138 | 143 | 241) ;; # 128 + 10 or 15; the deepspeed launcher says -15
        *) return 1 ;;
    esac
}

# forward TERM|INT: pass a signal on, once. A second SIGTERM would interrupt a launcher that waits for its workers.
forward() {
    if [ -z "$child" ]; then
        early="$1" # the child is just being started, and gets the signal then
    elif [ "$told" -eq 0 ]; then
        told=1
        tell "$1"
    elif [ "$1" = INT ]; then
        kill_tree "$child"
    fi
}

tell() {
    local runner to=("$child")
    if [ "$receiver" = ranks ]; then
        to=()
        for runner in $(children "$child"); do
            # shellcheck disable=SC2207 # several process ids
            to+=($(children "$runner"))
        done
    fi
    if [ ${#to[@]} -eq 0 ] || is_still_this_shell "$child"; then # no rank has started, so nothing is lost
        stopped=yes
        kill_tree "$child"
    else
        if [ "$1" = INT ] && [ -z "${before_training:-}" ]; then
            echo "saving a checkpoint; once more Ctrl-C kills the run without one" >&2
        fi
        if [ "$1" = INT ]; then
            echo Ctrl-C >"$LLAVA_MOCLE_EXIT_FILE"
        fi
        kill -TERM "${to[@]}" 2>/dev/null || true
    fi
}

# is_still_this_shell PID: whether a child is still a copy of this shell. As long as it has not become its command, it
# has this shell's trap and may lose a SIGTERM.
is_still_this_shell() { cmp -s "/proc/$1/cmdline" "/proc/$$/cmdline"; }

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
    kill -STOP "$1" 2>/dev/null || true # so that it starts no more of them
    for one in $(children "$1"); do
        kill_tree "$one"
    done
    kill -KILL "$1" 2>/dev/null || true
}
