"""`make demo-instructblip`: InstructBLIP + MoCLE on the small domains. `python -m playground.demo_instructblip`.

The parts and the domains are those of `make demo`. The Q-Former is new (see `build_instructblip`), and is trained with
the experts in one run. Every step is an ordinary command, printed as it runs; steps whose inputs did not change are
reused.
"""

import argparse
import sys

from playground.build_instructblip import INSTRUCTBLIP_BASE
from playground.demo import CLI, OUT, RECIPES, ROOT, RUNS, bf16_is_fast, evaluate, run_all
from playground.paths import PLAYGROUND
from playground.steps import Step

RECIPE = RECIPES / "playground_instructblip_mocle.yaml"


def steps() -> list[list[Step]]:
    """The commands of the demonstration, in order; those of one list run side by side."""
    recipe = str(RECIPE.relative_to(ROOT))
    precision = ["--bf16", "true"] if bf16_is_fast() else []
    run, clusters = RUNS / "instructblip_mocle", PLAYGROUND / "instructblip_clusters"
    before, after = OUT / "instructblip_before", OUT / "instructblip_after"
    return [
        [
            Step(
                "base",
                "join the parts with a new Q-Former",
                ["python", "-m", "playground.build_instructblip"],
                [PLAYGROUND / "build_instructblip.py"],
                [INSTRUCTBLIP_BASE],
            )
        ],
        [Step("check", "check every row and image", [*CLI, "data", "check", recipe])],
        [
            Step(
                "cluster",
                "cluster the instructions",
                [*CLI, "cluster", "--recipe", recipe, "--overwrite"],
                [RECIPE],
                [clusters],
            ),
            evaluate("before", "score the untrained model on held-out images", INSTRUCTBLIP_BASE, RECIPE, before),
        ],
        [Step("mocle", "train Q-Former and MoCLE", [*CLI, "train", recipe, *precision], [RECIPE], [run])],
        [evaluate("after", "score the trained model on the same images", run, RECIPE, after)],
    ]


def main() -> int:
    """Run everything that is not done yet."""
    argparse.ArgumentParser(prog="make demo-instructblip", description=__doc__).parse_args()
    minutes = run_all(steps(), OUT / "instructblip_steps")
    print(f"\ndone in {minutes:.1f} min: the scores are in {OUT.relative_to(ROOT)}/instructblip_after/results.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
