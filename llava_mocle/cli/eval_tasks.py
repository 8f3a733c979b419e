"""`llava-mocle eval --tasks`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llava_mocle.cli.eval_sharing import make_shard
from llava_mocle.cli.model_flags import check_dataset, load_predictor

if TYPE_CHECKING:
    from llava_mocle.evaluation.tasks.shared.judge import Judge


def evaluate(args: argparse.Namespace) -> int:
    """Answer and score the benchmarks of `--tasks`."""
    from llava_mocle.cli.eval_tables import print_tasks
    from llava_mocle.errors import ConfigError
    from llava_mocle.evaluation.registry import get_tasks
    from llava_mocle.evaluation.suite import SuiteSettings, TasksFailed, evaluate_tasks
    from llava_mocle.evaluation.tasks.shared.judge import JudgedTask
    from llava_mocle.evaluation.tasks.shared.medical_qa import MedicalQA

    shard = make_shard(args)
    tasks = get_tasks(args.tasks)
    settings = SuiteSettings(
        limit=args.limit,
        batch_size=args.batch_size,
        num_beams=args.num_beams,
        prompts=args.prompts,
        max_new_tokens=args.max_new_tokens,
        dataset=args.dataset,
        overwrite=args.overwrite,
    )
    judge = _judge(args)
    for task in tasks:
        task.check(Path(args.data_root))  # before the model is loaded
        if judge is not None and isinstance(task, JudgedTask):
            task.judge = judge
        if isinstance(task, MedicalQA):
            task.legacy = args.legacy_llava_med
    predictor = load_predictor(args)
    check_dataset(args, predictor)
    if predictor.router == "dataset" and args.dataset is None:
        raise ConfigError(f"{args.model}: is routed by dataset; --dataset NAME says whose expert answers.")
    failed: TasksFailed | None = None
    try:
        results = evaluate_tasks(predictor, tasks, args.data_root, args.output, settings, shard=shard)
    except TasksFailed as error:
        failed, results = error, error.results
    if results:
        print_tasks(results)
        print(f"{Path(args.output) / 'results.json'}")
    if failed:
        raise failed
    return 0


def _judge(args: argparse.Namespace) -> "Judge | None":
    from llava_mocle.errors import ConfigError
    from llava_mocle.evaluation.tasks.shared.judge import Judge

    if not args.judge_url and not args.judge_model:
        return None
    if not (args.judge_url and args.judge_model):
        raise ConfigError("--judge-url and --judge-model go together; one of them is missing.")
    log = Path(args.output) / "judge.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    return Judge(args.judge_url, args.judge_model, log=log)
