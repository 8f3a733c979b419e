"""What the .sbatch files ask of SLURM (a stand-in; test_slurm.py has the real one), and their use of exit codes."""

import subprocess
from pathlib import Path

import pytest

from tests.scripts.stubs import ROOT, Stubs

JOB = {"SLURM_JOB_ID": "12345", "SLURM_NTASKS": "16", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "6"}
SHOW_HOSTS = 'if [ "$1 $2" = "show hostnames" ]; then printf "n1\\nn2\\n"; fi'
# The recorder passes the stub's own path as $0 and its words as $1 ...
TRAINING = 'case "$*" in *rank.sh*) {};; esac'


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    stubs = Stubs(tmp_path)
    stubs.environment |= {"LLAVA_MOCLE_ROOT": str(ROOT), "STUB_SCONTROL": SHOW_HOSTS}
    return stubs


def test_submitting_turns_variables_into_flags(stubs: Stubs, tmp_path: Path) -> None:
    result = stubs.run(
        "slurm/finetune_mocle.sbatch", "my.yaml", "--lora_r", "4", NODES="2", GPUS_PER_NODE="4", CPUS_PER_TASK="6",
        TIME="02:00:00", ACCOUNT="me", PARTITION="gpu", SIGNAL_SECONDS="120", SBATCH_FLAGS="--qos=long --mem=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (call,) = stubs.calls("sbatch")
    file = str(ROOT / "scripts" / "slurm" / "finetune_mocle.sbatch")
    assert call == [
        "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=6", "--time=02:00:00", "--gpus-per-node=4",
        "--account=me", "--partition=gpu", "--signal=USR1@120", "--requeue", "--open-mode=append",
        "--output=runs/slurm/%x-%j.log", "--qos=long", "--mem=0", file, "my.yaml", "--lora_r", "4",
    ]  # fmt: skip
    assert (tmp_path / "runs" / "slurm").is_dir()  # SLURM doesn't make it


def test_a_file_started_in_an_allocation_submits_itself_all_the_same(stubs: Stubs) -> None:
    del stubs.environment["LLAVA_MOCLE_ROOT"]
    stubs.environment["SLURM_JOB_ID"] = "77"
    for name in ("finetune_mocle", "pretrain"):
        assert stubs.run(f"slurm/{name}.sbatch", "my.yaml").returncode == 0
    assert len(stubs.calls("sbatch")) == 2
    assert stubs.calls("srun") == []


def test_a_cpu_job_asks_for_no_gpus(stubs: Stubs) -> None:
    assert stubs.run("slurm/pretrain.sbatch", GPUS_PER_NODE="0", TASKS_PER_NODE="2").returncode == 0
    (call,) = stubs.calls("sbatch")
    assert "--ntasks-per-node=2" in call
    assert not any("gpus" in word for word in call)


def test_inside_a_job_one_step_prepares_and_one_trains(stubs: Stubs, tmp_path: Path) -> None:
    show = TRAINING.format('echo "meet at $MASTER_ADDR $MASTER_PORT, $SRUN_CPUS_PER_TASK cpus"')
    result = stubs.run("slurm/finetune_mocle.sbatch", "my.yaml", "--lora_r", "4", STUB_SRUN=show, **JOB)
    assert result.returncode == 0, result.stdout + result.stderr
    recipe = str(tmp_path / "runs" / "slurm" / "12345" / "recipe.yaml")
    once = ["--export=ALL", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1"]
    resolve, check, cluster, train = stubs.calls("srun")
    assert resolve[:4] == check[:4] == cluster[:4] == once
    assert resolve[-6:] == ["train", "my.yaml", "--lora_r", "4", "--resolve", recipe]
    assert "check" in check
    assert cluster[-2:] == ["--recipe", recipe]
    assert train[:3] == ["--export=ALL", "--kill-on-bad-exit=1", str(ROOT / "scripts" / "slurm" / "rank.sh")]
    assert train[-2:] == ["train", recipe]
    assert "meet at n1 27345, 6 cpus" in result.stdout  # 15000 + 12345 % 15000
    again = stubs.run("slurm/finetune_mocle.sbatch", "my.yaml", SLURM_RESTART_COUNT="1", **JOB)
    assert again.returncode == 0
    assert len(stubs.calls("srun")) == 5  # the requeued job only trains


def test_never_resume_is_meant_for_the_first_start(stubs: Stubs, tmp_path: Path) -> None:
    job_dir = tmp_path / "runs" / "slurm" / "12345"
    job_dir.mkdir(parents=True)
    (job_dir / "recipe.yaml").write_text("lora_r: 4\nresume: never\n")
    (job_dir / "prepared").touch()
    assert stubs.run("slurm/pretrain.sbatch", "my.yaml", SLURM_RESTART_COUNT="1", **JOB).returncode == 0
    assert stubs.calls("srun")[-1][-2:] == ["--resume", "auto"]
    (job_dir / "recipe.yaml").write_text("lora_r: 4\nresume: auto\n")
    assert stubs.run("slurm/pretrain.sbatch", "my.yaml", SLURM_RESTART_COUNT="1", **JOB).returncode == 0
    assert stubs.calls("srun")[-1][-1] == str(job_dir / "recipe.yaml")


def test_plain_sbatch_finds_the_repository_where_it_was_submitted(stubs: Stubs) -> None:
    del stubs.environment["LLAVA_MOCLE_ROOT"]
    result = stubs.run("slurm/pretrain.sbatch", "my.yaml", SLURM_SUBMIT_DIR=str(ROOT), **JOB)
    assert result.returncode == 0, result.stderr
    assert len(stubs.calls("srun")) == 2  # resolve and train


@pytest.mark.parametrize(
    ("training", "restarts", "requeued", "code", "ends"),
    [
        ("exit 75", "0", True, 0, "late"),
        ("exit 75", "0", True, 0, "at once"),
        ("exit 75", "0", True, 0, "with scontrol"),
        ("exit 75", "0", True, 75, "never"),
        ('echo 75 >"$LLAVA_MOCLE_EXIT_FILE"; exit 137', "0", True, 0, "late"),  # srun killed a slower rank
        ("exit 75", "3", False, 75, "late"),  # MAX_REQUEUES
        ("exit 1", "0", False, 1, "late"),
        ("exit 137", "0", False, 137, "late"),
        ("exit 2", "0", False, 2, "late"),
    ],
)
def test_only_a_preempted_run_is_requeued_and_not_for_ever(
    stubs: Stubs, training: str, restarts: str, requeued: bool, code: int, ends: str
) -> None:
    variables = {"STUB_SRUN": TRAINING.format(training), "SLURM_RESTART_COUNT": restarts, "MAX_REQUEUES": "3"}
    # SLURM ends the shell of a job that it requeues: while it waits for that, or at once.
    end = {
        "late": "(sleep 0.5; kill $STUB_SHELL) >/dev/null 2>&1 &", "at once": "kill $STUB_SHELL;",
        "with scontrol": "kill $STUB_SHELL; exit 143;", "never": "exit 1;",  # it can't requeue
    }[ends]  # fmt: skip
    stub = SHOW_HOSTS + f'; if [ "$1" = requeue ]; then {end} fi'
    script = 'export STUB_SHELL=$$; exec bash "$0" "$@"'
    command = ["bash", "-c", script, *stubs.job_command("slurm/pretrain.sbatch", "my.yaml")[1:]]
    environment = stubs.environment | JOB | variables | {"STUB_SCONTROL": stub}
    result = subprocess.run(
        command, env=environment, cwd=stubs.folder.parent, capture_output=True, text=True, timeout=40, check=False
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert (["requeue", "12345"] in stubs.calls("scontrol")) == requeued
    assert ("is requeued (time 1 of at most 3)" in result.stdout) == requeued
    assert ("could not be requeued" in result.stdout) == (ends == "never")
    if code not in (0, 75):
        assert f"failed with exit code {code}" in result.stdout


def test_a_signal_during_preparation_requeues(stubs: Stubs) -> None:
    variables = {"STUB_SRUN": "exit 138", "MAX_REQUEUES": "0"}
    result = stubs.run("slurm/finetune_mocle.sbatch", "my.yaml", **JOB, **variables)
    assert result.returncode == 75
    assert len(stubs.calls("srun")) == 1


@pytest.mark.parametrize(
    ("tasks", "node", "expected"), [("4", 0, "4"), ("4(x2)", 1, "4"), ("4(x2),3", 2, "3"), ("2,1(x3)", 3, "1")]
)
def test_a_rank_learns_its_place(tasks: str, node: int, expected: str) -> None:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"]
    result = subprocess.run(
        ["bash", str(ROOT / "scripts" / "slurm" / "rank.sh"), "bash", "-c", f"echo {' '.join('$' + n for n in names)}"],
        env={
            "PATH": "/usr/bin:/bin", "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "11",
            "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node),
        },
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split() == ["9", "1", "11", expected]


@pytest.mark.parametrize("script", ["finetune_mocle", "pretrain"])
def test_a_dry_run_is_shown_here_and_submits_nothing(stubs: Stubs, script: str) -> None:
    assert stubs.run(f"slurm/{script}.sbatch", "my recipe.yaml", "--dry-run", "--max_steps", "3").returncode == 0
    (call,) = stubs.calls()
    assert call[-5:] == ["train", "my recipe.yaml", "--dry-run", "--max_steps", "3"]


def test_a_job_without_a_number_of_tasks_says_so(stubs: Stubs) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    result = stubs.run("slurm/pretrain.sbatch", **job)
    assert result.returncode == 2
    assert "--ntasks-per-node" in result.stderr
    assert stubs.calls("srun") == []


def test_a_job_prepares_whatever_a_launch_by_hand_has_left_in_the_environment(stubs: Stubs) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": "1"}
    assert stubs.run("slurm/finetune_mocle.sbatch", **job, NODE_RANK="1", NNODES="2", HOSTFILE="h").returncode == 0
    assert [call for call in stubs.calls("srun") if "check" in call]


QUESTIONS = ["--model-path", "m", "--question-file", "q.jsonl", "--answers-file", "a.jsonl", "--overwrite"]
BENCHMARKS = ["--model", "m", "--tasks", "pope,mme", "--output", "out", "--overwrite"]
PART = {"SLURM_ARRAY_TASK_ID": "1", "CHUNKS": "3", "SLURM_JOB_ID": "78", "SLURM_JOB_NODELIST": "n1"}


@pytest.mark.parametrize(("words", "gpus"), [(QUESTIONS, []), (BENCHMARKS, ["--gpus-per-node=1"])])
def test_evaluation_is_an_array_and_a_joining_job(stubs: Stubs, words: list[str], gpus: list[str]) -> None:
    result = stubs.run("slurm/eval.sbatch", *words, CHUNKS="3", STUB_SBATCH="echo 77")
    assert result.returncode == 0, result.stderr
    array, join = stubs.calls("sbatch")
    file = str(ROOT / "scripts" / "slurm" / "eval.sbatch")
    assert {"--array=0-2", "--gpus-per-node=1", "--ntasks-per-node=1", "--parsable"} <= set(array)
    assert array[array.index(file) + 1 :] == words
    assert "--dependency=afterok:77" in join
    assert [flag for flag in join if flag.startswith("--gpus")] == gpus
    assert join[join.index(file) :] == [file, "join", *words]


@pytest.mark.parametrize("restarts", ["0", "1"])
def test_a_part_goes_on_with_its_answers_when_requeued(stubs: Stubs, restarts: str) -> None:
    for words in (QUESTIONS, BENCHMARKS):
        assert stubs.run("slurm/eval.sbatch", *words, **PART, SLURM_RESTART_COUNT=restarts).returncode == 0
    questions, benchmarks = stubs.calls("srun")
    anew = [] if restarts == "1" else ["--overwrite"]
    part = ["--num-chunks", "3", "--chunk-idx", "1"]
    at = questions.index("llava_mocle.evaluation.model_vqa")
    assert questions[at + 1 :] == [*QUESTIONS[:4], *part, "--answers-file", "a.jsonl.part-1-of-3", *anew]
    assert benchmarks[benchmarks.index("eval") + 1 :] == [*BENCHMARKS[:-1], *part, *anew]


def test_the_joining_job_scores_or_joins(stubs: Stubs) -> None:
    for words in (QUESTIONS, BENCHMARKS):
        assert stubs.run("slurm/eval.sbatch", "join", *words, **PART).returncode == 0
        assert stubs.run("slurm/eval.sbatch", "join", *words, CHUNKS="3").returncode == 0  # by hand
    for calls in (stubs.calls("srun"), stubs.calls("python")):
        questions, benchmarks = (next(c for c in calls if word in c) for word in ("a.jsonl", "eval"))
        at = questions.index("llava_mocle.evaluation.join_chunks")
        assert questions[at + 1 :] == [
            *QUESTIONS[:4], "--overwrite", "--num-chunks", "3", "--answers-file", "a.jsonl",
        ]  # fmt: skip
        # The parts were answered anew; what they hold is to be scored.
        assert benchmarks[benchmarks.index("eval") + 1 :] == BENCHMARKS[:-1]


@pytest.mark.parametrize(
    ("words", "said"), [(["--model", "m"], "what to answer"), (["--answers-file"], "where do the")]
)
def test_an_evaluation_without_an_aim_is_refused(stubs: Stubs, words: list[str], said: str) -> None:
    result = stubs.run("slurm/eval.sbatch", *words)
    assert result.returncode == 2
    assert said in result.stderr
    assert stubs.calls("sbatch") == []
