"""The benchmarks, one file each or one a family. What several files share is in `shared/`, and is no benchmark.

To add a benchmark:

1. Write one file here with a `Task` subclass that has a `name`: its files (`sources`), its questions (`read_items`),
   and its scores (`value` or `metrics`, and `read` where an answer is more than its text). `evaluation/registry.py`
   finds it by itself. `pope.py` is an example. Multiple choice starts from `ChoiceTask`, videos from `VideoTask`,
   answers that a language model grades from `JudgedTask`.
2. Run `python scripts/eval/generate.py`, which writes its script.
3. Put a few hand-written questions in the official format into tests/evaluation/tasks/files/, and test the prompts
   and scores on them; tests/evaluation/tasks/test_all_tasks.py states what every benchmark must have.
"""
