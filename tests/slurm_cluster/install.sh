#!/bin/bash
# Installs what the real SLURM of the tests needs, from Debian's or Ubuntu's packages, where it is missing. Needs root.
set -euo pipefail
PACKAGES="slurm-wlm slurmctld slurmd slurmdbd munge mariadb-server iproute2"
PROGRAMS="slurmctld slurmd slurmdbd sbatch munged munge mariadbd mariadb-install-db ip nsenter unshare runuser setpriv flock"

missing() { local p; for p in $PROGRAMS; do command -v "$p" >/dev/null || echo "$p"; done; }
fail() { echo "install.sh: $*" >&2; exit 1; }

# apt SECONDS ARGUMENT...: quiet, except for what went wrong
apt() {
  local last=$1 output; shift
  output=$(timeout "$last" apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 "$@" 2>&1 </dev/null) \
    || fail "apt-get $1 failed or took more than $last s: $(echo "$output" | tail -n 3 | tr '\n' ' ')"
}

[ -n "$(missing)" ] || exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "only root on Debian or Ubuntu can install $PACKAGES"
echo "install.sh: installing $PACKAGES" >&2
export DEBIAN_FRONTEND=noninteractive
# Nothing of it is to run as this machine's service: up.sh starts its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy
fi
apt 300 update
# shellcheck disable=SC2086
apt 600 install -y --no-install-recommends $PACKAGES
left=$(missing); [ -z "$left" ] || fail "the packages are there, but not the programs $(echo $left)"
