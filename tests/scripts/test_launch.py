"""How launch.sh maps variables to launchers, and exit codes; the launchers are stand-ins."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.scripts.stubs import ROOT, Stubs

SHELL = sorted([*ROOT.glob("scripts/**/*.sh"), *ROOT.glob("scripts/**/*.sbatch"), ROOT / ".ci" / "run"])
TRAIN = ["llava_mocle.cli.main", "train"]


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    return Stubs(tmp_path)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def training_call(stubs: Stubs) -> list[str]:
    return next(call for call in stubs.calls("python") if "train" in call and "--resolve" not in call)


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_syntax(path: Path) -> None:
    result = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_one_process_is_python_itself_and_comes_after_check_and_cluster(stubs: Stubs) -> None:
    assert stubs.run("finetune_mocle.sh", "my.yaml", "--lora_r", "4").returncode == 0
    resolve, check, cluster, train = stubs.calls("python")
    assert resolve[:6] == ["-m", *TRAIN, "my.yaml", "--lora_r", "4"]
    resolved = resolve[-1]
    assert check == ["-m", "llava_mocle.cli.main", "data", "check", resolved, "--no-images", "--allow-duplicate-ids"]
    assert cluster == ["-m", "llava_mocle.cli.main", "cluster", "--recipe", resolved]
    assert train == ["-m", *TRAIN, resolved]
    assert not Path(resolved).parent.exists()


def test_several_processes_of_one_machine_are_torchruns(stubs: Stubs) -> None:
    assert stubs.run("pretrain.sh", NPROC="4", TORCHRUN_FLAGS="--tee 3").returncode == 0
    call = training_call(stubs)
    assert call[:-1] == [
        "-m", "torch.distributed.run", "--tee", "3", "--standalone", "--nproc_per_node", "4", "-m", *TRAIN
    ]  # fmt: skip
    assert "llava_v1_5_7b_pretrain.yaml" in " ".join(stubs.calls("python")[0])


@pytest.mark.parametrize(
    ("script", "words"), [("pretrain", ["--stage", "pretrain"]), ("finetune_lora", ["--adapter", "lora"])]
)
def test_what_a_script_is_for_goes_for_any_recipe(stubs: Stubs, script: str, words: list[str]) -> None:
    assert stubs.run(f"{script}.sh", "my.yaml", "--seed", "3").returncode == 0
    assert stubs.calls("python")[0][:8] == ["-m", *TRAIN, "my.yaml", *words, "--seed", "3"]
    assert stubs.run(f"{script}.sh", "my.yaml", "--dry-run").returncode == 0
    assert stubs.calls("python")[-1] == ["-m", *TRAIN, "my.yaml", *words, "--dry-run"]


def test_instructblip_is_the_same_script_with_its_own_recipe(stubs: Stubs) -> None:
    assert stubs.run("finetune_instructblip_mocle.sh", "--lora_r", "4").returncode == 0
    resolve, check, cluster, train = stubs.calls("python")
    assert resolve[3].endswith("/recipes/instructblip_vicuna_7b_mocle.yaml")
    assert resolve[4:6] == ["--lora_r", "4"]
    assert ("data" in check, "cluster" in cluster, "train" in train) == (True, True, True)


def test_several_machines_meet_at_the_first_and_only_it_prepares(stubs: Stubs, listener: str) -> None:
    variables = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": listener, "NPROC": "8"}
    assert stubs.run("finetune_mocle.sh", "my.yaml", NODE_RANK="1", **variables).returncode == 0
    assert training_call(stubs)[2:-4] == [
        "--nnodes", "2", "--node_rank", "1", "--master_addr", "127.0.0.1", "--master_port", listener,
        "--nproc_per_node", "8",
    ]  # fmt: skip
    assert len(stubs.calls("python")) == 2  # resolve and train: no check, no clustering


def test_a_first_machine_that_never_listens_is_an_error(stubs: Stubs) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = str(taken.getsockname()[1])
        variables = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": closed}
        result = stubs.run("pretrain.sh", **variables, LLAVA_MOCLE_PREPARE_TIMEOUT="0")
    assert result.returncode == 1
    assert f"nothing listens on 127.0.0.1 port {closed}" in result.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NNODES": "2"}, "with NNODES, NODE_RANK must be set"),
        ({"NNODES": "2", "NODE_RANK": "1"}, "with NNODES, MASTER_ADDR must be set"),
        ({"HOSTFILE": "nowhere"}, "HOSTFILE is nowhere"),
        ({"LLAVA_MOCLE_ENV": "nowhere.sh"}, "nowhere.sh"),
    ],
)
def test_missing_variables_are_named(stubs: Stubs, variables: dict[str, str], message: str) -> None:
    result = stubs.run("pretrain.sh", **variables)
    assert result.returncode == 2
    assert message in result.stderr


def test_a_hostfile_goes_by_pdsh_with_the_environment_but_without_secrets(stubs: Stubs, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=8\nb slots=8\n")
    (tmp_path / ".deepspeed_env").write_text("\nMINE=1\n")
    keep = 'case "$*" in *--hostfile*) cp "$DS_ENV_FILE" "$HOME/kept";; esac'
    variables = {"HF_HUB_OFFLINE": "1", "NCCL_SOCKET_IFNAME": "ib0", "WANDB_API_KEY": "secret", "HF_TOKEN": "secret"}
    assert stubs.run("pretrain.sh", HOSTFILE=str(hosts), STUB_PYTHON=keep, **variables).returncode == 0
    call = training_call(stubs)
    assert call[:5] == ["-m", "deepspeed.launcher.runner", "--hostfile", str(hosts), "--no_local_rank"]
    assert call[5:-1] == ["--venv_script", str(tmp_path / "no_environment.sh"), "--module", *TRAIN]
    assert Path(call[-1]).is_relative_to(tmp_path / "runs")  # not /tmp: the other machines read it
    lines = (tmp_path / "kept").read_text().splitlines()
    assert {"HF_HUB_OFFLINE=1", "NCCL_SOCKET_IFNAME=ib0", "MINE=1"} <= set(lines)
    assert any(line.startswith("LLAVA_MOCLE_EXIT_FILE=") for line in lines)
    assert all("=" in line for line in lines)
    assert "secret" not in "".join(lines)


def test_a_hostfile_without_ssh(stubs: Stubs, tmp_path: Path, listener: str) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=1\nb slots=1\n")
    result = stubs.run("pretrain.sh", HOSTFILE=str(hosts), NODE_RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=listener)
    assert result.returncode == 0, result.stderr
    assert training_call(stubs)[5:-4] == [
        "--master_addr", "127.0.0.1", "--master_port", listener, "--no_ssh", "--node_rank", "1"
    ]  # fmt: skip


def test_the_environment_hook_comes_first(stubs: Stubs, tmp_path: Path) -> None:
    hook = tmp_path / "environment.sh"
    hook.write_text('echo "$unset_on_purpose"; false; export PYTHON="$HOME/bin/python" FROM_HOOK=yes\n')
    show = 'echo "hook: $FROM_HOOK"'
    result = stubs.run("pretrain.sh", LLAVA_MOCLE_ENV=str(hook), PYTHON="/nowhere/python", STUB_PYTHON=show)
    assert result.returncode == 0, result.stderr
    assert "hook: yes" in result.stdout


@pytest.mark.parametrize(
    ("training", "code"),
    [
        ("exit 0", 0),
        ("exit 2", 2),
        ("exit 1", 1),
        ('echo 75 >"$LLAVA_MOCLE_EXIT_FILE"; exit 1', 75),  # as torchrun leaves it
        ('echo 75 >"$LLAVA_MOCLE_EXIT_FILE"; exit 0', 0),
        ('echo 2 >"$LLAVA_MOCLE_EXIT_FILE"; exit 1', 2),
        ("exit 75", 75),
    ],
)
def test_exit_codes(stubs: Stubs, training: str, code: int) -> None:
    act = f'case "$*" in *--resolve*) exit 0;; esac; {training}'
    result = stubs.run("pretrain.sh", STUB_PYTHON=act)
    assert result.returncode == code
    assert ("the same command goes on" in result.stderr) == (code == 75)


@pytest.mark.parametrize(
    ("devices", "count"),
    [("0,1", 2), ("0, 1", 2), ("GPU-8a,MIG-9b,GPU-1c", 3), ("", 1), (",", 1), ("-1", 1), (None, 4)],
)
def test_as_many_processes_as_visible_gpus(stubs: Stubs, devices: str | None, count: int) -> None:
    smi = stubs.folder / "nvidia-smi"
    smi.write_text("#!/bin/sh\nfor i in 0 1 2 3; do echo GPU $i: H100; done\n")
    smi.chmod(0o755)
    del stubs.environment["NPROC"]
    variables = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
    result = stubs.run("pretrain.sh", **variables)
    assert result.returncode == 0, result.stderr
    call = training_call(stubs)
    assert (call[call.index("--nproc_per_node") + 1] if "--nproc_per_node" in call else "1") == str(count)
