"""Join a language model, a vision tower and a new projector into a LLaVA base folder, ready for stage 1.

example:
  llava-mocle build --language-model vicuna-7b-v1.5 --vision-tower clip-vit-large-patch14-336 --output base/llava_7b
"""

import argparse

from llava_mocle.io.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language-model", type=user_path, required=True, metavar="DIR", help="folder of a causal language model"
    )
    parser.add_argument(
        "--vision-tower", type=user_path, required=True, metavar="DIR", help="folder of a CLIP, SigLIP or grid tower"
    )
    parser.add_argument(
        "--output", type=user_path, required=True, metavar="DIR", help="folder to create; never overwritten"
    )
    parser.add_argument(
        "--template", help="prompt template: vicuna_v1, llama_2, mistral, chat, ...; default: found in the tokenizer"
    )
    parser.add_argument(
        "--vision-feature-layer", type=int, metavar="N", help="hidden state that feeds the projector; default: -2"
    )
    parser.add_argument(
        "--vision-feature-select-strategy",
        choices=("default", "full"),
        help="`default` drops the class token; default: `default` for CLIP, `full` for towers without one",
    )
    parser.add_argument(
        "--dtype", default="auto", help="float32, bfloat16 or float16; default: the language model's own"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the projector's initial weights; default: 0")


def run(args: argparse.Namespace) -> int:
    from llava_mocle.data.template_names import TEMPLATE_NAMES
    from llava_mocle.errors import ConfigError
    from llava_mocle.io.folders import refuse_to_overwrite
    from llava_mocle.io.jsonl import read_json
    from llava_mocle.model import build_llava
    from llava_mocle.model.folders import TEMPLATE_FILE

    refuse_to_overwrite(args.output)
    if args.template is not None and args.template not in TEMPLATE_NAMES:
        raise ConfigError(f"--template is {args.template!r}; use one of {', '.join(TEMPLATE_NAMES)}")
    folder = build_llava(
        args.language_model,
        args.vision_tower,
        args.output,
        template=args.template,
        vision_feature_layer=args.vision_feature_layer,
        vision_feature_select_strategy=args.vision_feature_select_strategy,
        dtype=args.dtype,
        seed=args.seed,
    )
    config = read_json(folder / "config.json")
    template = read_json(folder / TEMPLATE_FILE)["template"]
    print(
        f"{folder}: {config['text_config']['model_type']} + {config['vision_config']['model_type']}, "
        f"{config['image_seq_length']} tokens an image, template {template}"
    )
    return 0
