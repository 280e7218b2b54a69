#!/usr/bin/env bash
# Starts hyperjax.train on this worker, detached from the connection, once: scripts/tpu/start.sh FLAG …
set -euo pipefail
cd "$(dirname "$0")/../.."

exec 9>>run.lock # the run inherits it, and holds it for as long as it lives
if ! flock --nonblock 9; then
  echo "error: $(hostname) trains already, as process $(cat run.pid); stop it first, or follow run.log" >&2
  exit 1
fi
setsid nohup .venv/bin/python -m hyperjax.train "$@" >>run.log 2>&1 </dev/null &
echo $! >run.pid
echo "$(hostname): started, process $(cat run.pid); run.log tells the rest"
