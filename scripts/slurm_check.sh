#!/usr/bin/env bash
# A cohort on a real SLURM: one controller and one node on this computer, started here and stopped at the end.
# Six cases as an array of shards, and through dask-jobqueue; in both a job is cancelled in the middle of a case and
# requeued. The tables and voxels must be those of a serial run.
#
#   sudo scripts/slurm_check.sh [--install] [--write]
#
# --install  installs Debian's slurm-wlm and munge, and dask-jobqueue, first
# --write    writes the transcript to docs/results/cluster.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"

install=0 write=0
for word in "$@"; do
    case "$word" in
        --install) install=1 ;;
        --write) write=1 ;;
        *) echo "error: unknown argument $word" >&2 && exit 2 ;;
    esac
done
if [[ $(id -u) != 0 ]]; then
    echo "error: slurmd and munged need root; run it with sudo or in a container" >&2
    exit 2
fi
if ((install)); then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurm-wlm munge >/dev/null
fi
for tool in munged slurmctld slurmd sbatch; do
    command -v "$tool" >/dev/null || { echo "error: no $tool; run it with --install" >&2 && exit 2; }
done
if ! command -v diffrecon >/dev/null; then
    source scripts/_setup.sh
fi
if ((install)); then
    python -m pip install --quiet -c constraints.txt dask-jobqueue
fi
python -c "import dask_jobqueue" 2>/dev/null || { echo "error: no dask-jobqueue; run it with --install" >&2 && exit 2; }
export OMP_NUM_THREADS=1

work="$(mktemp -d /tmp/slurm_check.XXXXXX)"
log="$work/transcript"
say() { echo "$*" | sed "s#$work/##g" | tee -a "$log"; }
show() { # a command as a reader would type it, and what it says
    say "\$ $*"
    # The warning about one plane, and job numbers that Dask logs, are not the subject.
    "$@" 2>&1 | grep -vE "^(case [a-z0-9]+: |[0-9-]+ [0-9:,]+ - )" | sed "s#$work/##g" | tee -a "$log" || return "${PIPESTATUS[0]}"
}
wait_for() { # at most so many seconds, for a command to succeed
    local left="$1"
    shift
    until "$@" >/dev/null 2>&1; do
        ((left--)) || { echo "error: waited too long for: $*" >&2 && return 1; }
        sleep 1
    done
}

stop() {
    local code=$?
    [[ -f "$work/slurm.conf" ]] && scancel --user=root 2>/dev/null && sleep 2
    for name in slurmd slurmctld munge; do
        [[ -f "$work/$name.pid" ]] && kill "$(cat "$work/$name.pid")" 2>/dev/null
    done
    if ((code)); then
        echo "failed; see $work" >&2
    else
        sleep 1
        rm -rf "$work"
    fi
}
trap stop EXIT

# --- munge and SLURM, with everything in the temporary folder
mkdir -p "$work"/{state,spool,logs,munge}
chmod 755 "$work"
chmod 700 "$work/munge"
dd if=/dev/urandom of="$work/munge/key" bs=128 count=1 status=none
chmod 400 "$work/munge/key"
munged --force --key-file="$work/munge/key" --socket="$work/munge.socket" --pid-file="$work/munge.pid" \
    --log-file="$work/munge/log" --seed-file="$work/munge/seed" 2>/dev/null
host="$(hostname -s)"
cat >"$work/slurm.conf" <<CONF
ClusterName=check
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MinJobAge=3600
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=check Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
wait_for 60 bash -c 'sinfo -h -o %T | grep -q idle'

# --- six cases, two methods
python - "$work" "$root" <<'PYTHON'
import json
import sys
from pathlib import Path

import torch

from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume

