"""The names and things that several tasks speak of."""

from __future__ import annotations

from typing import Final


def words(text: str) -> tuple[str, ...]:
    """The words of a text with spaces between them."""
    return tuple(text.split())


NAMES: Final = words(
    "Anna Ben Carla David Emma Felix Grace Henry Iris Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tina Victor Wendy "
    "Adam Bella Carl Dora Eric Fiona George Helen Ivan Julia Kevin Laura Martin Nina Oscar"
)
CITIES: Final = words(
    "Paris London Rome Berlin Madrid Oslo Vienna Lisbon Dublin Prague Athens Warsaw Cairo Tokyo Delhi Lima Quito "
    "Boston Denver Austin"
)
FOODS: Final = words("apples pears plums eggs rolls cakes cookies oranges lemons peaches melons onions")
