"""`python -m benchmarks` from the tests folder: what chatledger costs, measured beside what it stands on."""
