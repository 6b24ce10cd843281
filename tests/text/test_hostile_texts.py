"""Tokenizers and chat templates made to hang or to fill memory: each is refused in one line, within 5 s and 1 GiB."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.checkpoints import write_checkpoint
from tests.hostile import Hostile, check_refused
from tests.tokenizer_folders import save

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of processes as Linux does")

Build = Callable[[Path], object]
ADDED: Final = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


def template(source: str) -> Build:
    return lambda folder: save(folder, chat_template=source)


def tokenizer(**changes: Any) -> Build:
    """tokenizer.json with other values."""

    def build(folder: Path) -> None:
        path = save(folder) / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return build


def model(**changes: Any) -> Build:
    """tokenizer.json with other values in its model."""
    return tokenizer(model={"type": "BPE", "vocab": {"a": 0}, "merges": [], **changes})


def settings(**changes: Any) -> Build:
    """tokenizer_config.json with other values."""
    return lambda folder: save(folder, **changes)


def text(name: str, content: str) -> Build:
    """A file of the tokenizer's folder with other text."""
    return lambda folder: (save(folder) / name).write_text(content)


def split(pattern: str) -> Build:
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return tokenizer(pre_tokenizer=part)


def doubling(expression: str, first: str) -> Build:
    """A template that doubles a value 60 times."""
    loop = f"{{% for i in range(60) %}}{{% set ns.x = {expression} %}}{{% endfor %}}"
    return template(f"{{% set ns = namespace(x={first}) %}}{loop}{{{{ ns.x }}}}{{{{ ns.x == [] }}}}")


def chat(name: str, build: Build, words: str) -> Hostile:
    return Hostile(name, build, words, "TokenizerError", door="chat")


def load(name: str, build: Build, words: str) -> Hostile:
    return Hostile(name, build, words, "TokenizerError")


