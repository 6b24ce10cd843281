"""The experiments of the paper (arXiv 2602.06412), in the order of their numbers."""

from typing import Final

from studies.paper import flops, quality, selection, throughput
from studies.study import Study

STUDIES: Final[tuple[Study, ...]] = (
    flops.TABLE, flops.CURVES, quality.QUALITY, throughput.STUDY, selection.STUDY, quality.THRESHOLDS,
)  # fmt: skip
