"""The shell script that starts a recipe on every GPU."""

from llava_mocle.recipe.recipe import Recipe


def start_script(recipe: Recipe, slurm: bool = False) -> str:
    """Its path in the repository; it takes the recipe and flags.

    Args:
        slurm: the one for a SLURM job.
    """
    pretrain = recipe.stage.stage == "pretrain"
    if slurm:
        return f"scripts/slurm/{'pretrain' if pretrain else 'finetune_mocle'}.sbatch"
    if pretrain:
        return "scripts/pretrain.sh"
    return "scripts/finetune_lora.sh" if recipe.adapter.adapter == "lora" else "scripts/finetune_mocle.sh"
