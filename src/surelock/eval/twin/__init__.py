"""What locking really does to the others: the same unmasking decisions with locks and without, step by step."""

from surelock.eval.twin.guilty import Blame, Flip, LockEffect, Scene, find_guilty, find_guilty_of_choice, lock_effects
from surelock.eval.twin.lockstep import LockedSide, Locks, TwinStep, self_paced, teacher_forced
from surelock.eval.twin.measure import Effort, Measurement
from surelock.eval.twin.records import LOCK_CLASSES, TwinRecord
from surelock.eval.twin.run import run_twin

__all__ = [
    "LOCK_CLASSES",
    "Blame",
    "Effort",
    "Flip",
    "LockEffect",
    "LockedSide",
    "Locks",
    "Measurement",
    "Scene",
    "TwinRecord",
    "TwinStep",
    "find_guilty",
    "find_guilty_of_choice",
    "lock_effects",
    "run_twin",
    "self_paced",
    "teacher_forced",
]
