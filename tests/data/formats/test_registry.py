"""What every format says of itself."""

from llava_mocle.data.formats.format import Joined
from llava_mocle.data.formats.registry import FORMATS


def test_the_registry():
    for name, form in FORMATS.items():
        assert form.name == name
        assert form.summary
        assert form.rows.stated_by, "say who states the number of rows, or why it is not known"
        assert form.task_group or isinstance(form, Joined)
        for file in form.files:
            assert file.place
            assert file.size
            assert file.license
