#!/usr/bin/env bash
# pydantic 2.12.5 and 2.13.3, pydantic_core.to_json(float).
#
# A good guess: within one major version, the JSON text of a plain float stays the same, so a digest or a cache key may be
# made of it. From 2.13 on the exponent of large floats is written with a sign. Both texts are read as the same number.
#
# Seen:
#   2.12.5: 1e16, 2.5e20, 1e-7
#   2.13.3: 1e+16, 2.5e+20, 1e-7
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
text_of() { # VERSION
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pydantic==$1"
  "$folder/venv/bin/python" -c '
import pydantic, pydantic_core
texts = ", ".join(pydantic_core.to_json(number).decode() for number in (1e16, 2.5e20, 1e-7))
print(f"{pydantic.VERSION}: {texts}")'
}
seen=$(text_of 2.12.5; text_of 2.13.3)
echo "$seen"
test "$seen" = "2.12.5: 1e16, 2.5e20, 1e-7
2.13.3: 1e+16, 2.5e+20, 1e-7"
