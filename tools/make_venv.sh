#!/bin/sh
# make_venv.sh DIRECTORY [PYTHON]: a virtual environment with pip, from the first Python that is new enough.
set -eu
directory=$1
wanted=${2:-}

new_enough() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

python=
for candidate in ${wanted:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
    if new_enough "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Penstock needs Python 3.11 or newer; none of ${wanted:-python3, python3.11 .. python3.14, python} is." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
fi

if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    exec "$python" -m venv --clear "$directory"
fi
# Debian and Ubuntu ship venv apart from python3.
if command -v uv >/dev/null 2>&1; then
    exec uv venv --quiet --clear --seed --python "$python" "$directory"
fi
if "$python" -m virtualenv --version >/dev/null 2>&1; then
    exec "$python" -m virtualenv --quiet "$directory"
fi
if "$python" -c 'import venv' 2>/dev/null && "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear --without-pip "$directory"
    exec "$python" -m pip --python "$directory/bin/python" install --quiet pip
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
echo "$python has no ensurepip, so it cannot make a virtual environment." >&2
echo "On Debian or Ubuntu: apt-get install python$version-venv" >&2
exit 1
