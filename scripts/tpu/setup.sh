#!/usr/bin/env bash
# Makes .venv of this checkout, for TPUs, on one worker; mounts SERVER:/SHARE if it is given.
#   scripts/tpu/setup.sh [SERVER:/SHARE]      # seen as /mnt/shared
set -euo pipefail
cd "$(dirname "$0")/../.."

apt() { # the machine may still be busy with updates of its own
  sudo DEBIAN_FRONTEND=noninteractive apt-get --option DPkg::Lock::Timeout=600 --quiet --yes "$@"
}

if [ $# = 1 ] && ! mountpoint --quiet /mnt/shared; then
  apt update
  apt install nfs-common
  sudo mkdir -p /mnt/shared
  sudo mount -t nfs -o hard "$1" /mnt/shared
fi

# Images with Ubuntu 22.04 have Python 3.10, which is too old.
if ! python=$(sh scripts/find_python.sh 2>/dev/null); then
  sudo add-apt-repository --yes ppa:deadsnakes/ppa
  apt update
  apt install python3.12 python3.12-venv
  python=python3.12
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[tpu,seqio,gcs]'
echo "$(hostname): installed"
