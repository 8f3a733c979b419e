"""The thirteen sets against the paper's Table 9."""

from llava_mocle.data.formats.instructblip import INSTRUCTBLIP_SETS
from llava_mocle.data.formats.instruction_templates import TEMPLATES
from llava_mocle.data.formats.registry import FORMATS
from llava_mocle.data.formats.templated import TemplatedFormat

# Dataset, data source, task template group. The paper prints VQA for ok_vqg, which its own name contradicts.
TABLE_9 = """
aok_vqa A-OKVQA VQAMC
aok_vqg A-OKVQA VQG
coco_cap COCO CAP
coco_vqa VQAv2 VQA
coco_vqg VQAv2 VQG
ocrvqa OCR-VQA VQA
ok_vqa OKVQA VQA
ok_vqg OKVQA VQG
textcaps TextCaps OCRCAPS
capfilt WebCapFilt CAP
llava_conversation LLaVA-150K -
llava_detail LLaVA-150K -
llava_reason LLaVA-150K -
"""


def test_table_9() -> None:
    rows = [line.split() for line in TABLE_9.strip().splitlines()]
    assert [form.name for form in INSTRUCTBLIP_SETS] == [name for name, _, _ in rows]
    for form, (name, data_source, group) in zip(INSTRUCTBLIP_SETS, rows, strict=True):
        assert FORMATS[name] is form
        assert form.task_group == group
        assert form.uses_variants == (group in TEMPLATES)
        if isinstance(form, TemplatedFormat):
            assert form.data_source.replace(" ", "") == data_source


def test_only_files_of_training_splits_are_asked_for() -> None:
    # TextVQA's zip has the images of both splits; which are used, the captions' file says.
    names = {file.name for form in INSTRUCTBLIP_SETS for file in form.files}
    assert not [name for name in names if "val" in name or "test" in name]
