"""Questions the paper left open."""

from typing import Any, Final

from studies.open.adaptive import STUDY as ADAPTIVE
from studies.open.kv_drift import STUDY as KV_DRIFT
from studies.open.long_canvases import STUDY as LONG_CANVASES
from studies.open.noise_floor import STUDY as NOISE_FLOOR
from studies.open.oscillation import STUDY as OSCILLATION
from studies.open.refresh import STUDY as REFRESH
from studies.open.short_outputs import STUDY as SHORT_OUTPUTS
from studies.open.temperature import STUDY as TEMPERATURE
from studies.open.theorem import STUDY as THEOREM
from studies.open.twin import STUDY as TWIN
from studies.study import Study

STUDIES: Final[tuple[Study[Any], ...]] = (
    ADAPTIVE, KV_DRIFT, LONG_CANVASES, NOISE_FLOOR, OSCILLATION, REFRESH, SHORT_OUTPUTS, TEMPERATURE, THEOREM, TWIN,
)  # fmt: skip
