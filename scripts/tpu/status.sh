#!/usr/bin/env bash
# One line about this worker: whether it trains, and the end of its log.
cd "$(dirname "$0")/../.." || exit
touch run.lock run.log
if flock --nonblock run.lock true; then state='nothing runs'; else state="trains, process $(cat run.pid)"; fi
echo "$(hostname): $state; $(tail -n 1 run.log)"
