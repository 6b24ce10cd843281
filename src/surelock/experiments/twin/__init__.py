"""`surelock eval twin`: tables, pictures and sentences from what `surelock.eval.twin` measures."""

from surelock.experiments.twin.result import twin_result

__all__ = ["twin_result"]
