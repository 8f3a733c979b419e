"""Convert a checkpoint of another system. Nothing in its files is executed, and every weight is accounted for.

--released    the MoCLE checkpoints that the authors published (InstructBLIP + MoCLE, a .pth of LAVIS, and a k-means):
              an adapter folder with its clusters, whose gates compute as the authors' code does
--lavis       an InstructBLIP of LAVIS with Vicuna (a .pth): a whole folder of transformers' InstructBLIP
--llava-lora  a LoRA folder of the original LLaVA-1.5 code: a plain LoRA folder for a base that is loaded here

What a file does not say is asked for, or taken from the authors' code and printed.
"""

import argparse

from llava_mocle.io.paths import user_path

_EXAMPLES = """examples:
  llava-mocle convert --released c64_t005.pth --kmeans cluster64.pkl --base instructblip-vicuna-7b \\
      --temperature 0.05 --output runs/authors_c64
      --base is a folder of transformers' InstructBLIP; the authors' language model is Vicuna-7B v1.1
  llava-mocle convert --lavis instruct_vicuna7b_trimmed.pth --language-model vicuna-7b-v1.1 --vision eva_vit_g.pth \\
      --output base/instructblip
      the .pth holds what LAVIS trained; the frozen parts come from a Vicuna folder and from LAVIS' file of the tower
  llava-mocle convert --lavis instruct_vicuna7b_trimmed.pth --base instructblip-vicuna-7b --output base/instructblip
      the same with the frozen parts, and the processor, of an InstructBLIP folder
  llava-mocle convert --llava-lora llava-v1.5-7b-lora --base base/llava_7b --output runs/llava_lora
      --base is what `llava-mocle build` makes of the Vicuna and the CLIP tower that the LoRA was trained on
"""
# kind -> what it needs, and what else it takes
_FLAGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "released": (("kmeans", "base"), ("temperature", "encoder")),
    "lavis": ((), ("base", "language_model", "vision", "qformer_tokenizer", "dtype")),
    "llava_lora": (("base",), ("vision_tower",)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.usage = f"{parser.prog} (--released FILE | --lavis FILE | --llava-lora DIR) [options] --output DIR"
    kinds = parser.add_argument_group("what to convert (one of the three)").add_mutually_exclusive_group(required=True)
    kinds.add_argument("--released", type=user_path, metavar="FILE", help="the authors' MoCLE checkpoint, a .pth")
    kinds.add_argument("--lavis", type=user_path, metavar="FILE", help="an InstructBLIP of LAVIS, a .pth")
    kinds.add_argument(
        "--llava-lora",
        type=user_path,
        metavar="DIR",
        help="a LoRA folder of LLaVA's code: adapter_config.json, adapter_model.*, non_lora_trainables.bin, "
        "config.json",
    )
    parser.add_argument(
        "--output", type=user_path, required=True, metavar="DIR", help="folder to create; never overwritten"
    )
    parser.add_argument(
        "--base",
        type=user_path,
        metavar="DIR",
        help="the model under it: an InstructBLIP folder of transformers' (--released, --lavis), or a LLaVA base "
        "folder (--llava-lora). Adapters are loaded on it later",
    )
    released = parser.add_argument_group("with --released")
    released.add_argument(
        "--kmeans", type=user_path, metavar="FILE", help="the clustering model published beside it, a file of joblib"
    )
    released.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="tau of the gates, where the checkpoint keeps none: 0.05 in the paper; the name of a released checkpoint "
        "says it (c64_t005: 0.05; c64_t010: 0.10)",
    )
    released.add_argument(
        "--encoder",
        type=user_path,
        metavar="DIR",
        help="the sentence encoder all-MiniLM-L6-v2; default: looked for as `llava-mocle cluster` does",
    )
    lavis = parser.add_argument_group("with --lavis")
    lavis.add_argument(
        "--language-model", type=user_path, metavar="DIR", help="the Vicuna folder it was trained with, if no --base"
    )
    lavis.add_argument(
        "--vision", type=user_path, metavar="FILE", help="LAVIS' eva_vit_g.pth, unless the checkpoint holds the tower"
    )
    lavis.add_argument(
        "--qformer-tokenizer",
        type=user_path,
        metavar="DIR",
        help="BERT's uncased tokenizer; default: google-bert/bert-base-uncased from the hub or its cache",
    )
    lavis.add_argument("--dtype", help="float32, bfloat16 or float16; default: the language model's own")
    parser.add_argument_group("with --llava-lora").add_argument(
        "--vision-tower",
        type=user_path,
        metavar="DIR",
        help="the CLIP tower of an original --base folder, if its config.json names another place",
    )


def run(args: argparse.Namespace) -> int:
    kind = next(kind for kind in _FLAGS if getattr(args, kind) is not None)
    options = _options(args, kind)
    source = getattr(args, kind)
    if kind == "released":
        from llava_mocle.conversion.released import convert_released

        lines = convert_released(source, options.pop("kmeans"), options.pop("base"), args.output, **options)
    elif kind == "lavis":
        from llava_mocle.conversion.lavis import convert_lavis

        lines = convert_lavis(source, args.output, **options)
    else:
        from llava_mocle.conversion.llava_lora import convert_llava_lora

        lines = convert_llava_lora(source, options.pop("base"), args.output, **options)
    print("\n".join([f"{source} -> {args.output}", *(f"  {line}" for line in lines)]))
    return 0


def _options(args: argparse.Namespace, kind: str) -> dict:
    """The flags that this kind takes and that were given.

    Raises:
        ConfigError: one is missing, or belongs to another kind.
    """
    from llava_mocle.errors import ConfigError

    needed, optional = _FLAGS[kind]
    known = {name for group in _FLAGS.values() for names in group for name in names}
    given = {name: getattr(args, name) for name in known if getattr(args, name) is not None}
    if missing := [name for name in needed if name not in given]:
        raise ConfigError(f"{_flag(kind)} needs {', '.join(map(_flag, missing))}; see llava-mocle convert --help")
    if foreign := sorted(set(given) - {*needed, *optional}):
        raise ConfigError(f"{', '.join(map(_flag, foreign))}: does not go with {_flag(kind)}; leave it out")
    return given


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
