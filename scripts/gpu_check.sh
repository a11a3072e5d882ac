#!/usr/bin/env bash
# All that is to be checked and measured on a machine with a GPU, in one go and in less than 8 minutes:
#   (a) the tests of tests/gpu, (b) scripts/benchmarks/benchmark_gpu.py, (c) training for the time that is left.
# Needs a checkout and PyTorch with CUDA; other packages come from WHEELS where they are missing. Nothing is installed
# outside of WORK, and nothing is downloaded. Without its largest unused parts the checkout takes 40 MiB:
#   git archive -o checkout.tar HEAD ':!docs' ':!bundles/head_mr_t1_2mm*'
#
#   OUT=results [WHEELS=dir] [DATA=dir] [RESUME=dir] scripts/gpu_check.sh [--tests S] [--benchmark S] [--total S] [--device cuda]
#
# --tests, --benchmark: seconds for these parts, 0 leaves one out (default 170 each); --total: for all (default 460).
# OUT    folder for what is written: files of at most 15 MiB
# WHEELS folder of wheels of MONAI, ignite, nibabel and so on, with what they depend on
# DATA   folder written by scripts/pack_training_data.py; without it nothing is trained
# RESUME the folder train/ of an earlier OUT, from where training goes on
# SET    brain_mr (default) or body_ct; BATCH, EPOCH: patches a batch and batches an epoch (default 32, 100)
# WORK   scratch folder (default OUT/work, removed at the end)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD" tests=170 benchmark=170 total=460 device=cuda
fail() { echo "gpu_check: $*" >&2; exit 2; }
while (($#)); do
    case "$1" in
    --tests | --benchmark | --total) [[ "${2:-}" =~ ^[0-9]+$ ]] || fail "$1 takes a number of seconds"; printf -v "${1#--}" %s "$2" ;;
    --device) device="${2:-}" ;;
    *) fail "unknown argument $1; expected --tests, --benchmark, --total or --device" ;;
    esac
    shift 2
done
[[ -n "${OUT:-}" ]] || fail "OUT is not set; give a folder for the results"
python="${PYTHON:-python3}"
"$python" -c 'import torch' 2>/dev/null || fail "PyTorch cannot be imported by $python; set PYTHON"
if [[ "$device" == cuda* ]] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    fail "PyTorch finds no CUDA device; this script needs one"
fi
mkdir -p "$OUT" || exit 2
OUT="$(cd "$OUT" && pwd)"
work="${WORK:-$OUT/work}" keep="${WORK:+yes}"
mkdir -p "$work/site" "$work/train" || exit 2
trap '[[ -n "$keep" ]] || rm -rf "$work"' EXIT
left() { echo $((total - SECONDS)); }
least() { echo $(($1 < $2 ? $1 : $2)); }

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" DIFFRECON_CACHE_DIR=off MLFLOW_DISABLE_TELEMETRY=true
missing() {
    "$python" -c 'import importlib.util, sys; print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m) is None))' \
        monai ignite nibabel numpy scipy einops entrypoints h5py pydicom itk skimage pydantic yaml jinja2 platformdirs \
        filelock psutil tqdm fire mlflow matplotlib pytest pytest_timeout setuptools
}
lacking="$(missing)"
if [[ -n "$lacking" && -n "${WHEELS:-}" ]]; then
    # torch stays as it is; what is there already is covered by the same version, or by the wheel.
    find "$WHEELS" -name '*.whl' ! -name 'torch-*' ! -name 'nvidia_*' ! -name 'triton-*' -print0 |
        xargs -0 -r "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$work/site" ||
        fail "the wheels in WHEELS cannot be installed"
    export PYTHONPATH="$PYTHONPATH:$work/site"
    lacking="$(missing)"
fi
[[ -z "$lacking" ]] || fail "missing: $lacking; put their wheels into a folder and set WHEELS"
# Entry points of the checkout, without installing it.
"$python" -c 'import setuptools, sys; setuptools.setup(script_args=["-q", "egg_info", "--egg-base", sys.argv[1]])' \
    "$work/site" >/dev/null 2>&1 || fail "the entry points of the checkout cannot be written"
[[ ":$PYTHONPATH:" == *":$work/site:"* ]] || export PYTHONPATH="$PYTHONPATH:$work/site"
command -v nvidia-smi >/dev/null && nvidia-smi -L >"$OUT/device.txt"
"$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)' >>"$OUT/device.txt"

status=0
if ((tests > 0)); then
    echo "gpu_check: tests, at most $tests s"
    DIFFRECON_TEST_DEVICE="$device" timeout "$tests" "$python" -m pytest -q -p no:cacheprovider tests/gpu \
        >"$OUT/tests.txt" 2>&1 || status=1
    tail -n 3 "$OUT/tests.txt"
fi
limit="$(least "$benchmark" "$(left)")"
if ((limit > 20)); then
    echo "gpu_check: benchmark, at most $limit s"
    timeout "$limit" "$python" -W ignore scripts/benchmarks/benchmark_gpu.py --out "$OUT" --device "$device" \
        --seconds $((limit - 20)) ${BENCHMARK_OPTIONS:-} >"$OUT/benchmark.txt" 2>&1 || status=1
    tail -n 12 "$OUT/benchmark.txt"
fi
limit=$(($(left) - 15))
if [[ -z "${DATA:-}" ]]; then
    echo "gpu_check: no training, since DATA is not set"
elif ((limit > 30)); then
    set="${SET:-brain_mr}"
    [[ "$set" == brain_mr ]] && bundle=bundles/brain_mr_t1_coronal || bundle=bundles/body_ct_axial
    [[ -n "${RESUME:-}" ]] && cat "$RESUME"/checkpoint.pt.part-* >"$work/train/checkpoint.pt"
    [[ -n "${RESUME:-}" && -f "$RESUME/history.jsonl" ]] && cp "$RESUME/history.jsonl" "$work/train/"
    echo "gpu_check: training of $set, $limit s"
    # Training is stopped by the clock: what counts is the last complete epoch.
    timeout --signal=INT --kill-after=10 "$limit" "$python" -W ignore -m monai.bundle run \
        --config_file "['$bundle/configs/train.json','scripts/training/$set.json']" --bundle_root "$bundle" \
        --datalist "$(cd "$DATA" && pwd)/datalist.json" --output_dir "$work/train" --device "\$torch.device('$device')" \
        --pretrained "scripts/training/$set.pt" --precision bfloat16 \
        --batch_size "${BATCH:-32}" --epoch_length "${EPOCH:-100}" >"$OUT/train.txt" 2>&1
    if [[ -f "$work/train/checkpoint.pt" ]]; then
        mkdir -p "$OUT/train"
        rm -f "$OUT/train/"checkpoint.pt.part-*
        split --bytes=15M "$work/train/checkpoint.pt" "$OUT/train/checkpoint.pt.part-"
        cp "$work/train/"{model.pt,history.jsonl} "$OUT/train/"
        tail -n 1 "$OUT/train/history.jsonl"
    else
        echo "gpu_check: no epoch was completed; see train.txt" >&2
        status=1
    fi
fi
echo "gpu_check: $SECONDS s, results in OUT, exit status $status"
exit "$status"
