"""The recipes of docs/data.md for Kaggle, up to where an account and a network are needed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tools.clone import ROOT

PAGE = (ROOT / "docs/data.md").read_text()
RECIPES = [line.split("#")[0].strip() for line in PAGE.splitlines() if line.startswith("uvx kaggle ")]


def kaggle(recipe: str, home: Path, *more: str) -> subprocess.CompletedProcess:
    """Run a recipe with the client that is installed here and with nobody's credentials."""
    _, _, *words = shlex.split(recipe)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KAGGLE")}
    return subprocess.run(
        [Path(sys.executable).with_name("kaggle"), *words, *more],
        cwd=home,
        env=environment | {"HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_page_tells_how_to_download_and_how_to_submit():
    assert [shlex.split(recipe)[2:4] for recipe in RECIPES] == [
        ["competitions", "download"],
        ["competitions", "submit"],
    ]
    assert all("deep-learning-for-msc-2022-23" in recipe for recipe in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_client_takes_the_words_of_a_recipe_and_asks_for_an_account(recipe, tmp_path):
    done = kaggle(recipe, tmp_path)
    assert done.returncode == 1
    assert "Authentication required" in done.stdout + done.stderr


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_client_would_complain_of_words_that_it_does_not_know(recipe, tmp_path):
    done = kaggle(recipe, tmp_path, "--no-such-option")
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr
