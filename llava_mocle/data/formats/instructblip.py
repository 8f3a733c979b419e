"""InstructBLIP's thirteen training sets, in the order of the paper's Table 9 and under its names."""

from llava_mocle.data.formats.aokvqa import AokVqa, AokVqg
from llava_mocle.data.formats.capfilt import WebCapFilt
from llava_mocle.data.formats.coco import CocoCaptions
from llava_mocle.data.formats.format import Format
from llava_mocle.data.formats.llava_150k import LlavaConversation, LlavaDetail, LlavaReason
from llava_mocle.data.formats.ocr_sets import OcrVqa, TextCaps
from llava_mocle.data.formats.vqa import CocoVqa, CocoVqg, OkVqa, OkVqg

INSTRUCTBLIP_SETS: tuple[Format, ...] = (
    AokVqa(),
    AokVqg(),
    CocoCaptions(),
    CocoVqa(),
    CocoVqg(),
    OcrVqa(),
    OkVqa(),
    OkVqg(),
    TextCaps(),
    WebCapFilt(),
    LlavaConversation(),
    LlavaDetail(),
    LlavaReason(),
)
