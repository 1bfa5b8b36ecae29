#!/usr/bin/env bash
# pydantic-core 2.50.5 (that of pydantic 2.14.4), pydantic_core.from_json(text, allow_inf_nan=False).
#
# A good guess: what is parsed with allow_inf_nan=False holds no infinite number. Only the words NaN, Infinity and
# -Infinity are refused; a number beyond a float, as 1e400, is parsed as inf, and -1e400 as -inf. Writing the value again
# with to_json(..., inf_nan_mode="constants") gives text that the same parser then refuses.
#
# Seen:
#   1e400 -> inf
#   -1e400 -> -inf
#   Infinity -> ValueError
#   written again: Infinity
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pydantic==2.14.4"
"$folder/venv/bin/python" - <<'PY'
import pydantic_core

seen = []
for text in ("1e400", "-1e400", "Infinity"):
    try:
        seen.append(f"{text} -> {pydantic_core.from_json(text, allow_inf_nan=False)}")
    except ValueError:
        seen.append(f"{text} -> ValueError")
value = pydantic_core.from_json("1e400", allow_inf_nan=False)
seen.append("written again: " + pydantic_core.to_json(value, inf_nan_mode="constants").decode())
print("pydantic-core", pydantic_core.__version__, *seen, sep="\n")
assert seen == ["1e400 -> inf", "-1e400 -> -inf", "Infinity -> ValueError", "written again: Infinity"], seen
PY
