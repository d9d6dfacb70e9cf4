#!/bin/bash
# Installs what the real SLURM of the tests needs, from Debian's or Ubuntu's packages. Does nothing when it is there,
# and says what is missing where it cannot help. Needs root.
set -euo pipefail
PACKAGES="slurm-wlm slurmctld slurmd slurmdbd munge mariadb-server iproute2"
have() { command -v slurmctld && command -v slurmd && command -v slurmdbd && command -v munged && command -v mariadbd && command -v ip; }
have >/dev/null 2>&1 && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "tests on the real SLURM are left out: as root on Debian or Ubuntu, run tests/slurm_cluster/install.sh" >&2
  exit 0
fi
echo "installing $PACKAGES" >&2
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d.slurmtune && chmod 755 /usr/sbin/policy-rc.d.slurmtune
made=; [ -e /usr/sbin/policy-rc.d ] || { mv /usr/sbin/policy-rc.d.slurmtune /usr/sbin/policy-rc.d; made=1; }  # no services started
trap 'rm -f /usr/sbin/policy-rc.d.slurmtune; [ -z "$made" ] || rm -f /usr/sbin/policy-rc.d' EXIT
timeout 300 apt-get update -qq >/dev/null
# shellcheck disable=SC2086
timeout 600 apt-get install -y -qq --no-install-recommends $PACKAGES >/dev/null
have >/dev/null 2>&1 || { echo "install.sh: packages are installed, but SLURM's programs are not on PATH" >&2; exit 1; }
