"""Where a thing is, after people have walked about with it."""

from __future__ import annotations

import random
from typing import Any, Final

from surelock.measure.tasks.task import NAMES, Meta, words, worked_task

_PLACES: Final = words("kitchen garden bedroom office bathroom hallway garage cellar attic library")
_THINGS: Final = words("apple ball book key lamp cup hat coin pen bottle letter map ring box clock knife rope shoe")
_SENTENCES: Final = {
    "go": ("{0} went to the {1}.", "{0} walked to the {1}.", "{0} moved to the {1}."),
    "take": ("{0} picked up the {1}.", "{0} took the {1}."),
    "drop": ("{0} put down the {1}.", "{0} left the {1} there."),
}


def _draw(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    moved: list[str] = []
    # A story in which nothing is touched has no question.
    while not moved:
        people, things = rng.sample(NAMES, 3 if level == 3 else 2), rng.sample(_THINGS, 2)
        events = _events(rng, people, things, num_events={1: 4, 2: 6, 3: 9}[level])
        moved = sorted({what for kind, _, what in events if kind != "go"})
    thing = rng.choice(moved)
    story = " ".join(rng.choice(_SENTENCES[kind]).format(person, what) for kind, person, what in events)
    return f"{story} Where is the {thing} now?", {"events": events, "thing": thing}


def _events(rng: random.Random, people: list[str], things: list[str], num_events: int) -> list[list[str]]:
    """[kind, person, place or thing] each: every person arrives somewhere, then num_events more things happen."""
    place_of = {person: rng.choice(_PLACES) for person in people}
    events = [["go", person, place] for person, place in place_of.items()]
    holder_of: dict[str, str] = {}
    floor_of: dict[str, str] = {}
    for _ in range(num_events):
        person = rng.choice(people)
        here = place_of[person]
        # A thing that was never touched may be anywhere.
        free = [thing for thing in things if thing not in holder_of and floor_of.get(thing, here) == here]
        held = [thing for thing, holder in holder_of.items() if holder == person]
        chance = rng.random()
        if free and chance < 0.45:
            what = rng.choice(free)
            kind = "take"
            holder_of[what] = person
        elif held and chance < 0.62:
            what = rng.choice(held)
            kind = "drop"
            del holder_of[what]
            floor_of[what] = here
        else:
            what = rng.choice([place for place in _PLACES if place != here])
            kind = "go"
            place_of[person] = what
        events.append([kind, person, what])
    return events


def _followed(meta: Meta) -> tuple[list[str], str]:
    """What happens to the thing, a line each, and where it is at last."""
    thing = meta["thing"]
    place_of: dict[str, str] = {}
    holder, place, lines = None, "", []
    for kind, person, what in meta["events"]:
        if kind == "go":
            place_of[person] = what
            if holder == person:
                place = what
                lines.append(f"{person} carries the {thing} to the {place}.")
        elif what == thing:
            place = place_of[person]
            holder = person if kind == "take" else None
            lines.append(f"{person} {'takes' if kind == 'take' else 'leaves'} the {thing} in the {place}.")
    return lines, place


STORY = worked_task(_draw, lambda meta: _followed(meta)[0], lambda meta: _followed(meta)[1])
