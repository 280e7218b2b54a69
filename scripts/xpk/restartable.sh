#!/usr/bin/env bash
# Runs a command and hands SIGTERM on to it; having done so it ends with 143, even where the command
# saved and ended well: Kubernetes would take 0 for the end of the run, and not start it again.
"$@" &
child=$!
asked=
trap 'asked=yes; kill -TERM "$child"' TERM
while wait "$child"; kill -0 "$child" 2>/dev/null; do :; done # a signal ends a wait early
wait "$child"
status=$?
[ -z "$asked" ] || exit 143
exit "$status"
