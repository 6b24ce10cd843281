"""What the text view and the page say about a case, so that both say the same."""

from __future__ import annotations

from surelock.measure.explain.case import Case, Damage, Guilty, Position


def summary(case: Case) -> str:
    """One sentence about the whole run."""
    equal = f"{case.agreement:.0%} of the tokens are those of the run without locks"
    if case.first_step is None:
        parted = "the runs never part"
    else:
        parted = f"the runs part in step {case.first_step} of {case.num_steps}"
    return f"{equal}; {parted}; {case.active_ratio:.0%} of the rows were computed"


def damage_line(case: Case, damage: Damage) -> str:
    """What was written where, and what should have been."""
    if damage.instead_of is not None:
        return (
            f"step {damage.step}: unmasked position {damage.position} {quoted(damage.written)}, with nothing frozen it "
            f"would have been position {damage.instead_of} {quoted(damage.fresh)} first"
        )
    return (
        f"step {damage.step}, position {damage.position}: wrote {quoted(damage.written)}, with nothing frozen it would "
        f"have been {quoted(damage.fresh)} (KL {damage.kl:.2g} nats)"
    )


def guilty_heading(damage: Damage) -> str:
    """How the guilty locks of a flip share the blame."""
    if not damage.guilty:
        return "no lock found guilty: rounding"
    if damage.num_guilty == 1:
        return "guilty"
    listed = "" if len(damage.guilty) == damage.num_guilty else f", the worst {len(damage.guilty)} of them here"
    if damage.alone:
        return f"guilty: any one of {damage.num_guilty} locks{listed}"
    return f"guilty: {damage.num_guilty} locks together{listed}"


def guilty_line(case: Case, damage: Damage, guilty: Guilty) -> str:
    """When and how the lock was made."""
    lock = case.positions[guilty.position]
    distance = abs(guilty.position - damage.position)
    since = "" if lock.locked_at is None else f", {steps(damage.step - lock.locked_at)} before"
    return f"position {guilty.position} {quoted(lock.locked)}, {positions(distance)} away: {lock_line(lock)}{since}"


def lock_line(lock: Position) -> str:
    """Everything known of a lock."""
    if lock.locked_at is None:
        return "never locked"
    # Of a prompt position too: it is visible from the first forward on.
    age = "a ghost, locked before its token was an input" if lock.is_ghost else f"age {lock.age_at_lock}"
    numbers = [
        f"{name} {value:.1e}" if value else f"{name} 0"
        for name, value in (("KL", lock.kl_at_lock), ("u", lock.uncertainty_at_lock))
        if value is not None
    ]
    return ", ".join([f"locked in step {lock.locked_at}", age, *numbers])


def quoted(token: str) -> str:
    """A token in quotes, line feeds shown."""
    return f"“{visible_break(token)}”"


def visible_break(token: str) -> str:
    """A token on one line."""
    return token.replace("\n", "⏎").replace("\t", "⇥")


def steps(num: int) -> str:
    """So many steps."""
    return f"{num} step" if num == 1 else f"{num} steps"


def positions(num: int) -> str:
    """So many positions."""
    return f"{num} position" if num == 1 else f"{num} positions"
