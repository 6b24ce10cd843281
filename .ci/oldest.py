"""Prints pip constraints that pin every direct dependency to the oldest version pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
    for requirement in requirements:
        # The project's own extras have no version.
        if bound := re.match(r"([\w-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement):
            print(f"{bound[1]}=={bound[2]}")
