"""FLOPs of a request, counted from the rows it computed, in three modes that are never mixed.

| mode | rows | LM head | unit |
| --- | --- | --- | --- |
| `paper` | the request as a batch of its own, so no pads | no | per canvas position, summed over steps |
| `exact` | positions computed | no | total |
| `full` | positions computed | rows whose logits were computed | total |

`full` is what locking really saves, and the mode wherever one number is shown; the other two compare with the paper.
Rows that pad a captured graph are in none of them. Matrix products only, two operations per multiply-add, as in the
paper (arXiv 2602.06412, section 2.4). `paper_batch` counts the pads of a batch as well, which is how the paper's own
tables were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal

from surelock.models.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCost:
    """FLOPs of one row in one step.

    Attributes:
        linear: all projections and feed-forwards of all layers.
        attention_per_key: scores and weighted values of all layers, for each position attended to.
        head: the logits of the row over the whole embedding.
    """

    linear: int
    attention_per_key: int
    head: int

    @classmethod
    def from_config(cls, config: ModelConfig) -> RowCost:
        """Cost of a row of a model with grouped-query attention and a gated feed-forward (paper, section 2.4)."""
        hidden = config.hidden_size
        query_and_out = 4 * hidden * config.query_size
        key_and_value = 4 * hidden * config.kv_size
        feed_forward = 6 * hidden * config.intermediate_size
        return cls(
            linear=config.num_layers * (query_and_out + key_and_value + feed_forward),
            attention_per_key=config.num_layers * 4 * config.query_size,
            head=2 * hidden * config.embedding_size,
        )

    def transformer(self, num_positions: int) -> int:
        """FLOPs of a row that attends to `num_positions` keys, without the LM head."""
        return self.linear + self.attention_per_key * num_positions


def exact_flops(config: ModelConfig, num_rows: int, num_positions: int, num_streams: int = 1) -> int:
    """FLOPs of num_rows rows, over any number of steps, of a canvas of num_positions: the `exact` mode, unchecked."""
    return num_rows * RowCost.from_config(config).transformer(num_positions) * num_streams


def full_flops(
    config: ModelConfig,
    *,
    num_rows: int,
    num_steps: int,
    num_positions: int,
    num_masked: int,
    num_tested: int,
    num_streams: int = 1,
) -> tuple[int, int]:
    """FLOPs of a request so far and of the same steps without locks: the `full` mode, unchecked.

    Args:
        config: of the model.
        num_rows: positions computed, over all steps. num_masked, num_tested: likewise; see `request_flops`.
        num_steps: steps done. num_positions: canvas length N. num_streams: 2 under guidance.
    """
    head = RowCost.from_config(config).head
    locked = exact_flops(config, num_rows, num_positions, num_streams) + head * (num_masked + 2 * num_tested)
    return locked, exact_flops(config, num_steps * num_positions, num_positions, num_streams) + head * num_masked


def request_flops(
    config: ModelConfig,
    *,
    active_rows: Sequence[int],
    num_positions: int,
    masked_rows: Sequence[int],
    candidate_rows: Sequence[int],
    num_streams: int = 1,
) -> dict[str, dict[str, float]]:
    """FLOPs of one request in every mode, with its locks and without.

    `base` is the same steps with every position computed and the LM head on the masked rows. `paper` is a cost per
    row, so a second stream changes nothing in it; `exact` counts both streams; under guidance the streams are combined
    before the head, so `full` adds each head row once.

    Args:
        config: of the model.
        active_rows: positions computed in each step, counted once whatever the number of streams.
        num_positions: canvas length N.
        masked_rows: rows in each step whose logits choose a token.
        candidate_rows: rows in each step that take the KL test; each costs two head rows, its logits of this step and
            those of the step before, which are recomputed.
        num_streams: 2 under classifier-free guidance, else 1.

    Returns:
        {"paper" | "exact" | "full": {"base", "locked", "ratio"}}; ratio = locked / base. A request that ran no step
        has 0.0 for both and a ratio of 1.0: nothing was spent and nothing saved.

    Raises:
        ValueError: the counts do not describe the same steps, or do not fit the canvas.
    """
    _check_at_least("num_positions", num_positions, 1)
    _check_at_least("num_streams", num_streams, 1)
    num_steps = len(active_rows)
    for name, rows in (("active_rows", active_rows), ("masked_rows", masked_rows), ("candidate_rows", candidate_rows)):
        _check_rows(name, rows, num_steps, num_positions)

    row = RowCost.from_config(config).transformer(num_positions)
    exact_locked = exact_flops(config, sum(active_rows), num_positions, num_streams)
    exact_base = exact_flops(config, num_steps * num_positions, num_positions, num_streams)
    full_locked, full_base = full_flops(
        config,
        num_rows=sum(active_rows),
        num_steps=num_steps,
        num_positions=num_positions,
        num_masked=sum(masked_rows),
        num_tested=sum(candidate_rows),
        num_streams=num_streams,
    )
    return {
        "paper": _compare(num_steps * row, sum(active_rows) * row / num_positions),
        "exact": _compare(exact_base, exact_locked),
        "full": _compare(full_base, full_locked),
    }


def paper_batch(
    config: ModelConfig,
    *,
    prompt_lengths: Sequence[int],
    num_generated: int,
    steps: int,
    active_rows: Sequence[Sequence[int]] | None = None,
) -> dict[str, float]:
    """The paper's own accounting of one batch: pads are rows, and always active.

    Every sequence is padded to N = max(prompt_lengths) + num_generated. Costs are per row, without the LM head, summed
    over steps. Over several batches the paper's tables average these values weighted by each batch's rows B x N.

    Args:
        config: of the model.
        prompt_lengths: tokens of each prompt of the batch.
        num_generated: N_gen, masked positions appended to each prompt.
        steps: denoising steps of the batch.
        active_rows: for each sequence, its own positions computed in each step, pads not counted
            (`RequestStats.active_rows`). None: nothing locks.

    Returns:
        {"base", "locked", "ratio", "active_ratio"}; active_ratio is the paper's r-bar, pads included. In one batch all
        rows cost the same, so ratio and active_ratio agree; over several batches they need not.

    Raises:
        ValueError: a count is out of range, or `active_rows` does not fit the sequences and steps.
    """
    if not prompt_lengths:
        raise ValueError("prompt_lengths is empty; give the length of at least one prompt")
    for length in prompt_lengths:
        _check_at_least("prompt_lengths", length, 0)
    _check_at_least("num_generated", num_generated, 1)
    _check_at_least("steps", steps, 1)

    num_positions = max(prompt_lengths) + num_generated
    num_rows = len(prompt_lengths) * num_positions
    num_computed = num_rows * steps
    if active_rows is not None:
        if len(active_rows) != len(prompt_lengths):
            raise ValueError(
                f"active_rows has {len(active_rows)} sequences; it must have {len(prompt_lengths)}, one for each prompt"
            )
        num_computed = 0
        for prompt_length, rows in zip(prompt_lengths, active_rows, strict=True):
            own = prompt_length + num_generated
            _check_rows("active_rows", rows, steps, own)
            num_computed += sum(rows) + steps * (num_positions - own)

    row = RowCost.from_config(config).transformer(num_positions)
    return _compare(steps * row, num_computed * row / num_rows) | {"active_ratio": num_computed / (num_rows * steps)}


def truncated(value: float, digits: int = 4) -> str:
    """`value` cut, not rounded, to that many significant digits, as the paper prints: 1.799591e12 -> "1.799e12".

    Raises:
        ValueError: `digits` is below 1, or `value` is not finite.
    """
    _check_at_least("digits", digits, 1)
    # str first: the decimal digits a reader sees, not those of the nearest binary fraction.
    number = Decimal(str(value))
    if not number.is_finite():
        raise ValueError(f"value is {value}; it must be finite")
    cut = Context(prec=digits, rounding=ROUND_DOWN).plus(number)
    mantissa, exponent = f"{float(cut):.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _compare(base: float, locked: float) -> dict[str, float]:
    return {"base": float(base), "locked": float(locked), "ratio": locked / base if base else 1.0}


def _check_at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise ValueError(f"{name} is {value}; it must be at least {low}")


def _check_rows(name: str, rows: Sequence[int], num_steps: int, num_positions: int) -> None:
    if len(rows) != num_steps:
        raise ValueError(f"{name} has {len(rows)} steps; it must have {num_steps}, one count for each step")
    # This runs after every step of a watched request: the place of a bad count is only looked for if there is one.
    if rows and not 0 <= min(rows) <= max(rows) <= num_positions:
        step, count = next((i, n) for i, n in enumerate(rows, start=1) if not 0 <= n <= num_positions)
        raise ValueError(f"{name} is {count} in step {step}; it must be from 0 to {num_positions} positions")
