"""LLaVA's `model_vqa_loader`: flags and files of `model_vqa`, which answers in batches too.

As in LLaVA, answers have at most 128 tokens unless --max_new_tokens says otherwise.
"""

import sys
from collections.abc import Sequence

from llava_mocle.evaluation import model_vqa


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every question is answered, 2 for a mistake in the input."""
    return model_vqa.main(argv, program="model_vqa_loader", description=__doc__, max_new_tokens=128)


if __name__ == "__main__":
    sys.exit(main())
