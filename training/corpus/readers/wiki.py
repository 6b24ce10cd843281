"""Leads of Wikipedia articles and recipes of Wikibooks, from data of two assistants' skills."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from training.corpus.archives import member
from training.corpus.clean import has_contact, is_prose, paragraph
from training.corpus.document import Document

_MIN_INGREDIENTS: Final = 2


def read_leads(path: Path) -> Iterator[Document]:
    """One document an article, named by its title."""
    for title, article in json.loads(member(path, r"data/summaries_en-us\.json$")).items():
        paragraphs = [text for text in map(paragraph, article["extract"].split("\n")) if is_prose(text)]
        if paragraphs:
            yield Document(title, paragraphs)


def read_recipes(path: Path) -> Iterator[Document]:
    """One document a recipe, named by its page: its title, its ingredients, and its steps with their numbers."""
    for page, recipe in json.loads(member(path, r"data/recipes_en-us\.json$")).items():
        paragraphs = recipe_paragraphs(recipe)
        if paragraphs:
            yield Document(page, paragraphs)


def recipe_paragraphs(recipe: dict[str, Any]) -> list[str]:
    """Title, ingredients and steps; nothing if there is no step or fewer than two ingredients."""
    cleaned = [paragraph(text) for text in recipe.get("ingredients") or []]
    ingredients = [re.sub(r"\(/?\)|^\W+", "", text).strip() for text in cleaned if text]
    steps = [text for text in map(paragraph, recipe.get("steps") or []) if text and not has_contact(text)]
    if len(ingredients) < _MIN_INGREDIENTS or not steps:
        return []
    return [
        f"Recipe: {paragraph(recipe['title'])}.",
        "Ingredients: " + "; ".join(ingredients) + ".",
        *(f"{number}. {step}" for number, step in enumerate(steps, 1)),
    ]
