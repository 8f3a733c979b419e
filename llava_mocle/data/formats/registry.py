"""The formats by name. A new one is one line here."""

from llava_mocle.data.formats.format import Format
from llava_mocle.data.formats.geo170k import Geo170K, Geo170KAlignment, Geo170KQaTuning
from llava_mocle.data.formats.instructblip import INSTRUCTBLIP_SETS
from llava_mocle.data.formats.llava_665k import Llava665K
from llava_mocle.data.formats.medical import MedMix, PathVqa, Slake, VqaRad

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Llava665K(),
        Geo170KAlignment(),
        Geo170KQaTuning(),
        Geo170K(),
        VqaRad(),
        Slake(),
        PathVqa(),
        MedMix(),
        *INSTRUCTBLIP_SETS,
    )
}
