"""What tests of several files need."""

from tests.tiny_instructblip import (  # noqa: F401
    instructblip_base,
    instructblip_clusters,
    instructblip_recipe,
    instructblip_rows,
)
from tests.tiny_run import base, clusters, encoder, mix, recipe_file  # noqa: F401
