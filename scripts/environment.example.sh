# The environment of every script. Copy this file to scripts/environment.sh (git ignores it) and keep the lines that you
# need, or name another file with LLAVA_MOCLE_ENV. Every script sources it first, also in SLURM jobs and on the
# machines of a hostfile. So it must be bash, and must print nothing. Afterwards, the `python` on PATH must have
# llava_mocle, or PYTHON must be set.

# venv:
# source /shared/venvs/mocle/bin/activate

# conda:
# source "$HOME/miniconda3/etc/profile.d/conda.sh"
# conda activate mocle

# modules of a cluster, with a venv on top:
# module purge
# module load python/3.11 cuda/12.6
# source /shared/venvs/mocle/bin/activate

# Settings of the machine, not of the run:
# export HF_HOME=/shared/hf HF_HUB_OFFLINE=1
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
# export WANDB_API_KEY="$(cat ~/.wandb_key)"
