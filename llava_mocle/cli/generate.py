"""Answer one prompt, with or without images, and say which cluster it took.

examples:
  llava-mocle generate --model runs/demo_mocle --image dog.png --prompt "What is this?"
  llava-mocle generate --model runs/demo_mocle --prompt "Is there a circle?" --image shapes.png --explain
"""

import argparse
from typing import TYPE_CHECKING, Any

from llava_mocle.cli.model_flags import add_image_flag, add_model_flags, check_dataset, load_predictor
from llava_mocle.errors import DataError
from llava_mocle.inference.flags import add_penalty_flags
from llava_mocle.io.paths import looked_for, user_path, why_no_file
from llava_mocle.io.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from llava_mocle.inference import Explanation, Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=user_path, required=True, help="a trained checkpoint, a stage-1 folder or a base folder"
    )
    parser.add_argument(
        "--prompt", required=True, help="the question; <image> marks where images go (default: in front)"
    )
    add_image_flag(parser, "image files; leave out for text only")
    parser.add_argument("--explain", action="store_true", help="also show the cluster's instructions and mean gates")
    parser.add_argument("--cluster-id", type=int, help="use this cluster instead of the prompt's own")
    parser.add_argument("--dataset", help="for a model routed by dataset: the dataset's name")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--num-beams", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default): greedy; otherwise sample")
    parser.add_argument("--top-p", type=float, help="with --temperature: nucleus sampling")
    add_penalty_flags(parser)
    add_model_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(args: argparse.Namespace) -> int:
    from llava_mocle.inference.request import check_text

    check_text("--prompt", args.prompt)
    for image in args.image:  # before the model, which takes longer
        if (trouble := why_no_file(image)) is not None:
            raise DataError(f"--image {one_line(image)}: {trouble}{looked_for(image)}")
    predictor = load_predictor(args)
    check_dataset(args, predictor)
    # Explained first: a model that can't be explained says so before the answer is waited for.
    explanation = predictor.explain(args.prompt, cluster_id=args.cluster_id) if args.explain else None
    prediction = predictor.predict(
        args.image or None,
        args.prompt,
        max_new_tokens=args.max_new_tokens,
        num_beams=args.num_beams,
        temperature=args.temperature,
        top_p=args.top_p,
        length_penalty=args.length_penalty,
        repetition_penalty=args.repetition_penalty,
        cluster_id=args.cluster_id,
        dataset=args.dataset,
    )
    if args.json:
        _print_json(prediction, explanation)
    else:
        _print_text(prediction, explanation)
    return 0


def _print_json(prediction: "Prediction", explanation: "Explanation | None") -> None:
    import json
    from dataclasses import asdict

    record: dict[str, Any] = asdict(prediction)
    if explanation is not None:
        record["explanation"] = asdict(explanation)
    print(json.dumps(record, ensure_ascii=False))


def _print_text(prediction: "Prediction", explanation: "Explanation | None") -> None:
    from llava_mocle.io.console import say, table_console

    console = table_console(highlight=False)
    say(console, prediction.text or "(empty answer)", style="bold")
    if prediction.cluster_id is None:
        say(console, "no cluster: this model is not routed by cluster", style="dim")
    else:
        distance = "" if prediction.cluster_distance is None else f", distance {prediction.cluster_distance:.3f}"
        say(console, f"cluster {prediction.cluster_id}{distance}", style="dim")
    if explanation is not None:
        _print_explanation(console, explanation)


def _print_explanation(console: "Console", explanation: "Explanation") -> None:
    from rich.table import Table

    from llava_mocle.io.console import print_table, say

    # Some baselines have a cluster model and no gate that looks at it.
    routed = explanation.num_sites > 0
    say(console, f"\n{'routed' if routed else 'clustered'} by: {explanation.route_text}")
    say(console, "instructions nearest the centre of this cluster:")
    for instruction in explanation.nearest_instructions:
        say(console, f"  - {instruction}")
    if not routed:
        say(console, "nothing is routed by this cluster: the model has no gate that looks at it")
        return
    table = Table(title=f"mean gate over {explanation.num_sites} sites", title_justify="left")
    for column in ("expert", "mean gate", "chosen at"):
        table.add_column(column, justify="right")
    for expert, (gate, share) in enumerate(zip(explanation.mean_gates, explanation.expert_share, strict=True)):
        table.add_row(str(expert), f"{gate:.3f}", f"{100 * share:.0f} % of sites")
    if explanation.universal_weight is not None:
        table.add_row("universal", f"{explanation.universal_weight:.3f}", "all sites")
    print_table(console, table)
