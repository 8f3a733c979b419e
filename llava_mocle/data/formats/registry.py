"""The formats by name. A new one is one line here."""

from llava_mocle.data.formats.format import Format
from llava_mocle.data.formats.instructblip import INSTRUCTBLIP_SETS
from llava_mocle.data.formats.medical import MedMix, PathVqa, Slake, VqaRad

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        VqaRad(),
        Slake(),
        PathVqa(),
        MedMix(),
        *INSTRUCTBLIP_SETS,
    )
}
