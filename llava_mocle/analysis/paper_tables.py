"""The paper's result tables as data: which benchmark and metric a column is, and the numbers printed there.

Source: Gou et al., Mixture of Cluster-conditional LoRA Experts for Vision-language Instruction Tuning
(arXiv 2312.12379), Tables 2, 3 and 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column: its heading, and where our number comes from.

    Attributes:
        scorer: the scorer that the published number was made with, see `Task.scorer`; None: any.
    """

    label: str
    task: str
    metric: str
    scorer: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        rows: method -> numbers in the order of the columns, None where the paper has none.
        compared: the method that our difference is taken from.
        prompts: the prompt style of the runs that belong here.
    """

    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    compared: str
    prompts: str


_INSTRUCTBLIP = ("InstructBLIP 7B", "InstructBLIP 7B + MoCLE")

TABLE_2 = PaperTable(
    title="Table 2: InstructBLIP, held-out and held-in benchmarks",
    columns=(
        Column("GQA", "gqa", "accuracy", "LAVIS"),
        Column("VSR", "vsr", "accuracy"),
        Column("IconQA", "iconqa", "accuracy"),
        Column("VisDial", "visdial", "mrr"),
        Column("MME", "mme", "perception"),
        Column("POPE", "pope", "f1_adversarial"),
        Column("A-OKVQA direct", "aokvqa_direct", "accuracy_exact"),
        Column("A-OKVQA MC", "aokvqa_mc", "accuracy"),
        Column("OKVQA", "okvqa", "accuracy", "vqaEval.py"),
        Column("VQAv2", "vqav2", "accuracy"),
    ),
    rows={
        _INSTRUCTBLIP[0]: (48.6, 60.8, 43.4, 46.3, 1202.9, 77.6, 58.8, 73.8, 57.0, 77.4),
        _INSTRUCTBLIP[1]: (49.3, 64.7, 46.3, 46.9, 1222.6, 82.1, 61.5, 78.2, 59.8, 78.9),
    },
    compared=_INSTRUCTBLIP[1],
    prompts="instructblip",
)

TABLE_3 = PaperTable(
    title="Table 3: InstructBLIP, zero-shot benchmarks",
    columns=(
        Column("Flickr30k", "flickr30k", "cider"),
        Column("TextVQA", "textvqa", "accuracy"),
        Column("HatefulMemes", "hatefulmemes", "roc_auc"),
        Column("ScienceQA", "scienceqa", "accuracy_img"),
        Column("MSVD-QA", "msvd_qa", "accuracy"),
        Column("MSRVTT-QA", "msrvtt_qa", "accuracy"),
        Column("iVQA", "ivqa", "accuracy"),
    ),
    rows={
        _INSTRUCTBLIP[0]: (81.3, 53.9, 65.3, 62.0, 41.4, 23.0, 51.3),
        _INSTRUCTBLIP[1]: (81.9, 57.1, 65.6, 63.9, 42.6, 24.4, 53.2),
    },
    compared=_INSTRUCTBLIP[1],
    prompts="instructblip",
)

TABLE_4 = PaperTable(
    title="Table 4: LLaVA-1.5-7B, general, geometry and medical benchmarks",
    columns=(
        Column("MME", "mme", "total"),
        Column("MMB", "mmbench", "circular", "VLMEvalKit 2024"),
        Column("SQA", "scienceqa", "accuracy_img"),
        Column("GeoQA", "geoqa", "accuracy"),
        Column("RAD open", "vqa_rad", "open_recall"),
        Column("RAD closed", "vqa_rad", "closed_accuracy"),
        Column("SLAKE open", "slake", "open_recall"),
        Column("SLAKE closed", "slake", "closed_accuracy"),
        Column("Path open", "pathvqa", "open_recall"),
        Column("Path closed", "pathvqa", "closed_accuracy"),
    ),
    rows={
        "single LoRA, LLaVA-665k": (1804, 65.89, 67.67, None, None, None, None, None, None, None),
        "single LoRA, Geo170k": (None, None, None, 57.82, None, None, None, None, None, None),
        "single LoRA, medical mix": (None, None, None, None, 53.90, 84.19, 86.05, 85.58, 38.07, 91.77),
        "single LoRA, all data": (1794, 64.69, 66.78, 57.56, 46.89, 77.94, 84.61, 82.45, 35.56, 90.71),
        "MoCLE, all data": (1838, 66.07, 67.38, 60.21, 53.59, 81.98, 83.29, 85.10, 35.21, 91.65),
    },
    compared="MoCLE, all data",
    prompts="llava",
)

TABLES = (TABLE_2, TABLE_3, TABLE_4)
