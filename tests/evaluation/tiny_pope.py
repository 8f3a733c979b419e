"""A tiny model, and POPE in miniature for it."""

import json
from pathlib import Path

from PIL import Image

from tests.inference import tiny


def write_model(folder: Path) -> Path:
    """A checkpoint with its base and encoder below `folder`."""
    base = tiny.write_base(folder / "base")
    tiny.write_checkpoint(folder / "model", base, tiny.write_encoder(folder / "encoder"))
    return folder / "model"


def write_pope(root: Path) -> Path:
    """A data root with POPE's files: 3 + 2 + 2 questions."""
    (root / "pope" / "coco").mkdir(parents=True)
    (root / "pope" / "val2014").mkdir()
    number = 0
    for split, count in (("adversarial", 3), ("popular", 2), ("random", 2)):
        lines = []
        for index in range(count):
            number += 1
            Image.new("RGB", (20, 20), (30 * number, 90, 10)).save(root / "pope" / "val2014" / f"{number}.jpg")
            label = "yes" if index % 2 else "no"
            text = f"Is there a thing {number} in the image?"
            lines.append(json.dumps({"question_id": index + 1, "image": f"{number}.jpg", "text": text, "label": label}))
        (root / "pope" / "coco" / f"coco_pope_{split}.json").write_text("\n".join(lines))
    return root
