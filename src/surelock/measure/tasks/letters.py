"""Spelling words backwards and counting letters."""

from __future__ import annotations

import random
from typing import Any, Final

from surelock.measure.tasks.task import Meta, words, worked_task

_WORDS: Final = words(
    "stone river table garden window silver orange planet basket candle mirror pencil rabbit summer winter yellow "
    "bottle forest island market bridge castle letter button carpet dragon engine flower guitar hammer jacket kettle "
    "ladder magnet needle parrot pocket rocket saddle tunnel velvet wallet zipper banana camera desert effort finger "
    "ginger helmet insect jungle kitten lemon monkey number oyster pepper quarter ribbon spider turtle valley walnut "
    "cotton butter cheese cherry copper mountain elephant notebook sandwich umbrella hospital children football "
    "sentence triangle airplane breakfast"
)


def _draw_spell(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    chosen = [rng.choice(_WORDS) for _ in range(level)]
    noun, each = ("word", "it") if level == 1 else ("words", "each one")
    return f"Spell the {noun} {', '.join(chosen)} and write {each} backwards.", {"words": chosen}


def _work_spell(meta: Meta) -> list[str]:
    return [f"{word}: {' '.join(word)}. Backwards: {' '.join(word[::-1])}." for word in meta["words"]]


def _draw_count(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    chosen = [rng.choice(_WORDS) for _ in range(2 * level)]
    text = "".join(chosen)
    repeated = [letter for letter in sorted(set(text)) if text.count(letter) > 1]
    letter = rng.choice(repeated or ["e"])
    question = f"How many times is the letter {letter} in: {' '.join(chosen)}?"
    return question, {"words": chosen, "letter": letter}


def _work_count(meta: Meta) -> list[str]:
    lines, total = [], 0
    for word in meta["words"]:
        num_here = word.count(meta["letter"])
        total += num_here
        lines.append(f"{word}: {' '.join(word)}, {num_here} here, {total} so far.")
    return lines


SPELL = worked_task(_draw_spell, _work_spell, lambda meta: ", ".join(word[::-1] for word in meta["words"]))
COUNT = worked_task(_draw_count, _work_count, lambda meta: str("".join(meta["words"]).count(meta["letter"])))
