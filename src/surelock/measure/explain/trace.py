"""Decodes prompts with and without locks and traces what the locks did to what was written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from surelock.decoding.canvases import Mask
from surelock.llm import LLM
from surelock.measure.explain.case import Case, Damage, Guilty, Position
from surelock.measure.forced.causes import Causes, Flip, LockedCanvas, find_causes, find_causes_of_choice
from surelock.measure.forced.lockstep import Locks, self_paced
from surelock.measure.instrumented import InstrumentedDecoder, Recorder, RunRecord
from surelock.measure.posteriors import compare
from surelock.params import SamplingParams
from surelock.text.prompts import Prompt

# Damaged tokens of one run that are traced, and guilty locks of each that are listed.
MAX_DAMAGE = 24
MAX_GUILTY = 6
MASK_SHOWN = "[MASK]"


def explain(
    llm: LLM,
    prompts: Prompt | Sequence[Prompt],
    params: SamplingParams,
    *,
    rule: str,
    worst: int = 5,
    progress: Callable[[str], None] | None = None,
) -> list[Case]:
    """The prompts whose runs with and without locks differ most, explained; the worst first.

    Args:
        llm: the model; in float32, or rounding is explained too.
        prompts: as for `LLM.generate`.
        params: how to decode; at temperature 0 and without guidance; its lock is the rule to explain.
        rule: its name, for the reader.
        worst: how many to explain.
        progress: called with one line about what is being done.

    Raises: as `LLM.generate`; ParameterError also for a cfg_scale or a temperature.
    """
    show = progress or (lambda message: None)
    encoded = llm.encode(prompts, params)
    params = replace(params, stop=(), ignore_eos=True)
    order = list(range(len(encoded)))
    if len(encoded) > worst:
        show("looking for the worst cases")
        starts: list[Prompt] = [{"canvas_token_ids": list(ids)} for ids in encoded]
        unlocked, locked = (llm.generate(starts, each) for each in (replace(params, lock=None), params))
        num_different = [
            sum(a != b for a, b in zip(x.canvas_token_ids, y.canvas_token_ids, strict=True))
            for x, y in zip(unlocked, locked, strict=True)
        ]
        order = sorted(order, key=lambda index: -num_different[index])[:worst]
    cases = []
    for index in order:
        show(f"explaining prompt {index + 1}")
        cases.append(_explain(llm, encoded[index], params, rule, index + 1))
    return sorted(cases, key=lambda case: case.agreement)


def _explain(llm: LLM, canvas: Sequence[int | None], params: SamplingParams, rule: str, number: int) -> Case:
    model = llm.transformer
    unlocked = InstrumentedDecoder(model).run([canvas], replace(params, lock=None))
    recorder = Recorder()
    locks: Locks | None = None
    damage: list[Damage] = []
    num_damage = 0
    have_parted = False
    for paired in self_paced(model, [canvas], params):
        side = paired.sides["locked"]
        recorder.add(side.step)
        locks = side.locks.after(side.step)
        chosen, expected = paired.committed[0], unlocked.committed_at[0] == paired.step
        rows = chosen.nonzero().squeeze(1)
        if not bool(side.frozen.any()):
            continue
        locked = LockedCanvas.of(paired, "locked", 0)
        if not have_parted and bool((chosen != expected).any()):
            damage.append(_choice(llm, locked, expected & ~chosen, chosen & ~expected))
            num_damage += 1
        have_parted |= bool(((paired.tokens[0] != unlocked.tokens[0]) | (chosen != expected))[chosen | expected].any())
        found = compare(paired.fresh_logits[0, rows], side.step.logits[0, rows], llm.config.mask_token_id)
        rows = rows[found.flipped]
        num_damage += len(rows)
        rows = rows[: max(0, MAX_DAMAGE - len(damage))]
        if len(rows):
            damage += [_rewritten(llm, paired.step, flip) for flip in find_causes(locked, rows)]
    assert locks is not None
    return _case(llm, unlocked, recorder.record(), locks, damage, rule, number, num_damage)


def _case(
    llm: LLM,
    unlocked: RunRecord,
    locked: RunRecord,
    locks: Locks,
    damage: list[Damage],
    rule: str,
    number: int,
    num_damage: int,
) -> Case:
    pairs = (
        list(zip(*(tensor[0].tolist() for tensor in (unlocked.tokens, unlocked.committed_at)), strict=True)),
        list(zip(*(tensor[0].tolist() for tensor in (locked.tokens, locked.committed_at)), strict=True)),
    )
    differences = [
        (min(step for step in (i, j) if step > 0), position)
        for position, ((x, i), (y, j)) in enumerate(zip(*pairs, strict=True))
        if (x, i) != (y, j) and max(i, j) > 0
    ]
    first = min(differences, default=(None, 0))[0]
    generated = [(x, y) for (x, i), (y, _) in zip(*pairs, strict=True) if i != 0]
    known = locks.at[0].tolist(), locks.age[0].tolist(), locks.kl[0].tolist(), locks.uncertainty[0].tolist()
    positions = [
        Position(
            given=i == 0,
            unlocked=shown,
            locked=also_shown,
            differs=x != y,
            unlocked_step=max(i, 0),
            locked_step=max(j, 0),
            locked_at=at or None,
            age_at_lock=age if at else None,
            kl_at_lock=_finite(kl) if at else None,
            uncertainty_at_lock=_finite(uncertainty) if at else None,
        )
        for shown, also_shown, (x, i), (y, j), at, age, kl, uncertainty in zip(
            _shown(llm, [x for x, _ in pairs[0]]), _shown(llm, [y for y, _ in pairs[1]]), *pairs, *known, strict=True
        )
    ]
    return Case(
        model=llm.name,
        rule=rule,
        number=number,
        num_steps=len(locked.num_active),
        active_ratio=float(locked.active_ratio[0]),
        agreement=sum(x == y for x, y in generated) / len(generated),
        first_step=first,
        first_positions=[position for step, position in differences if step == first],
        positions=positions,
        damage=damage,
        num_damage=num_damage,
    )


def _choice(llm: LLM, locked: LockedCanvas, expected: Mask, chosen: Mask) -> Damage:
    """The surest position that should have been unmasked, and the surest that was in its place."""
    places = []
    for logits, where in ((locked.fresh_logits, expected), (locked.logits, chosen)):
        log_p = logits.log_softmax(1)
        log_p[:, locked.mask_token_id] = -math.inf
        confidence, tokens = log_p.max(1)
        place = int(confidence.masked_fill(~where, -math.inf).argmax())
        places.append((place, int(tokens[place])))
    (instead_of, fresh), (position, written) = places
    shown = _shown(llm, [fresh, written])
    row = torch.tensor([position], device=locked.inputs.device)
    kl = float(compare(locked.fresh_logits[row], locked.logits[row], locked.mask_token_id).kl)
    causes = find_causes_of_choice(locked, instead_of, position)
    return _damage(locked.step, position, instead_of, shown, kl, causes)


def _rewritten(llm: LLM, step: int, flip: Flip) -> Damage:
    shown = _shown(llm, [flip.fresh_token, flip.locked_token])
    return _damage(step, flip.position, None, shown, flip.kl, flip.causes)


def _damage(
    step: int, position: int, instead_of: int | None, shown: Sequence[str], kl: float, causes: Causes
) -> Damage:
    pairs = list(zip(causes.locks, causes.gains, strict=True))
    return Damage(
        position=position,
        step=step,
        instead_of=instead_of,
        fresh=shown[0],
        written=shown[1],
        kl=kl,
        guilty=[Guilty(position=lock, gain=gain) for lock, gain in pairs[:MAX_GUILTY]],
        num_guilty=len(pairs),
        alone=causes.alone,
    )


def _shown(llm: LLM, tokens: Sequence[int]) -> list[str]:
    """What a reader sees of each token; its id where the model has no tokenizer."""
    if llm.tokenizer is None:
        return [f" {token}" for token in tokens]
    return llm.tokenizer.decode_visible(tokens, MASK_SHOWN)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
