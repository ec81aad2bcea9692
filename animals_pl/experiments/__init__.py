"""Many runs: cross-validation, search, the run table, reproduction of the reference."""
