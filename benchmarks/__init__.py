"""What does graphflow cost, and what do others cost on the same machine? Programs that measure; none of them asserts a time.

workloads.py    what is to be done: the items, what happens to each, the answer that it must come to
lineup.py       who does it, and how many items of which workload each is given
contestants/    one file for each: the same work as its documentation would have it done
once.py         one contestant, one workload, one count: checks the answer, prints one JSON line
rounds.py       many of these in turn, each a process of its own beside a fresh server
__main__.py     the whole: `python -m benchmarks`; tables.py and picture.py show what came out
"""
