#!/usr/bin/env bash
# A run on Google Kubernetes Engine, through XPK (pip install xpk): an example to start from.
#   scripts/xpk/gke.sh cluster            makes a cluster with one slice, and a disk that all hosts share
#   scripts/xpk/gke.sh image              builds the image of this checkout, as committed, and pushes it
#   scripts/xpk/gke.sh run FLAG …         starts a run; after --max-restarts or `stop`, goes on with it
#   scripts/xpk/gke.sh logs | stop | delete
# PROJECT, ZONE, CLUSTER, TYPE (v5litepod-64), IMAGE (REGION-docker.pkg.dev/PROJECT/NAME/hyperjax) and
# WORKLOAD are environment variables; CAPACITY is --spot, --on-demand (the default) or --reservation=….
# DRY_RUN=1 prints the commands and runs none. The FLAGs are those of hyperjax.train.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
  echo "error: $1" >&2
  exit 1
}

run() { # prints a command as a shell reads it, and runs it
  printf '%q ' "$@"
  echo
  if [ -z "${DRY_RUN:-}" ]; then "$@"; fi
}

for name in PROJECT ZONE CLUSTER; do
  [ -n "${!name:-}" ] || fail "$name is not set; the head of scripts/xpk/gke.sh says what it is"
done
needs() { [ -n "${!1:-}" ] || fail "$verb needs $1 in the environment"; }

verb=${1:-}
[ $# = 0 ] || shift
where=(--cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE")
capacity=${CAPACITY:---on-demand}

case $verb in
  cluster)
    needs TYPE
    run xpk cluster create "${where[@]}" --tpu-type="$TYPE" --num-slices=1 "$capacity" \
      --enable-gcpfilestore-csi-driver
    run xpk storage create shared "${where[@]}" --type=gcpfilestore --vol=share --size=1024 \
      --tier=BASIC_HDD --access-mode=ReadWriteMany --mount-point=/mnt/shared --readonly=false \
      --auto-mount=true
    ;;
  image)
    needs IMAGE
    # shellcheck disable=SC2016
    run bash -c 'git archive HEAD | docker build --tag="$0" --file=scripts/xpk/Dockerfile -' "$IMAGE"
    run docker push "$IMAGE"
    ;;
  run)
    needs TYPE && needs IMAGE && needs WORKLOAD
    [ $# != 0 ] || fail 'run needs the flags of hyperjax.train, such as --gin_file=gin/runs/mtf.gin'
    command="exec scripts/xpk/restartable.sh python -m hyperjax.train$(printf ' %q' "$@")"
    # 1: a process whose neighbour was lost; all are started again, from the latest checkpoint.
    run xpk workload create "${where[@]}" --workload="$WORKLOAD" --tpu-type="$TYPE" --num-slices=1 \
      "$capacity" --docker-image="$IMAGE" --max-restarts=50 --restart-on-exit-codes=1 \
      --termination-grace-period-seconds=120 --command="$command"
    ;;
  logs)
    needs WORKLOAD
    run kubectl logs --follow --tail=100 \
      --selector="jobset.sigs.k8s.io/jobset-name=$WORKLOAD,batch.kubernetes.io/job-completion-index=0"
    ;;
  stop)
    needs WORKLOAD
    run xpk workload delete "${where[@]}" --workload="$WORKLOAD"
    ;;
  delete) run xpk cluster delete "${where[@]}" ;;
  *) fail "'$verb' is none of cluster, image, run, logs, stop, delete" ;;
esac
