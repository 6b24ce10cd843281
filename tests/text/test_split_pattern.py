"""`surelock.text.split_pattern`: the patterns of published tokenizers are allowed, those that backtrack are not."""

from __future__ import annotations

import pytest

from surelock.text.split_pattern import MAX_PATTERN, is_linear

SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
MARKS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
UPPER, LOWER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


@pytest.mark.parametrize(
    "pattern",
    [
        rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}",
        rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|{SPACES}",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        rf"{UPPER}*{LOWER}+{SUFFIX}?|{UPPER}+{LOWER}*{SUFFIX}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}",
        rf"{MARKS}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}",
        r"[一-龥぀-ゟ゠-ヿ]+",  # noqa: RUF001
        r" ?[^(\s|[.,!?…。，、।۔،])]+",  # noqa: RUF001
        r"[0-9][0-9][0-9]",
        r" {2,}",
        r"\s+",
    ],
)
def test_published_patterns_are_linear(pattern: str) -> None:
    assert is_linear(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+b",
        r"(a|aa)+",
        r"a*a*b",
        r"\s+b",
        r"a{20}",
        r"((a{16}){16}){16}",
        r"a?a?a?a?aaaa",
        r"(a|b)(a|b)(a|b)ab",
        r"(?=a+b)",
        r"(?<=a+)b",
        r"(.)\1",
        r"\g<0>",
        r"[a&&[^b]]",
        r"\R*b",
        # A known alternative is only safe as a whole, with what comes after it.
        r"\s*[\r\n]+",
        r"\s*[\r\n]+|\s|\s+(?!\S)|\s+",
        r"\s+(?!\S)|\s+b",
        r"(?:\s+(?!\S)|\s+)+",
        "\0",
        "(",
        "a" * (MAX_PATTERN + 1),
    ],
)
def test_slow_patterns_are_not(pattern: str) -> None:
    assert not is_linear(pattern)
