from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.corpus.packages import write_package
from training.corpus.document import Document
from training.corpus.readers.wiki import read_leads, read_recipes, recipe_paragraphs

RECIPE = {"title": "Tea", "ingredients": ["1 cup water", "( ) \u00bd spoon tea", ""], "steps": ["Boil.", "", "Steep."]}


def test_leads(tmp_path: Path) -> None:
    articles = {
        "Tea": {"extract": "Tea is an aromatic drink.\n\n(2024)\nIt came from the south of Asia."},
        "Nothing": {"extract": "..."},
    }
    files = {"ovos/data/summaries_en-us.json": json.dumps(articles).encode()}
    assert list(read_leads(write_package(tmp_path / "p.whl", files))) == [
        Document("Tea", ["Tea is an aromatic drink.", "It came from the south of Asia."])
    ]


def test_recipes(tmp_path: Path) -> None:
    files = {"ovos/data/recipes_en-us.json": json.dumps({"Cookbook:Tea": RECIPE, "Cookbook:Air": {}}).encode()}
    assert list(read_recipes(write_package(tmp_path / "p.whl", files))) == [
        Document("Cookbook:Tea", ["Recipe: Tea.", "Ingredients: 1 cup water; 1/2 spoon tea.", "1. Boil.", "2. Steep."])
    ]


@pytest.mark.parametrize("change", [{"ingredients": ["tea"]}, {"steps": ["See www.example.org."]}, {"steps": None}])
def test_a_recipe_without_its_parts_is_left_out(change: dict[str, Any]) -> None:
    assert recipe_paragraphs(RECIPE | change) == []
