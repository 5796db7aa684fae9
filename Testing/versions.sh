#!/usr/bin/env bash
# Runs the tests on other versions than the pinned ones, in an environment of their own, and prints the row for the
# table in README.md. Every requirement named here takes the place of its line in constraints.txt:
#   Testing/versions.sh python3.12
#   Testing/versions.sh python3.10 torch==2.2.2 numpy==1.26.4 pyjpegls==1.4.0 "monai<1.5"
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?"usage: Testing/versions.sh PYTHON [REQUIREMENT...]"}
shift

venv=$(printf '%s-' .venv "$(basename "$python")" "$@" | tr -c 'A-Za-z0-9.-' _)
venv=${venv%-}
mkdir -p "$venv"
new=$(cat constraints.txt)
for requirement in "$@"; do
  new=$(grep -v -i "^${requirement%%[<>=!~]*}[<>=!~]" <<< "$new"; echo "$requirement")
done
constraints=$venv/constraints.txt
[[ -f $constraints && $(cat "$constraints") == "$new" ]] || echo "$new" > "$constraints"

failed=0
make test PYTHON="$python" VENV="$venv" CONSTRAINTS="$constraints" | tee "$venv/log" || failed=1
"$venv/bin/python" - "$(tail -1 "$venv/log")" <<'END'
import platform
import sys

import numpy
import torch

print(f"| {platform.python_version()} | {torch.__version__} | {numpy.__version__} | {platform.platform()} | {sys.argv[1]} |")
END
exit $failed
