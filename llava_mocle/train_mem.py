"""LLaVA's name of `llava-mocle train`: `deepspeed llava_mocle/train_mem.py FLAGS` takes LLaVA's command lines.

`python -m llava_mocle.train_mem FLAGS` is the same in one process. Flags that are left out have LLaVA's defaults, and
`--lora_enable True` is LLaVA's LoRA; docs/training.md lists what each flag does.
"""

import os
import sys

# Python puts a script's own folder first on its module path. Our `io`, `data`, `training` and so on would then be
# found under these bare names, where others are meant: here, and in the loader's workers, which take the path over.
_PACKAGE = os.path.dirname(os.path.realpath(__file__))
if sys.path and os.path.realpath(sys.path[0]) == _PACKAGE:
    sys.path[0] = os.path.dirname(_PACKAGE)

if __name__ == "__main__":
    from llava_mocle.cli.main import program

    program(["train", "--as-llava", *sys.argv[1:]])
