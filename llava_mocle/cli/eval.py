"""Score a model: on the paper's benchmarks (--tasks), or on held-out rows (--recipe, --rows).

Answers are appended to answers/<name>.jsonl (LLaVA's format) as they are made, and a run that was stopped continues
where it was; scores go to results.json. Under torchrun the questions are shared out over the processes.

examples:
  llava-mocle eval prepare                             which benchmarks there are, and which files are missing
  llava-mocle eval prepare pope,mme --data-root playground/data/eval      reads them too, and counts the questions
  llava-mocle eval --model runs/mine --tasks pope,mme,scienceqa --output runs/mine/eval
  torchrun --nproc_per_node 8 -m llava_mocle.cli.main eval --model runs/mine --tasks all --output runs/mine/eval
  llava-mocle eval --model playground/runs/mocle --recipe scripts/recipes/playground_mocle.yaml --output out
  llava-mocle eval --model runs/mine --rows test.json --image-folder images --train-rows train.json --output out
"""

import argparse
from pathlib import Path
from typing import Any

from llava_mocle.cli.model_flags import add_model_flags, check_dataset, load_predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=["prepare"], help="check the benchmarks' files, and say what is missing"
    )
    parser.add_argument("prepared", nargs="?", metavar="TASKS", help="with prepare: benchmarks to read, or all")
    parser.add_argument("--model", help="a trained checkpoint, a stage-1 folder or a base folder")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tasks", help="benchmarks, separated by commas, or all")
    source.add_argument("--recipe", help="score the held-out rows (eval_data_path) of this recipe's datasets")
    source.add_argument("--rows", help="score this file of LLaVA rows (JSON or JSONL)")
    parser.add_argument("--image-folder", default="", help="with --rows: the folder its image paths start from")
    parser.add_argument("--train-rows", help="with --rows: training rows, for the majority answer")
    parser.add_argument("--data-root", default="playground/data/eval", help="with --tasks: where the benchmarks lie")
    parser.add_argument(
        "--prompts", choices=["llava", "instructblip"], default="llava", help="with --tasks: LLaVA's, or Table 11's"
    )
    parser.add_argument("--num-chunks", type=int, help="answer one of so many shards, without scoring")
    parser.add_argument("--chunk-idx", type=int, help="which one, from 0; run without both to join and score")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="for a model routed by dataset: whose expert answers (rows: their own's)",
    )
    parser.add_argument(
        "--judge-url", help="with --tasks mm_vet,llava_bench: an OpenAI-compatible server, http://host/v1"
    )
    parser.add_argument("--judge-model", help="the judge's name there; its key is read from LLAVA_MOCLE_JUDGE_KEY")
    parser.add_argument(
        "--legacy-llava-med",
        action="store_true",
        help="vqa_rad, slake, pathvqa: show the scores as LLaVA-Med's scorer counts, for comparison with its lineage",
    )
    parser.add_argument("--output", help="folder for answers and results.json")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each benchmark or domain")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, help="default: each benchmark's own; 32 for rows")
    parser.add_argument("--num-beams", type=int, default=1)
    add_model_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="answer and score everything anew")


def run(args: argparse.Namespace) -> int:
    from llava_mocle.errors import ConfigError

    for flag in ("limit", "max_new_tokens", "num_beams", "batch_size", "num_chunks"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise ConfigError(f"--{flag.replace('_', '-')} {value}: must be at least 1.")
    if args.action == "prepare":
        from llava_mocle.cli.eval_prepare import prepare

        return prepare(args.prepared or args.tasks, args.data_root)
    for flag in ("model", "output"):
        if not getattr(args, flag):
            raise ConfigError(f"--{flag} is missing; `llava-mocle eval --help` shows examples.")
    if args.tasks:
        from llava_mocle.cli.eval_tasks import evaluate

        return evaluate(args)
    if not (args.recipe or args.rows):
        raise ConfigError("nothing to score: give --tasks, --recipe or --rows.")
    return _evaluate_rows(args)


def _evaluate_rows(args: argparse.Namespace) -> int:
    domains, train_rows = _recipe_rows(args.recipe) if args.recipe else _file_rows(args)

    from llava_mocle.cli.eval_sharing import make_shard
    from llava_mocle.cli.eval_tables import print_domains
    from llava_mocle.evaluation.domain import evaluate_rows

    shard = make_shard(args)
    predictor = load_predictor(args)
    check_dataset(args, predictor)
    results = evaluate_rows(
        predictor,
        domains,
        args.output,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens or 32,
        num_beams=args.num_beams,
        train_rows=train_rows,
        limit=args.limit,
        overwrite=args.overwrite,
        dataset=args.dataset,
        shard=shard,
    )
    if results:
        print_domains(results)
        print(f"{Path(args.output) / 'results.json'}")
    return 0


def _recipe_rows(recipe_path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from llava_mocle.data.rows import read_rows
    from llava_mocle.errors import ConfigError
    from llava_mocle.recipe.recipe import load_recipe

    specs = load_recipe(recipe_path).data.dataset_specs()
    domains = {spec.name: (read_rows(spec.eval_data_path), spec.image_folder) for spec in specs if spec.eval_data_path}
    if not domains:
        raise ConfigError(
            f"{recipe_path}: no dataset has an eval_data_path, so there is nothing held out to score. Add one to a "
            f"dataset, or give the rows with --rows."
        )
    return domains, {spec.name: read_rows(spec.data_path) for spec in specs if spec.name in domains}


def _file_rows(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any] | None]:
    from llava_mocle.data.rows import read_rows

    name = Path(args.rows).stem
    train_rows = {name: read_rows(args.train_rows)} if args.train_rows else None
    return {name: (read_rows(args.rows), args.image_folder)}, train_rows