work, root = map(Path, sys.argv[1:])
shape = (48, 48, 40)
for seed in range(6):
    noise = torch.rand((1, *shape), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool3d(noise, 5, stride=1, padding=2)
    write_volume(work / f"scan{seed}.nii.gz", 500 * smooth, geometry_of(shape))
shared = {"bundle": str(root / "bundles/brain_mr_t1_axial"), "task": "z_super_resolution", "auxiliary_bundle": "none"}
content = {
    "cases": [{"image": f"scan{seed}.nii.gz", "name": f"case{seed + 1}"} for seed in range(6)],
    "methods": [
        {"label": "Cubic", "preset": "cubic", **shared},
        {"label": "Diffusion", "overrides": {"sampler#steps": 12, "device": "cpu"}, **shared},
    ],
    "simulate": {"noise": 0.01},
}
(work / "cohort.json").write_text(json.dumps(content))
PYTHON

same_as_serial() { # tables without costs and status, and the voxels
    python - "$work/serial" "$1" <<'PYTHON'
import csv
import hashlib
import sys
from pathlib import Path

COSTS = {"status", "seconds", "peak_memory"}


def content(folder: Path) -> dict:
    found = {}
    for name in ("cases", "summary", "differences"):
        rows = [{k: v for k, v in row.items() if k not in COSTS} for row in csv.DictReader((folder / f"{name}.csv").open())]
        found[name] = [row for row in rows if row.get("metric") not in COSTS]
    files = sorted(folder.glob("*/*_recon.nii.gz"))
    return found | {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


serial, other = (content(Path(word)) for word in sys.argv[1:])
assert len(serial["cases"]) == 12 and len(serial) == 15
if serial != other:
    sys.exit("error: not equal to the serial run: " + ", ".join(k for k in serial if serial[k] != other.get(k)))
print("tables and voxels of 6 cases and 2 methods: equal to the serial run")
PYTHON
}
evaluate=(diffrecon evaluate --config "$work/cohort.json" --no-tracking --checkpoint-every 1)
running() { squeue -h -o %i -t running "$@"; }
of_case() { ls "$work/$1"/diffusion/*_checkpoint.pt | head -1 | xargs -n1 basename | sed 's/_checkpoint.pt//'; }

say "# SLURM $(slurmctld -V | cut -d' ' -f2), $(sinfo -h -o '%D node, %c CPUs')"
say
say "# The cohort by one process"
show "${evaluate[@]}" --output "$work/serial"

say
say "# The same as an array of shards"
cat >"$work/array.sh" <<JOB
#!/bin/bash
#SBATCH --array=1-6 --ntasks=1 --cpus-per-task=1 --mem=1500 --requeue --open-mode=append --output=$work/logs/shard-%a.log
exec ${evaluate[*]} --output $work/array --shard \$SLURM_ARRAY_TASK_ID/\$SLURM_ARRAY_TASK_COUNT
JOB
sed "s#$work/##g" "$work/array.sh" | tee -a "$log"
id="$(sbatch --parsable "$work/array.sh")"
say "\$ sbatch array.sh"
wait_for 300 test -f "$work/array/diffusion/case1_checkpoint.pt"
sleep 1
show scontrol requeue "${id}_1"
say "# job ${id}_1 was cancelled in the middle of a case, and is queued again"
wait_for 900 bash -c "! squeue -h -o %i | grep -q ."
say "\$ cat logs/shard-1.log"
{ grep -vE "^case " "$work/logs/shard-1.log" | sed "s#$work/##g" | tee -a "$log"; } || true
show "${evaluate[@]}" --output "$work/array"
show same_as_serial "$work/array"
python - "$work/array/diffusion/case1_recon.provenance.json" <<'PYTHON' | tee -a "$log"
import json
import sys

report = json.load(open(sys.argv[1]))["report"]
resumed = report["execution"]["resumed"]
print("# case1 was resumed from its checkpoint, times:", resumed)
assert resumed >= 1
PYTHON

say
say "# The same through dask-jobqueue, one job per worker"
options='{"cores": 1, "memory": "1500MB", "interface": "lo", "walltime": "01:00:00", "log_directory": "'$work/logs'", "job_extra_directives": ["--requeue"]}'
dask=("${evaluate[@]}" --output "$work/dask" --executor dask --executor-option cluster=slurm --executor-option workers=2)
(
    wait_for 300 bash -c "ls $work/dask/diffusion/*_checkpoint.pt"
    sleep 1
    scontrol requeue "$(running --name=dask-worker | head -1)" && touch "$work/requeued"
) &
killer=$!
show "${dask[@]}" --executor-option "options=$options"
wait "$killer"
test -f "$work/requeued"
say "# one of the jobs was cancelled and requeued in the middle of a case"
show same_as_serial "$work/dask"

if ((write)); then
    {
        echo "# A cohort on SLURM"
        echo
        echo "Written by \`scripts/slurm_check.sh --write\`: Debian's SLURM with one controller and one node on one computer, a"
        echo "cohort of six small cases with two methods. In each way, one job is killed in the middle of a case and queued again."
        echo
        echo '```console'
        cat "$log"
        echo '```'
    } >docs/results/cluster.md
fi
