"""One file for each experiment: whatever module here has an `EXPERIMENT` is one."""
