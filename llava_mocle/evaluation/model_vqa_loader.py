"""LLaVA's `model_vqa_loader`: the same flags and files as `model_vqa`, whose runner batches and resumes by itself."""

import sys

from llava_mocle.evaluation.model_vqa import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
