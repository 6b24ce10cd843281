"""Questions the paper left open, one file each, with `FINDING`: what `surelock experiment` calls and how it is run."""
