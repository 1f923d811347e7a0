"""Studies: one file for each `speechssm evaluate` command."""
