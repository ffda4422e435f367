#!/usr/bin/env bash
# Says what a machine lacks before anything is installed, and how to get it.
set -u
python=${1:-}
missing=0
say() { printf 'Missing: %s\n  %s\n' "$1" "$2" >&2; missing=1; }

if [ -z "$python" ]; then
  say "Python 3.11 or newer" "Debian/Ubuntu: apt install python3 python3-venv; or give one: make PYTHON=/path/to/python3.11 ..."
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  say "Python 3.11 or newer ($python is $("$python" -V 2>&1))" "Install one, or name it: make PYTHON=/path/to/python3.11 ..."
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  say "Python's venv module" "Debian/Ubuntu: apt install python3-venv"
fi
command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || command -v clang >/dev/null 2>&1 ||
  say "a C compiler" "Debian/Ubuntu: apt install gcc; Fedora: dnf install gcc"
exit $missing
