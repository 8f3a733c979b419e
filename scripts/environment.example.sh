# The environment of every script: copy to scripts/environment.sh (git ignores it) and keep the lines that fit, or name
# another file with LLAVA_MOCLE_ENV. It is sourced before anything runs, in SLURM jobs and on the machines of a hostfile
# too, so it has to be bash and to print nothing. It must leave a `python` on PATH that has llava_mocle, or set PYTHON.

# venv:
# source /shared/venvs/mocle/bin/activate

# conda:
# source "$HOME/miniconda3/etc/profile.d/conda.sh"
# conda activate mocle

# modules, as clusters have them, with a venv made on top:
# module purge
# module load python/3.11 cuda/12.6
# source /shared/venvs/mocle/bin/activate

# What goes with the machine rather than with the run:
# export HF_HOME=/shared/hf HF_HUB_OFFLINE=1
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
# export WANDB_API_KEY="$(cat ~/.wandb_key)"
