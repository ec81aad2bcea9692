"""Many runs: cross-validation, search, run table, reproduction of the reference."""
