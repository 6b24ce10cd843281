"""Held-out text: prompts with what really follows them, and problems of filling a gap."""

from surelock.measure.text.infilling import InfillProblem, load_infill
from surelock.measure.text.prompts import TextPrompt, load_text

__all__ = ["InfillProblem", "TextPrompt", "load_infill", "load_text"]
