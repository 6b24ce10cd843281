"""The experiments of the paper (arXiv 2602.06412), in the order of their numbers."""

from typing import Any, Final

from studies.paper.flops_curves import STUDY as FLOPS_CURVES
from studies.paper.flops_table import STUDY as FLOPS_TABLE
from studies.paper.quality import STUDY as QUALITY
from studies.paper.selection import STUDY as SELECTION
from studies.paper.thresholds import STUDY as THRESHOLDS
from studies.paper.throughput import STUDY as THROUGHPUT
from studies.study import Study

STUDIES: Final[tuple[Study[Any], ...]] = (FLOPS_TABLE, FLOPS_CURVES, QUALITY, THROUGHPUT, SELECTION, THRESHOLDS)
