"""Cases say what the runs did, survive a file, and become a page that needs nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from surelock import LLM, LockParams, SamplingParams
from surelock.errors import ParameterError
from surelock.measure.explain import Case, Damage, Guilty, Position, explain, page, read_cases
from tests.checkpoints import write_checkpoint

LITERAL = LockParams(kl_threshold=1e6, min_visible_steps=0)
PARAMS = SamplingParams(max_tokens=9, lock=LITERAL)
PROMPTS = [{"prompt_token_ids": ids} for ids in ([1, 2, 3], [4, 5, 6, 7], [8, 9])]
HOSTILE = "</style><script>alert(1)</script>&\"'"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    llm = LLM(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), embedding_size=80), device="cpu")
    for layer in llm.transformer.layers:
        # So that rows listen to each other and some change their mind.
        layer.attn_out.weight *= 6  # type: ignore[operator, union-attr]
    return llm


@pytest.fixture(scope="module")
def cases(llm: LLM) -> list[Case]:
    return explain(llm, PROMPTS, PARAMS, rule="literal")


def test_cases_are_the_runs(llm: LLM, cases: list[Case]) -> None:
    free = llm.generate(PROMPTS, replace(PARAMS, lock=None, ignore_eos=True))
    locked = llm.generate(PROMPTS, replace(PARAMS, ignore_eos=True))
    assert sorted(case.number for case in cases) == [1, 2, 3]
    assert [case.agreement for case in cases] == sorted(case.agreement for case in cases)
    assert cases[0].agreement < 1
    for case in cases:
        a, b = free[case.number - 1], locked[case.number - 1]
        assert [position.unlocked for position in case.positions] == [f" {token}" for token in a.canvas_token_ids]
        assert [position.locked for position in case.positions] == [f" {token}" for token in b.canvas_token_ids]
        assert [position.locked_at for position in case.positions] == b.stats.locked_at
        assert case.active_ratio == pytest.approx(b.stats.active_ratio)
        same = [not position.differs for position in case.positions if not position.given]
        assert case.agreement == pytest.approx(sum(same) / 9)
        assert any(position.is_ghost for position in case.positions)


def test_what_the_locks_decided_names_locks(cases: list[Case]) -> None:
    assert any(damage.instead_of is None for case in cases for damage in case.damage)
    assert any(damage.instead_of is not None for case in cases for damage in case.damage)
    for case in cases:
        for damage in case.damage:
            written = case.positions[damage.position]
            assert written.locked_step == damage.step
            assert written.locked == damage.written
            assert damage.num_guilty >= len(damage.guilty) >= 1
            for guilty in damage.guilty:
                locked_at = case.positions[guilty.position].locked_at
                assert locked_at is not None
                assert locked_at < damage.step
        choices = [damage for damage in case.damage if damage.instead_of is not None]
        assert len(choices) <= 1
        assert all(damage.step == case.first_step for damage in choices)
        if case.first_step is not None:
            assert case.first_positions
            assert all(damage.step >= case.first_step for damage in case.damage)


def test_the_worst_are_chosen(llm: LLM, cases: list[Case]) -> None:
    (worst,) = explain(llm, PROMPTS, PARAMS, rule="literal", worst=1)
    assert worst == cases[0]


def test_a_rule_that_never_locks_has_nothing_to_explain(llm: LLM) -> None:
    params = replace(PARAMS, lock=LockParams(kl_threshold=-1.0))
    (case,) = explain(llm, PROMPTS[0], params, rule="never")
    assert (case.agreement, case.first_step, case.damage, case.num_damage) == (1.0, None, [], 0)
    assert "the runs never part" in page([case])


def test_only_plain_decoding_is_explained(llm: LLM) -> None:
    for params in (replace(PARAMS, temperature=0.5), replace(PARAMS, cfg_scale=1.0)):
        with pytest.raises(ParameterError, match="temperature 0 and without guidance"):
            explain(llm, PROMPTS, params, rule="literal")


def test_files_hold_cases(cases: list[Case]) -> None:
    content = b"\n".join(case.to_json() for case in cases) + b"\n\n"
    assert read_cases(content, "cases.jsonl") == cases


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "f holds no case"),
        (b"\n[]", "f line 2 is not a case of `surelock explain --json`"),
        (b"{", "f line 1 is not a case"),
        (b"\xff", "f line 1 is not a case"),
    ],
)
def test_other_files_are_refused(content: bytes, fragment: str) -> None:
    with pytest.raises(ParameterError) as caught:
        read_cases(content, "f")
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_case_that_names_no_position_is_refused() -> None:
    for bad in (
        replace(hostile_case(), first_positions=[7]),
        replace(hostile_case(), damage=[replace(hostile_case().damage[0], position=-1)]),
        replace(hostile_case(), damage=[replace(hostile_case().damage[0], guilty=[Guilty(position=3, gain=1.0)])]),
    ):
        with pytest.raises(ParameterError, match="its canvas has 3"):
            read_cases(bad.to_json(), "f")


class Tags(HTMLParser):
    """Names of the elements, and the values of attributes that load something."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.loaded: list[str | None] = []
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "srcset", "data", "action")]
        self.links |= {str(value) for name, value in attrs if name == "href"}
        self.ids |= {str(value) for name, value in attrs if name == "id"}

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_case() -> Case:
    given = Position(given=True, unlocked=HOSTILE, locked=HOSTILE, differs=False, unlocked_step=0, locked_step=0)
    ghost = Position(
        given=False, unlocked="a", locked=HOSTILE, differs=True, unlocked_step=1, locked_step=1, locked_at=1,
        age_at_lock=0, kl_at_lock=1e-5, uncertainty_at_lock=0.5,
    )  # fmt: skip
    last = Position(given=False, unlocked="\n", locked="", differs=True, unlocked_step=2, locked_step=2)
    damage = Damage(
        position=2, step=2, fresh=HOSTILE, written="", kl=0.5, guilty=[Guilty(position=1, gain=1.0)], num_guilty=1,
        alone=True,
    )  # fmt: skip
    return Case(
        model=HOSTILE, rule=HOSTILE, number=1, num_steps=2, active_ratio=0.5, agreement=0.0, first_step=1,
        first_positions=[1], positions=[given, ghost, last], damage=[damage], num_damage=3,
    )  # fmt: skip


def test_the_page_needs_nothing_and_escapes_everything() -> None:
    html = page([hostile_case()])
    tags = Tags()
    tags.feed(html)
    assert "script" not in tags.names
    assert not tags.names & {"link", "img", "iframe", "object"}
    assert not tags.loaded
    assert not re.search(r"url\(|@import|https?:", html)
    assert tags.links <= {f"#{name}" for name in tags.ids}
    assert tags.text.count(HOSTILE) >= 5
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert "2 more are not traced" in tags.text
    assert "a ghost, locked before its token was an input" in tags.text


def test_the_page_marks_what_happened() -> None:
    html = page([hostile_case()])
    (ghost,) = re.findall(r'class="([^"]*)" id="c1p1"', html)
    assert set(ghost.split()) == {"cell", "differs", "first", "guilty", "ghost"}
    (last,) = re.findall(r'class="([^"]*)" id="c1p2"', html)
    assert set(last.split()) == {"cell", "differs", "damaged"}
