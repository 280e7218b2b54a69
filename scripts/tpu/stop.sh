#!/usr/bin/env bash
# Asks the run of this worker to save and to end; the run agrees with the other workers on the step.
set -euo pipefail
cd "$(dirname "$0")/../.."

touch run.lock
if flock --nonblock run.lock true; then
  echo "$(hostname): nothing runs"
else
  kill -TERM "$(cat run.pid)"
  echo "$(hostname): asked process $(cat run.pid) to stop; run.log tells when it has"
fi
