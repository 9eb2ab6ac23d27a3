#!/usr/bin/env bash
# Runs what needs a CUDA device: the tests of tests/device/, then the benchmark of saves from a device.
#
#   tools/gpu_checks.sh RESULTS [DIRECTORY]
#
# RESULTS is a folder that gets what both print, the benchmark's JSON, and what the machine is.
# DIRECTORY is where the benchmark saves, by default the system's temporary folder.
# Nothing is installed or fetched: PYTHON (python3) has torch, pytest and what pyproject.toml names, and of the
# packages that ours is timed beside those that are to be in the table.
# TESTS_S and BENCH_S are how long each may take, in seconds; ROUNDS how often each save is timed.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 2; }
mkdir -p "$1"
results=$(cd "$1" && pwd)
directory=${2:+$(cd "$2" && pwd)} || exit 2
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

{
    nvidia-smi
    "$python" -VV
    "$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.get_device_name())'
    df -h "${directory:-${TMPDIR:-/tmp}}"
} 2>&1 | tee "$results/machine.txt"

many=()
if "$python" -c 'import xdist' 2> /dev/null; then
    many=(-n "$((($(nproc) + 1) / 2))")
fi
# What has failed so far is printed when the time is up, too.
timeout -s INT -k 10 "${TESTS_S:-600}" "$python" -m pytest tests/device -p no:cacheprovider -p no:benchmark \
    "${many[@]}" --maxfail=50 --durations=8 --tb=short 2>&1 | tee "$results/tests.txt"
tests=$?

timeout -k 5 "${BENCH_S:-600}" "$python" -m benchmarks device --rounds "${ROUNDS:-5}" \
    ${directory:+--directory "$directory"} --json "$results/benchmarks.json" 2>&1 | tee "$results/benchmarks.txt"
benchmarks=$?

echo "tests: exit code $tests, benchmark: exit code $benchmarks, in $results"
[ $tests = 0 ] && [ $benchmarks = 0 ]
