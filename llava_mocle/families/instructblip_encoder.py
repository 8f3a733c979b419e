"""InstructBLIP's samples of rows, as LAVIS makes them: the image, then the question, then the answer.

    input_ids          image x 32 a frame, start of text, question, answer, end of text
    qformer_input_ids  the question again, in the Q-Former's own vocabulary

In training LAVIS cuts the question on the left and the answer on the right. When it generates or ranks, it cuts only
what the Q-Former reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_mocle.data.collator import Collator
from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN, Rendered, Turn, row_turns
from llava_mocle.data.dataset import FixedImageEncoder
from llava_mocle.data.encoder import Batch, Candidates, ImageSource, Sample
from llava_mocle.data.measure import length_within
from llava_mocle.data.measure_cache import settings_key
from llava_mocle.data.token_counts import count_tokens
from llava_mocle.data.tokenize import IGNORE_INDEX, RowTooLong, encode_piece
from llava_mocle.errors import DataError

# LAVIS' max_txt_len and max_output_txt_len. Both count the start-of-text token, which is then taken off the answer.
QUESTION_TOKENS = 128
ANSWER_TOKENS = 256
_QFORMER_INPUTS = ("qformer_input_ids", "qformer_attention_mask")


class InstructBlipEncoder(FixedImageEncoder):
    """What `InstructBlipForConditionalGeneration` takes. Each frame of a video is an image.

    Args:
        qformer_tokenizer: the Q-Former's, which cuts on the left.
        tokenizer, options: as `FixedImageEncoder`. Without a `max_length`, there are LAVIS' limits alone.
    """

    def __init__(self, tokenizer: Any, qformer_tokenizer: Any, *parts: Any, **options: Any) -> None:
        super().__init__(tokenizer, *parts, **options)
        self.qformer_tokenizer = qformer_tokenizer

    def encode(self, row: Mapping[str, Any], images: Sequence[Image.Image], names: Sequence[str | Path]) -> Sample:
        """`input_ids` and `labels` (T,), `qformer_input_ids` and `qformer_attention_mask` (Q,), long, and
        `pixel_values` (frames, 3, H, W), float."""
        question, answer = first_pair(row)
        return self._trained(row, question, answer) | self._qformer_text(question) | self._pixels(images, names)

    def measure(self, rows: Sequence[Mapping[str, Any]], images: Sequence[Sequence[str]]) -> list[int]:
        pairs = [first_pair(row) for row in rows]
        texts = [self._rendered(question, answer) for question, answer in pairs]
        counts = count_tokens([(text.text, text.assistant_spans) for text in texts], self.tokenizer)
        start = len(self._start)
        lengths = []
        for row, pair, files, count in zip(rows, pairs, images, counts, strict=True):
            counted = None
            if count is not None and count.unsupervised is not None:
                asked = min(count.unsupervised, QUESTION_TOKENS - start)
                answered = min(count.tokens - count.unsupervised, ANSWER_TOKENS - start)
                counted = len(files) * self.image_tokens_per_image + start + asked + answered
            lengths.append(length_within(self.max_length, counted, partial(self._ids, row, *pair)))
        return lengths

    def measure_key(self, image_folder: str) -> str | None:
        limits = (self.image_token_id, self.image_tokens_per_image, self.max_length)
        key = settings_key(self.template, self.tokenizer, *limits)
        return None if key is None else f"{key}-instructblip"

    def prompt(self, turns: Sequence[Turn], images: Sequence[ImageSource]) -> Sample:
        question = self._asked(turns, images)
        ids = torch.tensor(self._prompt_ids(question, len(images)), dtype=torch.long)
        return {"input_ids": ids} | self._qformer_text(question) | self._pictures(images)

    def prompt_length(self, turns: Sequence[Turn], images: Sequence[ImageSource]) -> int:
        return len(self._prompt_ids(self._asked(turns, images), len(images)))

    def candidates(self, turns: Sequence[Turn], images: Sequence[ImageSource], answers: Sequence[str]) -> Candidates:
        question = self._asked(turns, images)
        alone = {"input_ids": torch.zeros(1, dtype=torch.long)} | self._qformer_text(question) | self._pictures(images)
        batch = self.collator()([alone])
        inputs = {key: value for key, value in batch.items() if key not in ("input_ids", "attention_mask")}
        return Candidates([self._answered(question, answer, len(images)) for answer in answers], inputs)

    def candidate_length(self, turns: Sequence[Turn], images: Sequence[ImageSource], answers: Sequence[str]) -> int:
        question = self._asked(turns, images)
        return max(len(self._answered(question, answer, len(images))["input_ids"]) for answer in answers)

    def collator(self, *, pad_token_id: int | None = None, left: bool = False) -> "QFormerCollator":
        pad = self.tokenizer.pad_token_id if pad_token_id is None else pad_token_id
        return QFormerCollator(Collator(pad, left=left), self.qformer_tokenizer.pad_token_id)

    def _trained(self, row: Mapping[str, Any], question: str, answer: str) -> dict[str, Tensor]:
        """Ids and labels of a row, cut as LAVIS cuts them, then at `max_length`."""
        front, asked, answered = self._parts(question, answer, len(shown_frames(row)))
        start = len(self._start)
        asked, answered = asked[-(QUESTION_TOKENS - start) :], answered[: ANSWER_TOKENS - start]
        before = len(front) + len(asked)
        if self.max_length is not None and before >= self.max_length:
            raise RowTooLong(
                f"row {row.get('id')!r}: {before} tokens of image and question, and no answer starts before "
                f"{self.max_length}"
            )
        return _labelled([*front, *asked], answered, self.max_length)

    def _answered(self, question: str, answer: str, frames: int) -> dict[str, Tensor]:
        """Ids and labels without any cut."""
        front, asked, answered = self._parts(question, answer, frames)
        return _labelled([*front, *asked], answered)

    def _parts(self, question: str, answer: str, frames: int) -> tuple[list[int], list[int], list[int]]:
        """The tokens of images and start of text, of the question, and of the answer with its end."""
        rendered = self._rendered(question, answer)
        found = encode_piece(rendered.text, rendered.assistant_spans, self.tokenizer)
        asked = [token for token, answers in found if not answers]
        answered = [token for token, answers in found if answers]
        return self._front(frames), asked, answered

    def _rendered(self, question: str, answer: str) -> Rendered:
        return self.template.render([Turn(HUMAN, question), Turn(ASSISTANT, answer)])

    def _ids(self, row: Mapping[str, Any], question: str, answer: str) -> Tensor:
        return self._trained(row, question, answer)["input_ids"]

    def _prompt_ids(self, question: str, frames: int) -> list[int]:
        text = self.template.render([Turn(HUMAN, question)], generation_prompt=True).text
        return self._front(frames) + [token for token, _ in encode_piece(text, (), self.tokenizer)]

    def _front(self, frames: int) -> list[int]:
        return [self.image_token_id] * (frames * self.image_tokens_per_image) + self._start

    def _asked(self, turns: Sequence[Turn], images: Sequence[ImageSource]) -> str:
        """The question of a request: one turn, about an image or the frames of a video."""
        if len(turns) != 1 or not images:
            raise DataError(
                f"InstructBLIP answers one question about an image or the frames of a video; found {len(turns)} turns "
                f"and {len(images)} images. Give one turn and at least one image."
            )
        return bare(turns[0].text)

    def _qformer_text(self, question: str) -> Sample:
        encoded = self.qformer_tokenizer(question, truncation=True, max_length=QUESTION_TOKENS, return_tensors="pt")
        return dict(zip(_QFORMER_INPUTS, (encoded["input_ids"][0], encoded["attention_mask"][0]), strict=True))


@dataclass(frozen=True)
class QFormerCollator:
    """Batches of samples: the texts as `Collator` pads them, the Q-Former's texts padded on the right.

    The model takes a question for each image. So a sample with F frames has its question F times in `qformer_input_ids`
    and `qformer_attention_mask` (sum of frames, Q), in the order of `pixel_values`.

    Args:
        texts: pads the language model's text.
        pad_token_id: of the Q-Former's tokenizer.
    """

    texts: Collator
    pad_token_id: int

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        batch = self.texts([{k: v for k, v in sample.items() if k not in _QFORMER_INPUTS} for sample in samples])
        frames = torch.tensor([len(sample["pixel_values"]) for sample in samples])
        for name, padding in zip(_QFORMER_INPUTS, (self.pad_token_id, 0), strict=True):
            padded = pad_sequence([sample[name] for sample in samples], batch_first=True, padding_value=padding)
            batch[name] = padded.repeat_interleave(frames, dim=0)
        return batch


def first_pair(row: Mapping[str, Any]) -> tuple[str, str]:
    """The first question and answer of a row, without image tags and outer white space. LAVIS trains on no others.

    Raises:
        DataError: as `shown_frames`, or a later turn shows an image.
    """
    shown_frames(row)
    first, answer, *later = row_turns(row)
    if any(IMAGE_TOKEN in turn.text for turn in (answer, *later)):
        raise DataError(
            f"conversations: an {IMAGE_TOKEN} tag behind the first human turn, and InstructBLIP reads the first "
            "question and answer only; move the tag into the first turn"
        )
    return bare(first.text), bare(answer.text)


def shown_frames(row: Mapping[str, Any]) -> list[str]:
    """The images of a row: one, or with `"video": true` the frames of one video.

    Raises:
        DataError: no image, several that are not said to be a video's, or a `video` that is not true or false.
    """
    image, video = row.get("image"), row.get("video")
    images = [image] if isinstance(image, str) else list(image or ())
    if video not in (None, True, False):
        raise DataError(f"video is {video!r:.60}, expected true where the images are the frames of one video")
    if not images:
        raise DataError("the row has no image, and InstructBLIP takes none without one; remove the row")
    if len(images) > 1 and not video:
        raise DataError(
            f"the row has {len(images)} images, and InstructBLIP takes one; if they are the frames of one video, add "
            '"video": true, else split or remove the row'
        )
    return images


def bare(text: str) -> str:
    """A turn's text without image tags and outer white space."""
    return text.replace(IMAGE_TOKEN, "").strip()


def _labelled(before: Sequence[int], answered: Sequence[int], max_length: int | None = None) -> dict[str, Tensor]:
    ids = torch.tensor([*before, *answered][:max_length], dtype=torch.long)
    labels = ids.clone()
    labels[: len(before)] = IGNORE_INDEX
    return {"input_ids": ids, "labels": labels}
