"""Images with text in them: OCR-VQA's book covers, and TextCaps."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from llava_mocle.data.formats.format import LeftOut, OfficialFile, OfficialRows
from llava_mocle.data.formats.images import official_images
from llava_mocle.data.formats.lavis_text import caption_text, question_text
from llava_mocle.data.formats.templated import Sample, TemplatedFormat
from llava_mocle.data.official_files import ID, field, json_records, one_of, read_json
from llava_mocle.errors import DataError

_OCRVQA, _OCRVQA_IMAGES = "ocr_vqa/dataset.json", "ocr_vqa/images"
_TRAIN, _OTHERS = 1, (2, 3)
OTHER_SPLIT = LeftOut("it is of the validation or test split", official=False)
_TEXTCAPS, _TEXTCAPS_OCR = "textcaps/TextCaps_0.1_train.json", "textcaps/TextVQA_Rosetta_OCR_v0.2_train.json"
_TEXTCAPS_IMAGES, _TEXTCAPS_ZIP = "textvqa/train_images", "textvqa/train_val_images.zip"


class OcrVqa(TemplatedFormat):
    """One sample a question of a book cover with `split` 1.

    Images are named as the official downloader does, by the cover's key with the ending of `imageURL`, or with ".jpg".

    {"0001": {"imageURL": "http://images/0001.jpg", "questions": ["Who wrote this?"], "answers": ["A. Writer"],
              "split": 1}}
    """

    name = "ocrvqa"
    summary = "OCR-VQA's training questions on book covers"
    task_group = "VQA"
    data_source = "OCR-VQA"
    files = (
        OfficialFile(_OCRVQA, "ocr-vqa.github.io, dataset.json", "not stated", "not stated"),
        OfficialFile(_OCRVQA_IMAGES, "ocr-vqa.github.io, by its loadDataset.py", "not stated", "not stated"),
    )
    rows = OfficialRows((801579,), "training questions (Laurençon et al., The Cauldron, 2024)")

    def samples(self, source: Path, images: Path) -> Iterator[Sample | LeftOut]:
        path = source / _OCRVQA
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(f"{path}: a {type(content).__name__}, expected an object with a cover under each key.")
        covers = official_images(source, _OCRVQA_IMAGES)
        for name, record in content.items():
            place = f"{path}, cover {name}"
            questions, answers = (field(record, key, place, list[str]) for key in ("questions", "answers"))
            if len(questions) != len(answers):
                raise DataError(f"{place}: {len(questions)} questions with {len(answers)} answers; expected as many.")
            if one_of(record, "split", place, _TRAIN, *_OTHERS) != _TRAIN:
                yield from [OTHER_SPLIT] * len(questions)
                continue
            ending = PurePosixPath(field(record, "imageURL", place, str)).suffix
            found = (
                covers.place(f"{name}{end}", images, _OCRVQA_IMAGES) for end in dict.fromkeys((ending, ".jpg")) if end
            )
            image = next((file for file in found if file is not None), None)
            for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
                yield Sample(f"{name}-{number}", image, question_text(question), (answer,))


class TextCaps(TemplatedFormat):
    """One sample a caption; the request starts with what Rosetta read in the image.

    The benchmark TextVQA shows the model such tokens too, but routes by its question alone. A caption's request has no
    question, and the paper clusters whole instructions, so here the tokens route together with the template.

    captions: {"data": [{"image_id": "00a1b2", "caption_id": 7, "caption_str": "A boat.", "set_name": "train"}]}
    tokens: {"data": [{"image_id": "00a1b2", "ocr_tokens": ["NORTH", "STAR"]}]}
    """

    name = "textcaps"
    summary = "TextCaps' training captions, with what was read in the image"
    task_group = "OCRCAPS"
    data_source = "TextCaps"
    files = (
        OfficialFile(_TEXTCAPS, "textvqa.org/textcaps/dataset, v0.1 training set", "173 MB", "CC BY 4.0"),
        OfficialFile(_TEXTCAPS_OCR, "textvqa.org/dataset, Rosetta OCR tokens v0.2 (train)", "not stated", "CC BY 4.0"),
        OfficialFile(
            "textvqa/train_*",
            "textvqa.org/dataset, train_val_images.zip, also unpacked",
            "6.6 GB",
            "CC BY 2.0 (Open Images)",
        ),
    )
    rows = OfficialRows((109765,), "captions of the training set v0.1, of 21,953 images (textvqa.org/textcaps/dataset)")

    def samples(self, source: Path, images: Path) -> Iterator[Sample | LeftOut]:
        ocr = source / _TEXTCAPS_OCR
        tokens: dict[Any, list[str]] = {}
        for place, record in json_records(ocr, "data"):
            tokens[field(record, "image_id", place, ID)] = field(record, "ocr_tokens", place, list[str])
        photos = official_images(source, _TEXTCAPS_IMAGES, _TEXTCAPS_ZIP)
        for place, record in json_records(source / _TEXTCAPS, "data"):
            one_of(record, "set_name", place, "train")
            name = field(record, "image_id", place, ID)
            if name not in tokens:
                raise DataError(f"{place}: image {name} has no OCR tokens in {ocr}; is that the file of train?")
            image = photos.place(f"{name}.jpg", images, _TEXTCAPS_IMAGES)
            caption = caption_text(field(record, "caption_str", place, str))
            key = str(field(record, "caption_id", place, ID))
            yield Sample(key, image, caption, ocr_tokens=tokens[name])