LOOPS: Final = "{% for i in range(99999) %}{% for j in range(99999) %}X{% endfor %}{% endfor %}"
REPLACE: Final = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
HOSTILE: Final = [
    chat("nested blocks", template("{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}"), "Block in line 1"),
    chat("sums", template("{{ [range(9), range(9)] | map('sum') | sum }}"), "the filter sum is not allowed"),
    chat("lists", template("{{ ([range(100000)] * 100000) | map('list') | list }}"), "units of work"),
    chat("sorting", template("{{ ([range(100000)] * 9999) | map('sort') | list }}"), "units of work"),
    chat("groups", template("{{ range(100000) | groupby('x') }}"), "the filter groupby is not allowed"),
    chat("batches", template("{{ [1] | batch(1000000000) | list }}"), "the filter batch is not allowed"),
    chat("indentation", template("{{ 'a' | indent(1000000000) }}"), "an indentation may have 16 characters"),
    chat("text with +", doubling("ns.x + ns.x", "'a'"), "units of work"),
    chat("text with ~", doubling("ns.x ~ ns.x", "'a'"), "units of work"),
    chat("lists with +", doubling("ns.x + ns.x", "[1]"), "units of work"),
    chat("lists in lists", doubling("[ns.x, ns.x]", "[1]"), "a value has more than 32 levels"),
    chat("wide lists in lists", doubling("[ns.x] * 1000 if i < 5 else ns.x", "[1]"), "units of work"),
    chat("squares", doubling("ns.x * ns.x", "3"), "an integer has more than 1024 bits"),
    chat("power", template("{{ 10 ** 10 ** 10 }}"), "Pow in line 1 is not allowed"),
    chat("product", template("{{ 'a' * 1000000000 }}"), "units of work"),
    chat("empty loops", template(LOOPS.replace("X", "")), "units of work"),
    chat("loops over nothing", template(LOOPS.replace("(99999) %}X", "(99999) if false %}")), "units of work"),
    chat("the rest of a loop", template(LOOPS.replace("X", "{% if loop | list %}{% endif %}")), "namespace or loop"),
    chat("macros", template("{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(60) }}"), "of work"),
    chat("text of a macro", template("{% macro f() %}" + "a" * 60_000 + "{% endmacro %}{% for i in range(99999) %}"
         "{% set x = f() %}{% endfor %}"), "units of work"),
    chat("callers", template("{% macro f() %}{{ caller() ~ caller() }}{% endmacro %}" + "{% call f() %}" * 30 + "a"
         + "{% endcall %}" * 30), "units of work"),
    chat("format", template("{{ '%1000000000d' % 1 }}"), "% is only allowed between numbers"),
    chat("odd format", template("{{ '%1000000000d' is odd }}"), "the test odd of str is not allowed"),
    chat("format method", template("{{ '{:1000000000}'.format(1) }}"), "calling 'format' is not allowed"),
    chat("padding", template("{{ 'a'.center(1000000000) }}"), "calling 'center' is not allowed"),
    chat("replacing", template("{{ ('a' * 99999).replace('', 'b' * 99999) }}"), "units of work"),
    chat("joining", template("{{ ('a' * 99999).join('b' * 99999) }}"), "units of work"),
    chat("stripping", template("{{ ('a' * 800000).strip('b' * 400000 ~ 'a') }}"), "units of work"),
    chat("searching", template(LOOPS.replace("X", "{% if 'b' in 'a' * 800000 %}{% endif %}")), "units of work"),
    chat("time", template("{{ strftime_now('%c' * 100000) }}"), "units of work"),
    chat("work given back", template(LOOPS.replace("X", "{{ [-9999] | map('counted work') | list }}")), "of work"),
    chat("a megabyte", template("{{1}}" * 200_000), "the limit is 65536"),
    chat("many parts", template("{{1}}" * 13_000), "more than 10000 parts"),
    chat("long sum", template("{{ " + "1+" * 30_000 + "1 }}"), "more than 10000 parts"),
    chat("parentheses", template("{{ " + "(" * 30_000 + "1" + ")" * 30_000 + " }}"), "RecursionError"),
    load("growing replacements", tokenizer(normalizer={"type": "Sequence", "normalizers": [REPLACE] * 8}), "400000000"),
    load("growing decoder", tokenizer(decoder={"type": "Sequence", "decoders": [REPLACE] * 8}), "decoder can make a"),
    load("long prefix", tokenizer(normalizer={"type": "Prepend", "prepend": "a" * 10_000_000}), "40000004 times as"),
    load("map of characters", tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": ""}), "'Pre"),
    load("parts of parts", tokenizer(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 17}), "16 p"),
    load("pattern", split(r"(a+)+b"), "may backtrack for ever"),
    load("slow pattern", split(r"\s+b"), "may backtrack for ever"),
    load("long pattern", split("a" * 100_000), "1 to 1000 characters"),
    load("large pattern", split("((a{99}){99}){99}"), "may backtrack for ever"),
    load("added tokens", tokenizer(added_tokens=[{"id": i, "content": f"<{i}>", **ADDED} for i in range(200_000)]),
         "the limit is 8192"),
    load("added tokens of settings", settings(extra_special_tokens=[f"<{i}>" for i in range(100_000)]), "is 8192"),
    load("long added token", settings(pad_token="a" * 3_000_000), "at most 3000000 characters"),
    load("white space that strips", tokenizer(added_tokens=[{"id": 0, "content": " ", **ADDED, "lstrip": True}]),
         "is white space and strips it as well"),
    load("dropout", model(dropout=0.1), "dropout is 0.1, which makes encoding random"),
    load("large id", model(vocab={"a": 4_000_000_000}), "must be from 0 to 1048576"),
    load("long token", model(vocab={"a" * 10_000_000: 0}), "at most 512 characters"),
    load("large vocabulary", model(vocab={f"{i:x}": i for i in range(300_000)}), "of at most 262144 tokens"),
    load("many merges", model(merges=["a a"] * 600_000), "of at most 500000"),
    load("prefix of words", model(continuing_subword_prefix="a" * 10_000), "the limit is 16 characters"),
    load("unigrams", model(type="Unigram", vocab=[["a", 0.0]]), "it must be one of BPE, WordPiece, WordLevel"),
    load("many values", text("tokenizer.json", '{"x":[' + "[]," * 5_000_000 + "[]]}"), "the limit is 2097152"),
    load("many settings", text("tokenizer_config.json", '{"x":[' + "[]," * 500_000 + "[]]}"), "the limit is 131072"),
    load("many older tokens", text("added_tokens.json", '{"x":[' + "[]," * 500_000 + "[]]}"), "the limit is 131072"),
    load("nesting", text("tokenizer.json", '{"x":' + "[" * 1_000_000), "nested too deeply"),
    load("two models", text("tokenizer.json", '{"model":{},"model":{}}'), "'model'"),
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_refused_in_one_line(tmp_path: Path, hostile: Hostile) -> None:
    check_refused(hostile, write_checkpoint(tmp_path / "model"))
