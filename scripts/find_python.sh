#!/bin/sh
# Prints the Python to make .venv with: $PYTHON if set, else the best of those found.
# 3.11 to 3.13 are best: all parts work there. On later ones the core works.

fits() { # interpreter, condition on its version; a shim that cannot run does not fit
  "$1" -c "import sys, venv, ensurepip; v = sys.version_info[:2]; sys.exit(not ($2))" 2>/dev/null
}

if [ -n "$PYTHON" ]; then
  fits "$PYTHON" "v >= (3, 11)" && echo "$PYTHON" && exit
  echo "error: PYTHON=$PYTHON is not a working Python of version 3.11 or later with venv and pip" \
    "(on Debian: the package python3-venv)." >&2
  exit 1
fi
for python in python3 python3.11 python3.12 python3.13; do
  fits "$python" "(3, 11) <= v <= (3, 13)" && echo "$python" && exit
done
for python in python3 python3.14; do
  fits "$python" "v >= (3, 14)" && echo "$python" && exit
done
echo "error: no Python 3.11, 3.12 or 3.13 with venv and pip was found (on Debian: the packages python3" \
  "and python3-venv); install one, or name it: make PYTHON=/path/to/python3.11 …" >&2
exit 1
