"""Fields of OpenAI's interface, and of servers that extend it, that have no meaning for a masked diffusion model.

The server and batch jobs follow one rule: what could not change the answer is ignored; what would change it is accepted
at the value that asks for nothing and refused at any other; every other name is refused, with a suggestion. Each door
adds the fields that mean something at the other one only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final

IGNORED: Final = frozenset(
    {
        "metadata",
        "no_stop_trim",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "skip_special_tokens",
        "store",
        "user",
        "verbosity",
    }
)
# Each with the values that ask for nothing. null always does.
NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "audio": (),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_json": (),
    "guided_regex": (),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "return_hidden_states": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (-1, 0),
    "top_p": (1,),
    "web_search_options": (),
}


def asks_for_nothing(value: object, neutral: Iterable[object]) -> bool:
    """Whether a value is null or one of the neutral ones of its field."""
    # True is equal to 1, and is no number.
    return value is None or any(value == own and isinstance(value, bool) == isinstance(own, bool) for own in neutral)


def suggestion(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The known name closest to a misspelt one as `; did you mean ...?`, or nothing.

    Args:
        cutoff: how alike they must be, from 0 to 1.
    """
    # Comparing takes time that grows with the length, which a client chooses.
    close = get_close_matches(name[:64], list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""
