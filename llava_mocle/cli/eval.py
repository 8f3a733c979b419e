"""Score a model: on the paper's benchmarks (--tasks), or on held-out rows (--recipe, --rows).

Answers are appended to answers/<name>.jsonl (LLaVA's format) as they are made. A run that was stopped goes on where it
was. Scores go to results.json. Under torchrun the questions are divided over the processes.

examples:
  llava-mocle eval prepare                             which benchmarks there are, and which files are missing
  llava-mocle eval prepare pope,mme --data-root playground/data/eval      reads them too, and counts the questions
  llava-mocle eval --model runs/mine --tasks pope,mme,scienceqa --output runs/mine/eval
  torchrun --nproc_per_node 8 -m llava_mocle.cli.main eval --model runs/mine --tasks all --output runs/mine/eval
  llava-mocle eval --model playground/runs/mocle --recipe scripts/recipes/playground_mocle.yaml --output out
  llava-mocle eval --model runs/mine --rows test.json --image-folder images --train-rows train.json --output out
  llava-mocle eval pope --answers theirs.jsonl --output runs/theirs/eval      scores answers of another system
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.cli.model_flags import add_model_flags, check_dataset, load_predictor
from llava_mocle.inference.flags import add_penalty_flags, add_skip_flag
from llava_mocle.io.paths import user_path

if TYPE_CHECKING:
    from llava_mocle.evaluation.task import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        metavar="prepare|TASKS",
        help="prepare: check the benchmarks' files, and say what is missing; with --answers: the benchmarks",
    )
    parser.add_argument("prepared", nargs="?", metavar="TASKS", help="with prepare: benchmarks to read, or all")
    _add_what(parser.add_argument_group("what is scored, and where the scores go"))
    how = parser.add_argument_group("how the model is asked")
    _add_how(how)
    add_model_flags(how)
    _add_answers(parser.add_argument_group("answers of another system, scored without a model"))
    _add_scorers(parser.add_argument_group("how answers are read"))


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", type=user_path, help="a trained checkpoint, a stage-1 folder or a base folder")
    source = group.add_mutually_exclusive_group()
    source.add_argument("--tasks", help="benchmarks, separated by commas, or all")
    source.add_argument(
        "--recipe", type=user_path, help="score the held-out rows (eval_data_path) of this recipe's datasets"
    )
    source.add_argument("--rows", type=user_path, help="score this file of LLaVA rows (JSON or JSONL)")
    group.add_argument(
        "--image-folder", type=user_path, default="", help="with --rows: the folder its image paths start from"
    )
    group.add_argument("--train-rows", type=user_path, help="with --rows: training rows, for the majority answer")
    group.add_argument(
        "--data-root", type=user_path, default="playground/data/eval", help="with --tasks: where the benchmarks lie"
    )
    group.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each benchmark or domain")
    group.add_argument("--output", type=user_path, help="folder for answers and results.json")
    group.add_argument("--overwrite", action="store_true", help="answer and score everything anew")


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prompts",
        choices=["llava", "instructblip"],
        default="llava",
        help="with --tasks: LLaVA's, or Table 11's with LAVIS' 5 beams and penalties",
    )
    group.add_argument("--num-chunks", type=int, help="answer one of so many parts, without scoring")
    group.add_argument("--chunk-idx", type=int, help="which part, from 0; run without both flags to join and score")
    group.add_argument(
        "--dataset", metavar="NAME", help="for a model routed by dataset: whose expert answers (rows: their own's)"
    )
    group.add_argument("--batch-size", type=int, default=8, help="of one cluster and of like lengths where possible")
    group.add_argument("--max-new-tokens", type=int, help="default: each benchmark's own; 32 for rows")
    group.add_argument("--num-beams", type=int, help="default: 1; with --prompts instructblip 5")
    add_penalty_flags(group, default=None)
    add_skip_flag(group)


def _add_answers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--answers",
        type=user_path,
        metavar="FILE",
        help="score these answers: LLaVA's JSONL, lmms-eval's samples, JSON or CSV with ids and texts; or a folder "
        "with <task>.jsonl",
    )
    group.add_argument("--answers-key", metavar="KEY", help="with --answers: where a record has its answer")
    group.add_argument("--model-name", metavar="NAME", help="with --answers: who wrote them; default: the file's name")


def _add_scorers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--judge-url", help="with --tasks mm_vet,llava_bench: an OpenAI-compatible server, http://host/v1"
    )
    group.add_argument("--judge-model", help="the judge's name there; its key is read from LLAVA_MOCLE_JUDGE_KEY")
    group.add_argument(
        "--judge-max-tokens",
        type=int,
        metavar="N",
        help="how long the judge's replies may be, if it reasons first (officially 3 for mm_vet, 1024 for llava_bench)",
    )
    group.add_argument(
        "--judge-runs", type=int, default=1, metavar="N", help="mm_vet: grade each answer N times; the paper averages 5"
    )
    group.add_argument(
        "--legacy-llava-med",
        action="store_true",
        help="vqa_rad, slake, pathvqa: show the scores as LLaVA-Med's scorer counted until December 2023",
    )
    group.add_argument(
        "--mmbench-matcher",
        choices=["2024", "2025"],
        default="2024",
        help="mmbench, mmbench_cn: which version of MMBench's own matcher reads the answers; published: 2024",
    )


def run(args: argparse.Namespace) -> int:
    from llava_mocle.errors import ConfigError

    for flag in ("limit", "max_new_tokens", "num_beams", "batch_size", "num_chunks", "judge_max_tokens", "judge_runs"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise ConfigError(f"--{flag.replace('_', '-')} {value}: must be at least 1.")
    if args.action == "prepare":
        from llava_mocle.cli.eval_prepare import prepare

        return prepare(args.prepared or args.tasks, args.data_root)
    _check_words(args)
    for flag in ("output",) if args.answers else ("model", "output"):
        if not getattr(args, flag):
            raise ConfigError(f"--{flag} is missing; `llava-mocle eval --help` shows examples.")
    if not (args.tasks or args.recipe or args.rows):
        raise ConfigError("nothing to score: give --tasks, --recipe or --rows.")
    return _score_given(args) if args.answers else _evaluate(args)


def _check_words(args: argparse.Namespace) -> None:
    """What --answers goes with; the benchmarks before it become `args.tasks`."""
    from llava_mocle.errors import ConfigError

    if args.action is not None and not args.answers:
        raise ConfigError(
            f"{args.action!r}: the word behind eval is prepare, or benchmarks whose --answers are scored; a model is "
            f"asked with --model and --tasks {args.action}."
        )
    if args.prepared is not None or (args.action is not None and (args.tasks or args.recipe or args.rows)):
        raise ConfigError("name the benchmarks once, separated by commas.")
    args.tasks = args.tasks or args.action
    for flag in ("answers_key", "model_name"):
        if getattr(args, flag) and not args.answers:
            raise ConfigError(f"--{flag.replace('_', '-')} goes with --answers, which is missing.")
    for flag in ("model", "num_chunks", "chunk_idx", "dataset", "max_new_tokens") if args.answers else ():
        if getattr(args, flag) is not None:
            raise ConfigError(
                f"--{flag.replace('_', '-')} asks a model, and --answers is scored without one; drop one."
            )
    if args.answers and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("--answers under torchrun: scoring takes one process.")


def _score_given(args: argparse.Namespace) -> int:
    """Score the answers of --answers."""
    from llava_mocle.cli.eval_tables import print_domains, print_tasks
    from llava_mocle.evaluation.given import given_model_id, score_given
    from llava_mocle.evaluation.suite import SuiteSettings
    from llava_mocle.evaluation.task import Task
    from llava_mocle.evaluation.tasks.held_out import HeldOutResults, HeldOutRows

    settings = SuiteSettings(limit=args.limit, prompts=args.prompts, overwrite=args.overwrite)
    tasks: list[Task] = []
    results = None
    if args.tasks:
        tasks += _benchmarks(args)
    else:
        domains, train_rows = _recipe_rows(args.recipe) if args.recipe else _file_rows(args)
        tasks += [HeldOutRows(name, rows, root, (train_rows or {}).get(name)) for name, (rows, root) in domains.items()]
        model_id = given_model_id(Path(args.answers), args.model_name)
        results = HeldOutResults(Path(args.output), model_id, args.answers, len(tasks), overwrite=args.overwrite)
    recorded = score_given(
        tasks,
        args.answers,
        args.data_root,
        args.output,
        settings,
        model_name=args.model_name,
        key=args.answers_key,
        results=results,
    )
    (print_tasks if args.tasks else print_domains)(recorded)
    print(f"{Path(args.output) / 'results.json'}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from llava_mocle.cli.eval_tables import print_domains, print_tasks
    from llava_mocle.errors import ConfigError
    from llava_mocle.evaluation.answering.together import part_of_this_process
    from llava_mocle.evaluation.suite import SuiteSettings, TasksFailed, evaluate_tasks
    from llava_mocle.evaluation.tasks.held_out import evaluate_rows

    part = part_of_this_process(args.num_chunks, args.chunk_idx)
    if part.has_partners and args.device is None:
        args.device = _device_of_rank()
    settings = SuiteSettings(
        limit=args.limit,
        batch_size=args.batch_size,
        num_beams=args.num_beams,
        prompts=args.prompts,
        max_new_tokens=args.max_new_tokens,
        length_penalty=args.length_penalty,
        repetition_penalty=args.repetition_penalty,
        dataset=args.dataset,
        overwrite=args.overwrite,
        skip_unaskable=args.skip_unaskable,
    )
    # What is asked is read before the model, which takes longer.
    tasks = _benchmarks(args) if args.tasks else []
    domains, train_rows = ({}, None) if args.tasks else _recipe_rows(args.recipe) if args.recipe else _file_rows(args)
    predictor = load_predictor(args)
    check_dataset(args, predictor)
    if tasks and predictor.router == "dataset" and args.dataset is None:
        raise ConfigError(f"{args.model}: is routed by dataset; --dataset NAME says whose expert answers.")
    failed: TasksFailed | None = None
    try:
        if tasks:
            results = evaluate_tasks(predictor, tasks, args.data_root, args.output, settings, part=part)
        else:
            results = evaluate_rows(predictor, domains, args.output, settings, train_rows=train_rows, part=part)
    except TasksFailed as error:
        failed, results = error, error.results
    if results:
        (print_tasks if tasks else print_domains)(results)
        print(f"{Path(args.output) / 'results.json'}")
    if failed:
        raise failed
    return 0


def _device_of_rank() -> str | None:
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else None


def _benchmarks(args: argparse.Namespace) -> "list[Task]":
    """The benchmarks of `--tasks`, whose files are there, with the judge that grades them; --answers need no images."""
    from llava_mocle.errors import ConfigError
    from llava_mocle.evaluation.registry import get_tasks
    from llava_mocle.evaluation.tasks.medical_qa import MedicalQA
    from llava_mocle.evaluation.tasks.mmbench import MMBench
    from llava_mocle.evaluation.tasks.shared.judge import Judge, JudgedTask

    if bool(args.judge_url) != bool(args.judge_model):
        raise ConfigError("--judge-url and --judge-model go together; one of them is missing.")
    tasks, judge = get_tasks(args.tasks), None
    if args.judge_url:
        log = Path(args.output) / "judge.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        limits = {"max_tokens": args.judge_max_tokens, "runs": args.judge_runs}
        judge = Judge(args.judge_url, args.judge_model, log=log, **limits)
    for task in tasks:
        if not args.answers:
            task.check(Path(args.data_root))
        if isinstance(task, JudgedTask):
            task.judge = judge
        if isinstance(task, MedicalQA):
            task.legacy = args.legacy_llava_med
        if isinstance(task, MMBench):
            task.matcher = args.mmbench_matcher
    return tasks


def _recipe_rows(recipe_path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The held-out rows of a recipe's datasets, and their training rows."""
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
    """The rows of `--rows` and `--train-rows`; the file's name is the domain's."""
    from llava_mocle.data.rows import read_rows

    name = Path(args.rows).stem
    train_rows = {name: read_rows(args.train_rows)} if args.train_rows else None
    return {name: (read_rows(args.rows), args.image_folder)}, train_rows
