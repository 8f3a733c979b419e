"""The snippets of docs/inference.md run on a trained tiny model."""

from pathlib import Path

from tests.docs.snippets import run_page


def test_the_page_asks_and_draws(trained: Path, user_folder: Path) -> None:
    names = run_page("inference")
    assert names["prediction"].cluster_id in (0, 1)
    assert len(names["predictions"]) == 3
    assert names["predictions"][0].text == names["prediction"].text
    assert names["predictions"][0].cluster_id == names["explanation"].cluster_id
    for figure in ("clusters", "losses", "routing"):
        assert (user_folder / f"{figure}.png").is_file()
        assert (user_folder / f"{figure}.csv").is_file()
