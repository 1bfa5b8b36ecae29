"""Small programs that measure graphflow, one workload each; every one checks its answer and prints one JSON line."""
