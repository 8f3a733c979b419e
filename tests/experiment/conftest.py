from tests.tiny_run import base, clusters, encoder, mix, recipe_file  # noqa: F401
